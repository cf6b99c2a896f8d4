"""Making a file and its name durable by one commit of the file system's journal; `docs/on-disk.md` has the reasons."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from objrepo.fsync import fsync_file

_ALL: Final = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
_EXT4_NEEDED: Final = {"data=ordered", "barrier"}
_EXT4_REFUSED: Final = {"journal_async_commit", "fast_commit"}
_XFS_REFUSED: Final = ("nobarrier", "logdev=", "rtdev=")
_UNSUPPORTED: Final = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE}


def orders_metadata(folder: Path, system: Path = Path("/")) -> bool:
    """Return whether the journal of a file system commits changes of metadata in the order of the calls.

    Then the fsync of a file also makes its name durable, and every directory above that was made before. That is known
    of ext4 with ``data=ordered``, write barriers and a journal on the same device, and of XFS without other devices.

    :param system: the directory that contains ``proc`` and ``sys``.
    """
    if _sync_file_range() is None:
        return False
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116
        number = f"{os.major(device)}:{os.minor(device)}"
        name = (system / "sys/dev/block" / number).readlink().name
        if (system / f"proc/fs/jbd2/{name}-8").is_dir():  # 8 is the inode number of a journal on the same device
            options = set((system / f"proc/fs/ext4/{name}/options").read_text().split())
            return options >= _EXT4_NEEDED and not options & _EXT4_REFUSED
        if (system / f"sys/fs/xfs/{name}").is_dir():
            mounts = (system / "proc/self/mountinfo").read_text().splitlines()
            found = [line.split() for line in mounts if f" {number} " in line and " - xfs " in line]
            return bool(found) and not any(option.startswith(_XFS_REFUSED) for option in found[0][-1].split(","))
    except OSError:  # no block device, as on btrfs and overlayfs, or `/proc` or `/sys` cannot be read
        pass
    return False


def write_back(file: BinaryIO) -> None:
    """Write a file's data to the disk, and wait for it, without a commit of the journal.

    :raises OSError: if it cannot be written.
    """
    function = _sync_file_range()
    number = errno.ENOSYS if function is None else function(file.fileno(), 0, 0, _ALL)
    if number in _UNSUPPORTED:
        fsync_file(file)
    elif number:
        raise OSError(number, os.strerror(number))


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's ``sync_file_range``, as a function that returns an error number or 0; None elsewhere."""
    try:
        import ctypes

        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (ImportError, OSError, AttributeError, TypeError):  # the last on Windows
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def call(*arguments: int) -> int:
        return ctypes.get_errno() if function(*arguments) else 0

    return call
