"""Opening files of a container without following links and without blocking at pipes."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Literal

from objrepo.errors import RepositoryError

if TYPE_CHECKING:
    from io import FileIO

__all__ = ("NO_FOLLOW", "UnsafePathError", "is_inside", "refused", "safe_open")

# Windows has neither flag, and only privileged users create links there.
NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags that refuse a symbolic link and do not block at a pipe."""


class UnsafePathError(RepositoryError):
    """A file of a container is a symbolic link, or not a regular file."""


def safe_open(path: str, mode: Literal["rb", "ab", "xb"] = "rb") -> FileIO:
    """Open a regular file, unbuffered.

    :raises UnsafePathError: if it is a symbolic link, a pipe or otherwise not a regular file.
    :raises OSError: if it cannot be opened.
    """
    try:
        file = open(path, mode, buffering=0, opener=_open_no_follow)  # noqa: SIM115
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise refused(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise refused(path)
    return file


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


def _open_no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | NO_FOLLOW, 0o666)
