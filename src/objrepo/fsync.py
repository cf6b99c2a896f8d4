"""Making writes durable: fsync of files and of the directories that name them."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import IO, Any, Final

from objrepo.errors import with_path

__all__ = ("fsync_directory", "fsync_file", "start_write_back")

_log: Final = logging.getLogger("objrepo")

# CIFS, VirtualBox's shared folders, sshfs and some other FUSE file systems have no fsync of directories.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_reported: set[int] = set()  # the device numbers of the file systems that were logged
_report_lock: Final = threading.Lock()


def fsync_file(file: IO[Any]) -> None:
    """Write an open file's data to stable storage."""
    file.flush()
    try:
        import fcntl

        full = fcntl.F_FULLFSYNC  # type: ignore[attr-defined,unused-ignore]  # macOS: `fsync` stops at the disk's cache
    except (ImportError, AttributeError):
        os.fsync(file.fileno())
        return
    try:
        fcntl.fcntl(file.fileno(), full)
    except OSError as error:
        if error.errno not in _UNSUPPORTED | {errno.ENOTTY}:
            raise
        os.fsync(file.fileno())  # network file systems have no F_FULLFSYNC


def fsync_directory(folder: Path) -> None:
    """Write a directory's entries to stable storage. Windows has no such call and does not need it.

    A file system that does not support it is logged once at WARNING.

    :raises OSError: if the directory cannot be written.
    """
    flag = getattr(os, "O_DIRECTORY", None)
    if flag is None:
        return
    descriptor = os.open(folder, os.O_RDONLY | flag)
    try:
        with with_path(folder):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _report_unsupported(folder, os.fstat(descriptor).st_dev, error)
    finally:
        os.close(descriptor)


def start_write_back(file: Any, start: int, size: int) -> None:
    """Start writing a part of a file to the disk in the background, which shortens the fsync at the end.

    Linux starts it for a part that it is told will not be needed soon. To hash, write and fsync 64 MiB took 60 ms with
    it and 83 ms without (``benchmarks/``). On systems without the call this does nothing.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)


def _report_unsupported(folder: Path, device: int, error: OSError) -> None:
    with _report_lock:
        if device in _reported:
            return
        _reported.add(device)
    _log.warning(
        "the file system of %s does not support fsync of directories (%s): after a power failure, files that were "
        "just created there may be missing; a local file system such as ext4 or XFS has no such limit",
        folder,
        error.strerror,
    )
