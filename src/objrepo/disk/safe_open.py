"""Opening files of a container without being led out of it, or into waiting, by what somebody has put there."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Literal

from objrepo.errors import RepositoryError

if TYPE_CHECKING:
    from io import FileIO

__all__ = ("NO_DETOUR", "UnsafePathError", "is_inside", "refused", "safe_open")

# Windows has neither, and makes links only for whoever is allowed to.
NO_DETOUR: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags that open no link, and do not wait at a pipe."""


class UnsafePathError(RepositoryError):
    """A file of a container is a link, or a thing that is no file."""


def safe_open(path: str, mode: Literal["rb", "ab", "xb"] = "rb") -> FileIO:
    """Open a regular file, unbuffered.

    :raises UnsafePathError: if it is a link, a pipe or another thing that is no file.
    :raises OSError: if it cannot be opened.
    """
    try:
        file = open(path, mode, buffering=0, opener=_without_detour)  # noqa: SIM115
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise refused(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise refused(path)
    return file


def is_inside(path: str) -> os.stat_result | None:
    """Return the state of a regular file that is in a folder which is no link; None if there is none."""
    try:
        status = os.lstat(path)
        folder = os.lstat(os.path.dirname(path))  # noqa: PTH120  (on the way of many calls)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) and stat.S_ISDIR(folder.st_mode) else None


def refused(path: object) -> UnsafePathError:
    """Return the error for what is no regular file or folder of the container's own."""
    return UnsafePathError(
        f"{path} is a symbolic link or no regular file: it is not followed out of the repository; "
        "keep the whole repository where it leads"
    )


def _without_detour(path: str, flags: int) -> int:
    return os.open(path, flags | NO_DETOUR, 0o666)
