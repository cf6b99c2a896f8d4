"""The index of a container: the SQLite table of packed objects, accessed without SQLAlchemy.

Statements over many keys take them as one sorted JSON array: SQLite then reads the pages of the key index in order,
which was measured to be twice as fast as a list of parameters (``benchmarks/``).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from objrepo.disk.layout import Layout
from objrepo.disk.safe_open import FileSignature, copy_file, status
from objrepo.errors import CorruptObjectError, RepositoryBusyError, RepositoryError

SCANNED_FOR_ONE: Final = 3
"""A scan is faster than lookups if it reads up to this many rows for each row that is wanted."""

_SCAN_FROM: Final = 100
_BUSY_SECONDS: Final = 30
_COPY_TRIES: Final = 10
_COLUMNS: Final = "hashkey, pack_id, offset, length, compressed, size"
_ROW: Final = f"SELECT {_COLUMNS} FROM db_object WHERE hashkey = ?"
# An invalid row is left out of a bulk read, and is an error when it is read alone.
_TYPED: Final = " AND ".join(f"typeof({name}) = 'integer'" for name in ("pack_id", "offset", "length", "size"))
_ROWS: Final = f"SELECT {_COLUMNS} FROM json_each(?) CROSS JOIN db_object ON hashkey = value WHERE {_TYPED}"
_SCAN: Final = f"SELECT {_COLUMNS} FROM db_object WHERE {_TYPED}"
_UNEXPECTED: Final = "SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')"  # they could run endlessly
_PRESENT: Final = "SELECT hashkey FROM json_each(?) CROSS JOIN db_object ON hashkey = value"


_UNSUPPORTED: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
}
"""What SQLite reports on a file system without locks or shared memory. That the disk is full is another code."""

NO_ROW: Final = (ValueError, TypeError, OverflowError, MemoryError)
"""The errors of reading what an invalid row names."""

RawRow = tuple[str, int, int, int, int, int]
"""A :class:`Row` as SQLite returns it, which is faster for many."""


class Row(NamedTuple):
    """The location of a packed object: ``length`` bytes at ``offset`` in its pack, ``size`` when decompressed."""

    key: str
    pack_id: int
    offset: int
    length: int
    compressed: bool
    size: int

    def is_valid(self) -> bool:
        """Return whether the values that say where the object is are integers. SQLite's columns take any value."""
        return all(type(value) is int for value in (self.pack_id, self.offset, self.length, self.size))


def connect(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """Return a connection to an index, which begins no transaction by itself and which any thread may use.

    :param mode: a parameter of SQLite's URI, such as ``mode=rw``.
    :param timeout: how many seconds it waits for a lock.
    :raises sqlite3.Error: if there is no such file, or not at this moment.
    """
    uri = f"{path.as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


class Index:
    """A connection to a container's index, for one thread at a time. No call leaves a transaction open.

    :param layout: the container's.
    :raises RepositoryError: if the index cannot be opened.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.index_file
        self._copy: _PrivateCopy | None = None
        self.reusable: bool = True
        try:
            self._connection = self._connect(self._path, "mode=rw")
        except RepositoryError as error:
            if isinstance(error, RepositoryBusyError) or os.access(layout.folder, os.W_OK):
                raise
            self._connection = self._connect_read_only(layout)
            self.reusable = False
        self._execute = self._connection.cursor().execute

    def _connect_read_only(self, layout: Layout) -> sqlite3.Connection:
        """Open the index of a folder that cannot be written to, in which SQLite cannot create a ``-shm`` file.

        With ``immutable=1`` SQLite needs none, but it ignores the ``-wal`` file with its committed transactions. So
        this is for an index without one. It does not notice a writer that starts later, so it is for one call.
        """
        if any(found and found[2] for found in _signatures(self._path)[1:]):  # a journal that is not empty
            self._copy = _private_copy(layout)
            return self._connect(self._copy.path, "mode=rw", "PRAGMA query_only = ON")
        return self._connect(self._path, "immutable=1")

    def _connect(self, path: Path, mode: str, *pragmas: str) -> sqlite3.Connection:
        with _sqlite_errors(self._path):
            connection = connect(path, mode, _BUSY_SECONDS)
            try:
                for pragma in ("PRAGMA synchronous = FULL", *pragmas):  # FULL is not the default of every build
                    connection.execute(pragma)
                if connection.execute(_UNEXPECTED).fetchone()[0]:
                    raise sqlite3.DatabaseError("there are views or triggers in it")
                connection.execute(_ROW, ("",)).fetchall()  # opens the file, and checks the table and its columns
            except BaseException:
                connection.close()
                raise
            return connection

    def row(self, key: str) -> Row | None:
        """Return the row of an object, None if it is not packed."""
        rows = self.raw_row(key)
        if not rows:
            return None
        row = Row._make(rows[0])
        if not row.is_valid():
            raise CorruptObjectError(key, f"its row in the index {self._path} has values that are not numbers: {row}")
        return row

    def raw_row(self, key: str) -> list[RawRow]:
        """Return the same as a list of one plain tuple or none, which is faster."""
        return self._all(_ROW, key)

    def rows(self, keys: Iterable[str]) -> list[RawRow]:
        """Return the rows of the objects that are packed, as plain tuples, ordered by key."""
        return self._all(_ROWS, json.dumps(sorted(keys)))

    def scan(self, keys: set[str]) -> list[RawRow]:
        """Return the same, in any order, from a scan of the whole table: faster for a large part of it."""
        with _sqlite_errors(self._path):
            return [row for row in self._execute(_SCAN) if row[0] in keys]

    def count_at_most(self) -> int:
        """Return an upper bound of the number of packed objects, without counting."""
        return int(self._all("SELECT coalesce(max(id), 0) FROM db_object")[0][0])

    def present(self, keys: Iterable[str]) -> set[str]:
        """Return the keys whose objects are packed."""
        wanted = set(keys)
        if len(wanted) > _SCAN_FROM and self.count_at_most() < SCANNED_FOR_ONE * len(wanted):
            return wanted.intersection(key for (key,) in self._all("SELECT hashkey FROM db_object"))
        return {key for (key,) in self._all(_PRESENT, json.dumps(sorted(wanted)))}

    def keys(self, first: str, end: str) -> list[str]:
        """Return the keys of packed objects from ``first`` to before ``end``, in order."""
        statement = "SELECT hashkey FROM db_object WHERE hashkey >= ? AND hashkey < ? ORDER BY hashkey"
        return [key for (key,) in self._all(statement, first, end)]

    def count(self) -> int:
        """Return the number of packed objects."""
        return int(self._all("SELECT count(*) FROM db_object")[0][0])

    def sums(self) -> tuple[int, int]:
        """Return the sizes of all packed objects in bytes: decompressed, and in the packs."""
        sums = "SELECT CAST(total(size) AS INTEGER), CAST(total(length) AS INTEGER) FROM db_object"
        size, length = self._all(sums)[0]
        return size, length

    def version(self) -> int:
        """Return a number that changes when another connection has changed the index."""
        return int(self._all("PRAGMA data_version")[0][0])

    def insert(self, rows: Sequence[RawRow]) -> int:
        """Add the objects that are not in the index, in one transaction that is durable on return; return how many."""
        # In order SQLite writes each page of the key index once: 100,000 rows into a million take half as long so.
        return self._write(f"INSERT OR IGNORE INTO db_object ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", sorted(rows))

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects, in one transaction that is durable on return."""
        self._write("DELETE FROM db_object WHERE hashkey = ?", [(key,) for key in keys])

    def rows_of_pack(self, pack_id: int) -> list[RawRow]:
        """Return the rows of all objects in a pack, valid or not, in their order there."""
        return self._all(f"SELECT {_COLUMNS} FROM db_object WHERE pack_id = ? ORDER BY offset", pack_id)

    def end_of_pack(self, pack_id: int) -> int:
        """Return where the last object in a pack ends; a number beyond every file if an invalid row names the pack."""
        end = f"CASE WHEN {_TYPED} THEN offset + length ELSE {2**62} END"
        return int(self._all(f"SELECT coalesce(max({end}), 0) FROM db_object WHERE pack_id = ?", pack_id)[0][0])

    def pack_ids(self) -> list[int]:
        """Return the numbers of the packs that contain objects."""
        return [
            int(pack_id)
            for (pack_id,) in self._all("SELECT DISTINCT pack_id FROM db_object WHERE typeof(pack_id) = 'integer'")
        ]

    def lengths(self) -> dict[int, int]:
        """Return for each pack the number of bytes that belong to objects."""
        # The sum of what is no length may be no integer, or too large for one.
        return dict(self._all("SELECT pack_id, CAST(total(length) AS INTEGER) FROM db_object GROUP BY pack_id"))

    def remove_rows(self, rows: Sequence[RawRow]) -> None:
        """Remove those of the rows, valid or not, that have not changed, in one transaction."""
        self._write(
            "DELETE FROM db_object WHERE hashkey = ? AND pack_id IS ? AND offset IS ? AND length IS ? "
            "AND compressed IS ? AND size IS ?",
            rows,
        )

    def move(self, rows: Sequence[RawRow], pack_id: int, offsets: Sequence[int]) -> None:
        """Set pack and offset of the objects whose rows have not changed, in one transaction."""
        self._write(
            "UPDATE db_object SET pack_id = ?, offset = ? WHERE hashkey = ? AND pack_id = ? AND offset = ?",
            [(pack_id, offset, row[0], row[1], row[2]) for row, offset in zip(rows, offsets, strict=True)],
        )

    def _write(self, statement: str, rows: Sequence[tuple[str | int, ...]]) -> int:
        with _sqlite_errors(self._path):
            self._execute("BEGIN IMMEDIATE")
            try:
                changed = self._connection.executemany(statement, rows).rowcount
                self._execute("COMMIT")
                return changed
            except BaseException:
                if self._connection.in_transaction:  # on a full disk SQLite has rolled back already
                    self._execute("ROLLBACK")
                raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other connections from writing to the index, and wait until their transactions have ended."""
        with _sqlite_errors(self._path):
            self._execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._execute("ROLLBACK")

    def discard_unfinished(self) -> None:
        """Overwrite what the write-ahead log has after its last transaction.

        A process that is killed in the fsync of a commit leaves a whole transaction there. No connection sees it, but
        recovery after a crash takes it for committed, so its bytes must stay until it is overwritten.
        """
        [(version,)] = self._all("PRAGMA user_version")
        self._all(f"PRAGMA user_version = {version:d}")  # writes a page, although nothing changes

    def vacuum(self) -> None:
        """Rewrite the index in order and without free pages; no other process may use it."""
        self._all("VACUUM")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _all(self, statement: str, *parameters: str | int) -> list[Any]:
        try:
            # Fetch every row: a statement that is not run to its end keeps its read transaction open.
            return self._execute(statement, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            with _sqlite_errors(self._path):
                raise


class _PrivateCopy:
    """A copy of an index and its journals in a temporary folder, which is removed with the last reference to this.

    :raises RepositoryError: if it cannot be created.
    """

    def __init__(self, index: Path) -> None:
        try:
            folder = Path(tempfile.mkdtemp(prefix="objrepo-index-"))
            weakref.finalize(self, _remove_folder, folder, os.getpid())
            self.path = folder / index.name
            for _ in range(_COPY_TRIES):
                self.signatures = _signatures(index)
                for path in (index, *_journals(index)):
                    (folder / path.name).unlink(missing_ok=True)
                    with suppress(FileNotFoundError):
                        copy_file(path, folder / path.name)
                if self.signatures == _signatures(index):
                    return
        except OSError as error:
            size = sum(found[2] for found in _signatures(index) if found)
            raise RepositoryError(
                f"the index {index} is on a read-only place and its journal {index}-wal can only be read from a copy, "
                f"which cannot be created: {error}; set TMPDIR to a folder with {size} free bytes"
            ) from error
        raise RepositoryBusyError(f"the index {index} changes while it is copied; try again later")


_copies: weakref.WeakKeyDictionary[Layout, _PrivateCopy] = weakref.WeakKeyDictionary()
_copies_lock: Final = threading.Lock()


def _private_copy(layout: Layout) -> _PrivateCopy:
    """Return a copy of the index as it is now; calls share it until the index changes."""
    with _copies_lock:
        copy = _copies.get(layout)
        if copy is None or copy.signatures != _signatures(layout.index_file):
            copy = _copies[layout] = _PrivateCopy(layout.index_file)
        return copy


def _journals(index: Path) -> list[Path]:
    return [index.with_name(f"{index.name}-{suffix}") for suffix in ("wal", "journal")]


def _signatures(index: Path) -> list[FileSignature | None]:
    """Return the state of an index and its journals, by the time at which their bytes changed.

    SQLite, run by root, sets the owner of a journal whenever it tries to open it, which changes its ``ctime``.
    """
    found = (status(path) for path in (index, *_journals(index)))
    return [each and (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


def _remove_folder(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked process leaves its parent's files alone
        shutil.rmtree(folder, ignore_errors=True)


def index_error(path: Path, error: BaseException) -> RepositoryError | OSError:
    """Return the error that tells users why an index cannot be used.

    :param path: the index.
    :param error: what SQLite raised, or decoding text from it.
    """
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return RepositoryBusyError(f"the index {path} is locked by another process: {error}; try again later")
    if primary in {None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return RepositoryError(f"the index {path} is damaged: {error}; restore it from a backup")
    try:  # The system says why the file cannot be opened, and SQLite does not.
        path.stat()
        if not os.access(path, os.R_OK):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        # Not the index: to close any descriptor of it would release the locks of this process's connections.
        open(os.devnull, "rb").close()
    except OSError as reason:
        return OSError(reason.errno, reason.strerror, str(path))
    if code in _UNSUPPORTED:
        return RepositoryError(
            f"the index {path} cannot be opened: {error}; SQLite needs file locks and shared memory, which network "
            "file systems (NFS, CIFS, Lustre) may lack, and a path of less than 512 bytes: use a local file system"
        )
    return RepositoryError(f"the index {path} cannot be used: {error}")


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter if SQLite's message quotes bytes that are no text
        raise index_error(path, error) from error
