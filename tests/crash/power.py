"""Cut the power at every moment: keep only what was flushed to the disk by then, and look at what is left.

A disk keeps of a file what it was when it was last flushed, and of a folder the names that it had when it was last
flushed. So each `fsync` is recorded: the bytes of the file, or which files the folder names. What is built from the
records is the least that any disk can be left with. SQLite flushes what it writes by itself before it returns from a
commit (`PRAGMA synchronous = FULL` is on); its files are taken as they are at the moment.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INDEX = ("packs.idx", "packs.idx-wal")

Inode = tuple[int, int]


class Disk:
    """What is on the disk of a folder and of all that is in it.

    :param top: a folder that is there already, as is what it holds at the start.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.contents: dict[Inode, bytes] = {}
        self.names: dict[Inode, dict[str, Inode]] = {}
        self.moments: list[Path] = []
        self._held: dict[Inode, int] = {}  # what is open keeps its inode, so that no other file gets it
        self._record_all(top)

    def _record_all(self, folder: Path) -> None:
        self._record(os.stat(folder), folder)
        for path in folder.iterdir():
            if path.is_dir():
                self._record_all(path)
            else:
                self._record(os.stat(path), path)

    def _record(self, status: os.stat_result, path: Path) -> None:
        inode = status.st_dev, status.st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        if stat.S_ISDIR(status.st_mode):
            self.names[inode] = {}
            for name in os.listdir(path):
                found = os.stat(path / name)
                self.names[inode][name] = found.st_dev, found.st_ino
        else:
            self.contents[inode] = path.read_bytes()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def flushed(self, descriptor: int) -> None:
        """Record what has just been flushed."""
        status = os.fstat(descriptor)
        self._record(status, Path(f"/proc/self/fd/{descriptor}"))

    def keep(self, target: Path) -> None:
        """Build what would be left if the power went now."""
        status = os.stat(self.top)
        self._build((status.st_dev, status.st_ino), self.top, target)

    def _build(self, inode: Inode, now: Path, target: Path) -> None:
        if inode not in self.names:
            if now.name in INDEX and now.exists():
                shutil.copyfile(now, target)
            else:
                target.write_bytes(self.contents.get(inode, b""))  # a name without bytes is all there is
            return
        target.mkdir()
        for name, inner in self.names[inode].items():
            self._build(inner, now / name, target / name)
        for name in INDEX:
            if (now / name).exists() and "packs.idx" in self.names[inode]:
                shutil.copyfile(now / name, target / name)


@contextmanager
def recording(disk: Disk, moments: Path) -> Iterator[None]:
    """Have everything recorded that this process flushes, and what would be left kept after each time."""
    real = os.fsync

    def fsync(file: Any) -> None:
        real(file)
        disk.flushed(file if isinstance(file, int) else file.fileno())
        place = moments / str(len(disk.moments))
        disk.keep(place)
        disk.moments.append(place)

    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = real
