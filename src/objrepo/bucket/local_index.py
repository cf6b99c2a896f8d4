"""The local copy of a bucket's index: an SQLite file that processes share, and that can be lost at any time."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from filelock import FileLock

from objrepo.bucket.encoding import HASH_BYTES, ROW_BYTES, Entry, Place, decode_location, encode_location
from objrepo.errors import RepositoryBusyError, RepositoryUnavailableError

T = TypeVar("T")

_VERSION: Final = 1
_BUSY_SECONDS: Final = 300.0  # another process may be loading a snapshot of many million objects
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_FAILED: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)

CHUNK_ROWS: Final = 1024
_SCHEMA: Final = f"""
-- The last log entry, and when it was stored, once that is known.
CREATE TABLE IF NOT EXISTS state (number INTEGER NOT NULL, stored TEXT);
INSERT INTO state SELECT 0, NULL WHERE NOT EXISTS (SELECT 1 FROM state);
-- Rows of a snapshot: up to {CHUNK_ROWS} in each chunk, sorted; their packs are numbers of the table `pack`.
CREATE TABLE IF NOT EXISTS chunk (first BLOB PRIMARY KEY, rows BLOB NOT NULL);
-- What log entries have changed since; a location of NULL means that there is no row.
CREATE TABLE IF NOT EXISTS change (key BLOB PRIMARY KEY, location BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack (id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS tombstone (key BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retired (key BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_TABLES: Final = ("chunk", "change", "pack", "tombstone", "retired")


class IndexLostError(RepositoryUnavailableError):
    """The local index was damaged, and has been replaced by an empty one."""


def cache_folder() -> Path:
    """Return the folder of the user's caches on this platform."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "objrepo"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "objrepo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "objrepo"


class LocalIndex:
    """The state of a repository after one entry of its log. Any thread may use it.

    :param path: the file; it and its folder are created.
    :ivar generation: changes when another file has taken its place, which may include less.
    :raises OSError: if the folder cannot be created, or files in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # Held while the file is opened or removed: who opens it in between would write to files that are removed.
        self._replacing = FileLock(f"{path}.lock", timeout=_BUSY_SECONDS)
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self.generation: int = 0

    def close(self) -> None:
        """Close the file, which stays; the next use opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def remove(self) -> None:
        """Remove the file; the next use makes a new one."""
        with self._lock:
            self._remove()
            Path(self._replacing.lock_file).unlink(missing_ok=True)

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """The last log entry that it includes, 0 for none."""
        return self._run(_number)

    def places(self, keys: Iterable[bytes]) -> dict[bytes, Place]:
        """Return where those of some objects are that are in packs."""
        return self._run(lambda db: _places(db, keys))

    def tombstones(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return those of some keys whose files of their own do not count, each with the log entry that says so."""
        return self._run(lambda db: _marks(db, "tombstone", keys))

    def retired(self, packs: Iterable[bytes]) -> dict[bytes, int]:
        """Return those of some packs that are retired, each with the log entry that says so."""
        return self._run(lambda db: _marks(db, "retired", packs))

    @contextmanager
    def scan(self) -> Iterator[Scan]:
        """Give a view of the whole state, which stays the same while others change the index."""
        self._run(_number)  # creates the file
        try:
            with closing(self._connect_again()) as db:
                scan = Scan(db)
                if self._file_at_path() != self._file:
                    raise IndexLostError(f"the index {self.path} was replaced: try again")
                yield scan
        except sqlite3.Error as error:
            with self._lock:
                self._raise(error)

    def is_stored_at(self, number: int, stored: datetime) -> bool:
        """Return whether its last log entry was stored at this time; note the time if it is not known yet."""

        def compare(db: sqlite3.Connection) -> bool:
            last, known = db.execute("SELECT number, stored FROM state").fetchone()
            if last != number:
                return True  # another thread or process has gone on
            if known is None:
                db.execute("UPDATE state SET stored = ? WHERE number = ?", (stored.isoformat(), number))
            return known in (None, stored.isoformat())

        return self._run(compare)

    # -- writing --------------------------------------------------------------------------------------------------

    def apply(self, number: int, entry: Entry) -> None:
        """Include a log entry, if it is the next one."""

        def apply(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            if _number(db) == number - 1:
                _apply(db, number, entry)
            db.execute("COMMIT")

        self._run(apply)

    def load(
        self,
        number: int,
        replaced: int,
        packs: Iterable[bytes] = (),
        tombstones: Iterable[tuple[bytes, int]] = (),
        retired: Iterable[tuple[bytes, int]] = (),
        chunks: Iterable[bytes] = (),
    ) -> None:
        """Replace everything by a snapshot, or by nothing; if the iterables raise, nothing is changed.

        :param number: the last log entry that it includes.
        :param replaced: that of what is replaced; if it has another one by now, nothing is changed.
        :param chunks: the rows, in the order of their keys; each of up to ``CHUNK_ROWS``.
        """
        self._run(_number)
        try:
            with closing(self._connect_again()) as db:  # of its own, so that other threads are not kept waiting
                db.execute("COMMIT")
                db.execute("BEGIN IMMEDIATE")
                if _number(db) != replaced:
                    return
                for table in _TABLES:
                    db.execute(f"DELETE FROM {table}")
                db.executemany("INSERT INTO pack VALUES (?, ?)", enumerate(packs))
                db.executemany("INSERT INTO tombstone VALUES (?, ?)", tombstones)
                db.executemany("INSERT INTO retired VALUES (?, ?)", retired)
                db.executemany("INSERT INTO chunk VALUES (?, ?)", ((rows[:HASH_BYTES], rows) for rows in chunks))
                db.execute("UPDATE state SET number = ?, stored = NULL", (number,))
                db.execute("COMMIT")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the file has all twice until it is closed
        except sqlite3.Error as error:
            with self._lock:
                self._raise(error)

    # -- the file -------------------------------------------------------------------------------------------------

    def _run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._db is not None and self._file != self._file_at_path():
                    self._db.close()  # another process has replaced the file, which was damaged
                    self._db = None
                if self._db is None:
                    self._db = self._open()
                    self._file = self._file_at_path()
                    self.generation += 1
                try:
                    return function(self._db)
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                self._raise(error)

    def _file_at_path(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        with self._replacing:
            try:
                return self._create()
            except sqlite3.DatabaseError as error:
                if _code(error) in _BUSY | _FAILED:
                    raise
            self._remove()  # it is damaged: nothing of it was returned yet
            return self._create()

    def _create(self) -> sqlite3.Connection:
        db = self._connect()
        try:
            db.execute("PRAGMA journal_mode = WAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError("another version")
            if version == 0:
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")
            _number(db)
        except BaseException:
            db.close()
            raise
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def _connect_again(self) -> sqlite3.Connection:
        """Return another connection, in a transaction that reads."""
        with self._replacing:
            db = self._connect()
            try:
                db.execute("BEGIN")
                _number(db)
            except BaseException:
                db.close()
                raise
            return db

    def _raise(self, error: sqlite3.Error) -> NoReturn:
        """Raise an error of this package; if the file is damaged, remove it first. The caller holds the lock."""
        if _code(error) in _BUSY:
            raise RepositoryBusyError(f"another process keeps the index {self.path} locked: try again") from error
        if _code(error) in _FAILED:
            raise OSError(None, f"the index cannot be read or written: {error}", str(self.path)) from error
        self._remove()
        raise IndexLostError(f"the index {self.path} was damaged and is rebuilt: try again") from error

    def _remove(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        with self._replacing:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)


class Scan:
    """An unchanging view of the whole state.

    :ivar number: the last log entry that it includes.
    :ivar packs: the names of the packs by their numbers.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.number: int = _number(db)
        self.packs: dict[int, bytes] = dict(db.execute("SELECT id, name FROM pack"))

    def rows(self, after: bytes = b"", end: bytes = b"\xff" * (HASH_BYTES + 1)) -> Iterator[tuple[bytes, bytes]]:
        """Yield the objects in packs with keys after one and up to another, in order: key and encoded location."""
        changes = self._db.execute(
            "SELECT key, location FROM change WHERE key > ? AND key <= ? ORDER BY key", (after, end)
        )
        change = changes.fetchone()
        for row in self._loaded(after, end):
            while change is not None and change[0] < row[0]:
                if change[1] is not None:
                    yield change
                change = changes.fetchone()
            if change is not None and change[0] == row[0]:
                if change[1] is not None:
                    yield change
                change = changes.fetchone()
            else:
                yield row
        while change is not None:
            if change[1] is not None:
                yield change
            change = changes.fetchone()

    def tombstones(self, after: bytes = b"", end: bytes = b"\xff" * (HASH_BYTES + 1)) -> list[tuple[bytes, int]]:
        """Return the tombstones of keys after one and up to another, in order."""
        query = "SELECT key, number FROM tombstone WHERE key > ? AND key <= ? ORDER BY key"
        return self._db.execute(query, (after, end)).fetchall()

    def retired(self) -> list[tuple[bytes, int]]:
        """Return the retired packs, in order."""
        return self._db.execute("SELECT key, number FROM retired ORDER BY key").fetchall()

    def _loaded(self, after: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        first = self._db.execute("SELECT max(first) FROM chunk WHERE first <= ?", (after,)).fetchone()[0] or b""
        query = "SELECT rows FROM chunk WHERE first >= ? AND first <= ? ORDER BY first"
        for (rows,) in self._db.execute(query, (first, end)):
            for start in range(0, len(rows), ROW_BYTES):
                key = rows[start : start + HASH_BYTES]
                if after < key <= end:
                    yield key, rows[start + HASH_BYTES : start + ROW_BYTES]


def _number(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT number FROM state").fetchone()[0])


def _places(db: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, Place]:
    names: dict[int, bytes] = {}
    found = {}
    chunk = end = b""
    db.execute("BEGIN")
    for key in sorted(keys):
        changed = db.execute("SELECT location FROM change WHERE key = ?", (key,)).fetchone()
        if changed is not None:
            location = changed[0]
        else:
            if not chunk or key > end:
                query = "SELECT rows FROM chunk WHERE first <= ? ORDER BY first DESC LIMIT 1"
                (chunk,) = db.execute(query, (key,)).fetchone() or (b"",)
                end = chunk[-ROW_BYTES:][:HASH_BYTES]
            location = _find(chunk, key)
        if location is not None:
            pack, offset, length = decode_location(location)
            if pack not in names:
                names[pack] = db.execute("SELECT name FROM pack WHERE id = ?", (pack,)).fetchone()[0]
            found[key] = Place(names[pack], offset, length)
    db.execute("COMMIT")
    return found


def _find(rows: bytes, key: bytes) -> bytes | None:
    """Return the location of a key in sorted rows, by binary search."""
    low, high = 0, len(rows) // ROW_BYTES
    while low < high:
        middle = (low + high) // 2
        if rows[middle * ROW_BYTES : middle * ROW_BYTES + HASH_BYTES] < key:
            low = middle + 1
        else:
            high = middle
    row = rows[low * ROW_BYTES : (low + 1) * ROW_BYTES]
    return row[HASH_BYTES:] if row[:HASH_BYTES] == key else None


def _marks(db: sqlite3.Connection, table: str, keys: Iterable[bytes]) -> dict[bytes, int]:
    query = f"SELECT key, number FROM {table} WHERE key = ?"
    return dict(row for key in keys for row in db.execute(query, (key,)))


def _apply(db: sqlite3.Connection, number: int, entry: Entry) -> None:
    for pack, spans in entry.rows.items():
        db.execute("INSERT OR IGNORE INTO pack (name) VALUES (?)", (pack,))
        pack_id = db.execute("SELECT id FROM pack WHERE name = ?", (pack,)).fetchone()[0]
        rows = ((key, encode_location(pack_id, offset, length)) for key, offset, length in spans)
        db.executemany("INSERT OR REPLACE INTO change VALUES (?, ?)", rows)
    db.executemany("INSERT OR REPLACE INTO change VALUES (?, NULL)", ((key,) for key in entry.deleted))
    marks = ((key, number) for key in entry.deleted | entry.tombstones)
    db.executemany("INSERT OR REPLACE INTO tombstone VALUES (?, ?)", marks)
    db.executemany("DELETE FROM tombstone WHERE key = ?", ((key,) for key in entry.forgotten))
    db.executemany("INSERT OR REPLACE INTO retired VALUES (?, ?)", ((pack, number) for pack in entry.retired))
    db.executemany("DELETE FROM retired WHERE key = ?", ((pack,) for pack in entry.gone))
    db.execute("UPDATE state SET number = ?, stored = NULL", (number,))


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary error code, without what extends it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
