"""Opening files of a container without following links and without blocking at pipes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final, Literal

from objrepo.errors import RepositoryError

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

FileId = tuple[int, int]
"""Device and inode of a file. They identify it for as long as it is open; then another file may get them."""

FileSignature = tuple[int, int, int, int]
"""The state of a file: device, inode, size, and the time of its last change in nanoseconds."""

_COPY_BYTES: Final = 1024 * 1024

# These refuse a symbolic link, and do not block at a pipe. Windows has neither, and only privileged users create links
# there.
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class UnsafePathError(RepositoryError):
    """A file of a container is a symbolic link, or not a regular file."""


def safe_open(path: str, mode: Literal["rb", "ab", "ab+", "xb"] = "rb") -> FileIO:
    """Open a regular file, unbuffered.

    :raises UnsafePathError: if it is a symbolic link, a pipe or otherwise not a regular file.
    :raises OSError: if it cannot be opened.
    """
    return open(path, mode, buffering=0, opener=open_regular)


def open_regular(path: str, flags: int) -> int:
    """Return a descriptor of a regular file; see :func:`safe_open`."""
    try:
        descriptor = os.open(path, flags | _NO_FOLLOW, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise refused(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused(path)
    return descriptor


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a path at which there is none."""
    with safe_open(str(source)) as file, open(target, "xb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)


def link_or_copy(source: Path, target: Path) -> None:
    """Create a link to a file, or a copy on a file system without links.

    :raises FileExistsError: if there is a file at the target.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        copy_file(source, target)


def file_id(status: os.stat_result) -> FileId:
    """Return the identity of a file."""
    return status.st_dev, status.st_ino


def signature_of(status: os.stat_result) -> FileSignature:
    """Return the state of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def signature(path: str | Path) -> FileSignature | None:
    """Return the state of a file, None if there is none."""
    found = status(path)
    return found and signature_of(found)


def status(path: str | Path) -> os.stat_result | None:
    """Return the status of a file, None if there is none."""
    try:
        return os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_inside(path: str) -> os.stat_result | None:
    """Return the status of a regular file whose folder is not a link; None if there is none."""
    try:
        status = os.lstat(path)
        folder = os.lstat(os.path.dirname(path))  # noqa: PTH120  (many calls need it)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) and stat.S_ISDIR(folder.st_mode) else None


def refused(path: object) -> UnsafePathError:
    """Return the error for a path that is a link or not a regular file."""
    return UnsafePathError(
        f"{path} is a symbolic link or not a regular file, and links inside a repository are not followed; "
        "replace the link by its target"
    )
