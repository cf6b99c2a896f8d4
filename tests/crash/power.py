"""Simulate power failures: keep only what was fsynced, and check what is left.

After a power failure a disk has at least the content of each file at its last fsync, and the names in each directory at
its last fsync. Each `fsync` is recorded: the bytes of the file, or the names in the directory. The state that is built
from the records is the least that any disk may be left with. SQLite syncs its files before it returns from a commit
(`PRAGMA synchronous = FULL`); they are copied as they are.
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
    """The durable state of a directory tree.

    :param top: the directory. It and its content are durable at the start.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.contents: dict[Inode, bytes] = {}
        self.names: dict[Inode, dict[str, Inode]] = {}
        self.moments: list[Path] = []
        self._held: dict[Inode, int] = {}  # open files, so that their inode numbers are not reused
        self._record_all(top)

    def _record_all(self, folder: Path) -> None:
        self._record(os.stat(folder), folder)
        for path in folder.iterdir():
            if path.is_dir():
                self._record_all(path)
            else:
                self._record(os.stat(path), path)

    def _record(self, status: os.stat_result, path: Path) -> None:
        inode = self._hold(status, path)
        if stat.S_ISDIR(status.st_mode):
            self.names[inode] = {name: self._hold(os.stat(path / name), path / name) for name in os.listdir(path)}
        else:
            self.contents[inode] = path.read_bytes()

    def _hold(self, status: os.stat_result, path: Path) -> Inode:
        inode = status.st_dev, status.st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_PATH)
        return inode

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def record_fsync(self, descriptor: int) -> None:
        """Record a file or directory that was just fsynced."""
        status = os.fstat(descriptor)
        self._record(status, Path(f"/proc/self/fd/{descriptor}"))

    def keep(self, target: Path) -> None:
        """Write the state after a power failure to a new directory."""
        status = os.stat(self.top)
        self._build((status.st_dev, status.st_ino), self.top, target)

    def _build(self, inode: Inode, now: Path, target: Path) -> None:
        if inode not in self.names:
            if now.name in INDEX and now.exists():
                shutil.copyfile(now, target)
            else:
                target.write_bytes(self.contents.get(inode, b""))  # a durable name without durable content
            return
        target.mkdir()
        for name, inner in self.names[inode].items():
            self._build(inner, now / name, target / name)
        for name in INDEX:
            if (now / name).exists() and "packs.idx" in self.names[inode]:
                shutil.copyfile(now / name, target / name)


@contextmanager
def recording(disk: Disk, moments: Path) -> Iterator[None]:
    """Record every fsync of this process, and keep the durable state after each."""
    real = os.fsync

    def fsync(file: Any) -> None:
        real(file)
        disk.record_fsync(file if isinstance(file, int) else file.fileno())
        root = moments / str(len(disk.moments))
        disk.keep(root)
        disk.moments.append(root)

    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = real
