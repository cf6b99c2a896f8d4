"""What makes a write survive a power failure: the file flushed to the disk, and the folder that names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

__all__ = ("flush_file", "flush_folder")


def flush_file(file: IO[Any]) -> None:
    """Have the disk store what was written to an open file."""
    file.flush()
    try:
        import fcntl

        full = fcntl.F_FULLFSYNC  # type: ignore[attr-defined,unused-ignore]  # macOS: `fsync` stops at the disk's cache
    except (ImportError, AttributeError):
        os.fsync(file.fileno())
    else:
        fcntl.fcntl(file.fileno(), full)


def flush_folder(folder: Path) -> None:
    """Have the disk store which files a folder names. Windows has no way to do that, and no need to."""
    flag = getattr(os, "O_DIRECTORY", None)
    if flag is None:
        return
    descriptor = os.open(folder, os.O_RDONLY | flag)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
