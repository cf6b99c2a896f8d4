"""Rows that were read before, with which small reads need no thread: see :class:`RowCache`."""

from __future__ import annotations

import errno
import os
import sqlite3
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from objrepo.disk.index import RawRow, connect
from objrepo.disk.layout import Layout
from objrepo.disk.pack_files import read_at
from objrepo.disk.safe_open import FileId
from objrepo.errors import RepositoryError
from objrepo.streams import CHUNK_BYTES

_MAX_ROWS: Final = 20_000
_MAX_PACKS: Final = 32
_VERSION: Final = "PRAGMA data_version"

_inherited: Final[list[sqlite3.Connection]] = []
"""Connections of the parent process. SQLite forbids even to close a connection in another process than its own."""


class _OpenPack:
    """A pack that is open until the last entry that refers to it is gone, also while a thread is reading from it."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = os.dup(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _Entry(NamedTuple):
    """Where an object is; ``pack`` is None if it is compressed, or was not read but only looked up."""

    pack: _OpenPack | None
    offset: int
    size: int


class Rows(dict[str, _Entry]):
    """The entries that were added while the index had one version, and the packs that they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.packs: dict[FileId, _OpenPack] = {}


class _Watch:
    """A connection that notices changes of the index; one thread at a time uses it.

    It does not wait for locks, so that an event loop's thread can use it.

    :param layout: the container's.
    :ivar index: the identity of the index. No other file gets it while the connection is open.
    :raises sqlite3.Error: if there is no index that can be written to.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._process = os.getpid()
        self._connection = connect(layout.index_file, "mode=rw", timeout=0)
        self._execute = self._connection.cursor().execute
        ((self._version,),) = self._execute(_VERSION)  # opens the file
        self.index = layout.identity()

    def is_of(self, index: FileId) -> bool:
        """Return whether this process connected, to the index with this identity."""
        return self.index == index and self._process == os.getpid()

    def has_changed(self) -> bool | None:
        """Return whether a transaction was committed, or another index has the path, since the last call.

        :return: None if that cannot be found out without waiting.
        """
        if self._process != os.getpid():
            return None
        try:
            ((version,),) = self._execute(_VERSION)  # read to its end, which ends the transaction
            changed = version != self._version or self._layout.identity() != self.index
        except (sqlite3.Error, RepositoryError, OSError):
            return None
        self._version = version
        return changed

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            if self._process == os.getpid():
                self._connection.close()
            else:
                _inherited.append(self._connection)


class RowCache:
    """A bounded cache of the rows that were read, and of the packs that they name.

    An entry is valid while the index is the same file, and ``PRAGMA data_version`` returns the same on a connection
    that is kept for this: no transaction was committed since. An entry is added only if its row was read after that
    version. It refers to an open pack, whose bytes do not change: a repack writes another file.

    Adding an entry may wait for the disk. Looking one up never waits, neither for the disk nor for a lock. There is no
    lock, so that an interrupt or a fork at any time leaves the cache usable.

    :param layout: the container's.
    :ivar rows: the entries. See :meth:`add`.
    """

    def __init__(self, layout: Layout) -> None:
        self.rows: Rows = Rows()
        self._layout = layout
        self._watch: Callable[[], _Watch | None] = lambda: None
        self._idle: deque[_Watch] = deque()
        self._dropped: Rows | None = None
        # Linux reads only what is in the page cache if it is told so.
        self._can_read_no_wait = hasattr(os, "preadv") and hasattr(os, "RWF_NOWAIT")

    def add(self, rows: Rows, row: RawRow, pack: tuple[int, FileId] | None, index: FileId) -> None:
        """Add the row of an object.

        :param rows: what :attr:`rows` was before the row was read.
        :param pack: the descriptor and the identity of its pack, if they are known to be valid for the row.
        :param index: the identity of the index, which the caller has open.
        """
        self._dropped = None  # closes packs, which takes long for a large one that was removed
        if rows is not self.rows:
            return
        watch = self._watch()
        if watch is None or not watch.is_of(index):
            self._start(index)
            return
        key, _, offset, length, compressed, size = row
        known = rows.get(key)
        if known is not None and (known.pack is not None or pack is None):
            return
        if not (type(offset) is type(length) is type(size) is int):
            return  # the row is invalid
        opened = None if pack is None or compressed or length != size else _opened(rows, *pack)
        with suppress(RuntimeError, StopIteration):  # another thread adds an entry
            while len(rows) >= _MAX_ROWS:
                rows.pop(next(iter(rows)), None)
        rows[key] = _Entry(opened, offset, size)

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if it is not known, or cannot be validated without waiting."""
        entry = self._valid_entry(key)
        return None if entry is None else entry.size

    def read(self, key: str, offset: int = 0, length: int | None = None, *, wait: bool) -> bytes | None:
        """Return a range of an object, of at most 256 KiB.

        :param wait: whether to wait for bytes that are not in the page cache.
        :return: None if the range cannot be read in this way.
        """
        entry = self._valid_entry(key) if wait or self._can_read_no_wait else None
        if entry is None or entry.pack is None:
            return None
        start = min(offset, entry.size)
        size = entry.size - start if length is None else min(length, entry.size - start)
        if size > CHUNK_BYTES:
            return None
        descriptor = entry.pack.descriptor
        try:
            if not os.fstat(descriptor).st_nlink:
                return None  # another file has the name of the pack
            content = (read_at if wait else _read_no_wait)(descriptor, size, entry.offset + start)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._can_read_no_wait = False
            return None  # `read_object` raises the error
        return content if len(content) == size else None

    def close(self) -> None:
        """Forget every row, and close every pack and the connection."""
        self._watch = lambda: None
        self._idle.clear()
        self._dropped, self.rows = None, Rows()

    def _valid_entry(self, key: str) -> _Entry | None:
        """Return the entry of an object if there is one and it is valid; None also if another thread validates one."""
        if key not in self.rows:
            return None
        try:
            watch = self._idle.pop()
        except IndexError:
            return None
        try:
            changed = watch.has_changed()
            if changed:
                self._dropped, self.rows = self.rows, Rows()
            return self.rows.get(key) if changed is False else None
        finally:
            if watch is self._watch():
                self._idle.append(watch)

    def _start(self, index: FileId) -> None:
        """Forget every row, and connect to the index, if it is the one with this identity."""
        self.close()
        with suppress(sqlite3.Error, RepositoryError, OSError):
            watch = _Watch(self._layout)
            if watch.is_of(index):
                self._watch = weakref.ref(watch)  # an interrupt between taking it and returning it closes it
                self._idle.append(watch)


def _opened(rows: Rows, descriptor: int, identity: FileId) -> _OpenPack:
    pack = rows.packs.get(identity)
    if pack is None:
        if len(rows.packs) >= _MAX_PACKS:
            rows.clear()
            rows.packs.clear()
        pack = rows.packs[identity] = _OpenPack(descriptor)
    return pack


def _read_no_wait(descriptor: int, size: int, offset: int) -> bytes:
    """Return bytes of a file that are in the page cache, fewer if only the first ones are.

    :raises BlockingIOError: if the first one is not.
    """
    buffer = bytearray(size)
    count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    return bytes(buffer) if count == size else b""
