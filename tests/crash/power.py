"""Simulate power failures: keep only what was fsynced, and check what is left.

After a power failure a disk has at least the content of each file at its last fsync, and the names in each directory at
its last fsync. Each `fsync` is recorded: the bytes of the file, or the names in the directory. The state that is built
from the records is the least that any disk may be left with. SQLite syncs its files before it returns from a commit
(`PRAGMA synchronous = FULL`); they are copied as they are.

A file system that orders its metadata is simulated, too. Each `fsync` there commits the journal: every name in every
directory is durable. The journal may also be committed at any other moment, so the state is kept after each change of a
name as well. A file has the content of its last `fsync` or write-back, whether it had a name then or not.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from objrepo.disk import one_commit, session

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

    def record_commit(self) -> None:
        """Record every name, as a commit of the journal makes them durable."""
        for folder, _, _ in os.walk(self.top):
            self._record(os.stat(folder), Path(folder))

    def keep(self, target: Path, committed: bool = False) -> None:
        """Write the state after a power failure to a new directory.

        :param committed: whether the journal was committed just before.
        """
        names = dict(self.names)
        if committed:
            self.record_commit()
        status = os.stat(self.top)
        self._build((status.st_dev, status.st_ino), self.top, target)
        self.names = names

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
def recording(disk: Disk, moments: Path, ordered: bool = False) -> Iterator[None]:
    """Record every fsync of this process, and keep the durable state after each.

    :param ordered: whether the file system orders its metadata.
    """

    def keep(committed: bool) -> None:
        root = moments / str(len(disk.moments))
        disk.keep(root, committed)
        disk.moments.append(root)

    def fsync(file: Any) -> None:
        real_fsync(file)
        disk.record_fsync(file if isinstance(file, int) else file.fileno())
        if ordered:
            disk.record_commit()
        keep(committed=False)

    def committed_after(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            function(*arguments, **options)
            keep(committed=True)

        return call

    def write_back(descriptor: int, *_: int) -> int:
        real_fsync(descriptor)
        disk.record_fsync(descriptor)
        return 0

    real_fsync = os.fsync
    with ExitStack() as patches:
        patches.enter_context(patch.object(os, "fsync", fsync))
        patches.enter_context(patch.object(session, "orders_metadata", lambda folder: ordered))
        if ordered:
            patches.enter_context(patch.object(one_commit, "_sync_file_range", lambda: write_back))
            for name in ("link", "replace", "rename"):
                patches.enter_context(patch.object(os, name, committed_after(getattr(os, name))))
        yield
