"""The index of a cache: which objects are in it, how large they are, and when each was last read."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON objects (used);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value);
INSERT OR IGNORE INTO facts VALUES ('total', 0);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON objects
    BEGIN UPDATE facts SET value = value + new.size WHERE name = 'total'; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON objects
    BEGIN UPDATE facts SET value = value - old.size WHERE name = 'total'; END;
PRAGMA user_version = 1;
COMMIT;
"""

_BUSY_SECONDS: Final = 1.0
"""How long a call waits for a lock of another process. Transactions take milliseconds."""

_PAUSE_SECONDS: Final = 10.0
"""How long nothing is written after a failure: a lock that is never released costs a process 1 s in 10 s."""

_MAX_PENDING_TOUCHES: Final = 10_000

_FILL_TARGET: Final = 0.9
"""To what part of its size a full cache is emptied, so that not every new object evicts an old one."""

_inherited: Final[list[sqlite3.Connection]] = []
"""Connections of the parent process. SQLite forbids even closing a connection in a process that did not open it."""


class LRUIndex:
    """The least-recently-used index of a cache, which all processes share that use the cache.

    Its methods block, and raise :class:`OSError` if SQLite cannot read or write the file, because it is locked,
    read-only or damaged or the file system is full.

    :param path: the SQLite file, created on first use; None keeps the index in memory.
    :param max_bytes: the size of the cache in bytes.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._touched: dict[str, float] = {}
        self._failure = ""
        self._paused_until = 0.0

    def key_format(self) -> str | None:
        """Return the key format of the origin, None before :meth:`set_key_format`."""
        key_format: str | None = self._one("SELECT value FROM facts WHERE name = 'key_format'")
        return key_format

    def set_key_format(self, key_format: str) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('key_format', ?)", (key_format,))

    @property
    def total(self) -> int:
        """The sum of the sizes of all objects in bytes."""
        return int(self._one("SELECT value FROM facts WHERE name = 'total'"))

    def name(self, key: str) -> str | None:
        """Return the key of the copy in the cache, None if there is none."""
        name: str | None = self._one("SELECT name FROM objects WHERE key = ?", key)
        return name

    def keys(self) -> list[str]:
        with self._opened() as connection:
            return [key for (key,) in connection.execute("SELECT key FROM objects")]

    def touch(self, key: str) -> bool:
        """Record in memory that an object was read now. Return whether it is time to :meth:`flush`."""
        self._touched[key] = time.time()
        return len(self._touched) > _MAX_PENDING_TOUCHES

    def flush(self) -> None:
        """Write the recorded times of reading. If that fails, they are lost."""
        with self._transaction() as connection:
            self._write_touched(connection)

    def insert(self, objects: Iterable[tuple[str, str, int]]) -> None:
        """Insert objects, each as its key, the key of its copy, and its size in bytes."""
        rows = [(*each, time.time()) for each in objects]
        with self._transaction() as connection:
            # Deleted first, as REPLACE does not fire the trigger that subtracts the size.
            connection.executemany("DELETE FROM objects WHERE key = ?", ((row[0],) for row in rows))
            connection.executemany("INSERT INTO objects VALUES (?, ?, ?, ?)", rows)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; keys that are not there are ignored."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM objects WHERE key = ?", ((key,) for key in keys))

    def evict(self, size: int) -> list[str]:
        """Delete the least recently used objects until ``size`` more bytes fit.

        :return: the keys of their copies.
        """
        if self.total + size <= self.max_bytes:
            return []
        with self._transaction() as connection:
            excess = self.total + size - self.max_bytes
            if excess <= 0:  # another process was faster
                return []
            self._write_touched(connection)
            excess += int(self.max_bytes * (1 - _FILL_TARGET))
            evicted = []
            for key, name, freed in connection.execute("SELECT key, name, size FROM objects ORDER BY used"):
                evicted.append((key, name))
                excess -= freed
                if excess <= 0:
                    break
            connection.executemany("DELETE FROM objects WHERE key = ?", ((key,) for key, _ in evicted))
            return [name for _, name in evicted]

    def close(self) -> None:
        """Write the recorded times of reading, if that is possible, and close the file."""
        with self._lock:
            try:
                if self._connection is not None and self._touched:
                    self.flush()
            except OSError:
                pass  # only the order of eviction is lost
            finally:
                self._disconnect()

    def remove(self) -> None:
        """Close and delete the file."""
        with self._lock:
            self._disconnect()
            self._touched.clear()
            if self.path is not None:
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _write_touched(self, connection: sqlite3.Connection) -> None:
        touched, self._touched = self._touched, {}
        times = [(used, key) for key, used in list(touched.items())]
        connection.executemany("UPDATE objects SET used = max(used, ?) WHERE key = ?", times)

    def _one(self, query: str, *parameters: str) -> Any:
        """Return the only column of the first row, None if there is no row."""
        with self._opened() as connection:
            row = connection.execute(query, parameters).fetchone()
            return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._opened(writing=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.commit()
            finally:
                if connection.in_transaction:
                    connection.rollback()

    @contextmanager
    def _opened(self, writing: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._process != os.getpid():
                self._disconnect()
                self._process = os.getpid()
            if (writing or self._connection is None) and time.monotonic() < self._paused_until:
                raise OSError(self._failure)
            try:
                if self._connection is None:
                    self._connection = _connect(self.path)
                yield self._connection
            except (OSError, sqlite3.Error) as error:
                # SQLite's errors about a damaged file are of no subclass.
                advice = "; delete the file, it is rebuilt" if type(error) is sqlite3.DatabaseError else ""
                self._failure = f"cannot use the cache index {self.path}: {error}{advice}"
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                raise OSError(self._failure) from error

    def _disconnect(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        elif self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")  # maintenance finds what a power failure removes
        if connection.execute("PRAGMA user_version").fetchone() == (0,):
            connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection
