"""The book of a cache: which objects are in it, how large they are, and when each was last read; everything blocks."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ("Ledger",)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS cached (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON cached (used);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value);
INSERT OR IGNORE INTO facts VALUES ('total', 0);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON cached
    BEGIN UPDATE facts SET value = value + new.size WHERE name = 'total'; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON cached
    BEGIN UPDATE facts SET value = value - old.size WHERE name = 'total'; END;
"""

_NOTED_AT_MOST: Final = 10_000
_FILLED_TO: Final = 0.9
"""To what part of its size a cache that is full is emptied, so that not each new object costs an old one."""


class Ledger:
    """The book that all processes share which use one cache.

    :param path: its file, made when it is needed; None keeps the book in memory.
    :param max_bytes: how many bytes the objects in the cache may have together.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._path = path
        self._using = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._noted: dict[str, float] = {}

    def fact(self, name: str) -> str | None:
        """Return what is written down under a name."""
        with self._open() as connection:
            return _fact(connection, name)

    def write_facts(self, **facts: str | None) -> None:
        """Write something down."""
        with self._open() as connection:
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    @property
    def total(self) -> int:
        """How many bytes the objects in the cache have together."""
        return int(self.fact("total") or 0)

    def name(self, key: str) -> str | None:
        """Return by which name the cache knows an object, None if it does not have it."""
        with self._open() as connection:
            row = connection.execute("SELECT name FROM cached WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row[0])

    def note(self, key: str) -> None:
        """Note that an object is read now. This is quick: it is written down later."""
        self._noted[key] = time.time()

    def enter(self, key: str, name: str, size: int) -> None:
        """Write down an object that is in the cache, or is to be put there."""
        with self._open() as connection:
            connection.execute("DELETE FROM cached WHERE key = ?", (key,))
            connection.execute("INSERT INTO cached VALUES (?, ?, ?, ?)", (key, name, size, time.time()))

    def strike_out(self, keys: Iterable[str]) -> None:
        """Write down that objects are not in the cache any longer."""
        with self._open() as connection:
            connection.executemany("DELETE FROM cached WHERE key = ?", ((key,) for key in keys))

    def make_space(self, size: int) -> list[str]:
        """Strike out what was not read for longest, until there is space for some bytes.

        :return: by which names the cache knows these objects.
        """
        with self._open() as connection:
            excess = int(_fact(connection, "total") or 0) + size - self.max_bytes
            if excess <= 0:
                return []
            self._write_down_what_was_noted(connection)
            excess += int(self.max_bytes * (1 - _FILLED_TO))
            names = []
            rows = connection.execute("SELECT key, name, size FROM cached ORDER BY used").fetchall()
            for key, name, taken in rows:
                if excess <= 0:
                    break
                connection.execute("DELETE FROM cached WHERE key = ?", (key,))
                names.append(name)
                excess -= taken
            return names

    def keys(self) -> list[str]:
        """Return the keys of all objects in the cache."""
        with self._open() as connection:
            return [row[0] for row in connection.execute("SELECT key FROM cached")]

    def close(self) -> None:
        """Write down what was noted, and close the file; a book in memory is gone."""
        with self._using:
            if self._connection is None:
                return
            with self._open() as connection:
                self._write_down_what_was_noted(connection)
            self._connection.close()
            self._connection = None

    def remove(self) -> None:
        """Remove the book."""
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._noted.clear()
            if self._path is not None:
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _write_down_what_was_noted(self, connection: sqlite3.Connection) -> None:
        noted, self._noted = self._noted, {}
        uses = ((used, key) for key, used in noted.items())
        connection.executemany("UPDATE cached SET used = max(used, ?) WHERE key = ?", uses)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give a connection within a transaction, which is the only one of all processes that writes."""
        with self._using:
            if self._process != os.getpid():
                self._connection = None  # that of the process this one was forked from is not ours to use
            if self._connection is None:
                self._process = os.getpid()
                self._connection = _connected(self._path)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if len(self._noted) > _NOTED_AT_MOST:
                    self._write_down_what_was_noted(self._connection)
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()


def _fact(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def _connected(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        ":memory:" if path is None else path, timeout=60, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # what a power failure takes is found again
    connection.executescript(_SCHEMA)
    return connection
