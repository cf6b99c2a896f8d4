"""Group commit: many small objects by one append to a pack, one fsync, and one transaction of the index.

These packs are numbered from 1,000,000 up. disk-objectstore fills packs from 0 on and never reaches these numbers, so
its pack locks are not needed. Writers of objrepo take a lock for each such pack, and append to the first one that is
neither full nor locked.

A crash after the append leaves bytes that no row names. A key that another writer has inserted meanwhile keeps its
row. A repack by a process that assumes exclusive use may replace the pack file meanwhile: this is detected after the
commit, and the rows are removed and written again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

from objrepo.disk.index import RawRow
from objrepo.disk.layout import FIRST_OWN_PACK
from objrepo.disk.locks import own_pack_lock
from objrepo.disk.safe_open import file_id, safe_open, signature
from objrepo.disk.session import ContainerSession
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.sources import write_all

if TYPE_CHECKING:
    from io import FileIO

_TRIES: Final = 5

Buffer = bytes | bytearray | memoryview
BufferT = TypeVar("BufferT", bound=Buffer)


def put_group(session: ContainerSession, contents: Sequence[Buffer]) -> list[str]:
    """Store objects durably, all or none.

    :return: their keys, in the order of the contents.
    """
    hasher = getattr(hashlib, session.config.hash_type)  # quicker than `hashlib.new`
    keys = [hasher(content).hexdigest() for content in contents]
    objects = dict(zip(keys, contents, strict=True))
    for _ in range(_TRIES):
        objects = without_packed(session, objects)
        if not objects or _commit(session, objects):
            return keys
    raise RepositoryError(
        f"another process replaced the packs of {session.layout.folder} {_TRIES} times while they were written; "
        "end the maintenance that assumes exclusive use, then try again"
    )


def is_rolled_back(error: Exception) -> bool:
    """Return whether a transaction that failed is certainly undone, also after a crash.

    When the fsync of SQLite's write-ahead log fails, the log holds the whole transaction: recovery after a crash takes
    it for committed, so the bytes that its rows name must stay.
    """
    code = getattr(error.__cause__, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF != sqlite3.SQLITE_IOERR


def without_packed(session: ContainerSession, objects: dict[str, BufferT]) -> dict[str, BufferT]:
    """Return the objects that are not packed; those that are packed are made durable."""
    # Loose objects are not looked up: a loose copy beside a packed one is normal after an interrupted packing, and to
    # look for 256 files costs more than to write 256 small objects.
    packed = session.index.rows(objects)
    for pack_id in {row[1] for row in packed}:
        session.packs.fsync(pack_id)  # the process that wrote it may not have done so yet
    keys = {row[0] for row in packed}
    return {key: content for key, content in objects.items() if key not in keys} if keys else objects


def _commit(session: ContainerSession, objects: dict[str, Buffer]) -> bool:
    """Append objects to a pack and insert their rows; return whether all of them are durable."""
    with own_pack(session) as (pack_id, pack):
        start = pack.seek(0, os.SEEK_END)
        rows = append(pack, pack_id, objects)
        return insert(session, pack, start, rows)


@contextmanager
def own_pack(session: ContainerSession) -> Iterator[tuple[int, FileIO]]:
    """Lock and open for reading and appending the first pack for groups that is neither full nor locked."""
    pack_id = FIRST_OWN_PACK
    while True:
        path = session.packs.path(pack_id)
        try:
            full = os.stat(path).st_size >= session.config.pack_size_target  # noqa: PTH116
        except FileNotFoundError:
            full = False
        if not full:
            with own_pack_lock(session.layout.folder, pack_id, timeout=0) as locked:
                if locked:
                    with safe_open(path, "ab+") as pack:
                        yield pack_id, pack
                    return
        pack_id += 1


def append(pack: FileIO, pack_id: int, objects: Mapping[str, Buffer]) -> list[RawRow]:
    """Write objects to the end of a pack and return their rows; on an error truncate it to its former size."""
    start = pack.seek(0, os.SEEK_END)
    rows = []
    offset = start
    for key, content in objects.items():
        size = len(content)
        rows.append((key, pack_id, offset, size, 0, size))
        offset += size
    try:
        with with_path(pack.name):
            write_all(pack, b"".join(objects.values()))
    except BaseException:
        pack.truncate(start)
        raise
    return rows


def insert(session: ContainerSession, pack: FileIO, start: int, rows: Sequence[RawRow]) -> bool:
    """Make what was appended to a pack durable, and insert its rows; return whether all of them are valid.

    :param start: the size of the pack before it was appended to; it is truncated to that size after an error.
    """
    path = Path(cast("str", pack.name))
    try:
        with with_path(path):
            fsync_file(pack)
        fsync_directory(path.parent)  # the process that made the pack may have been killed before its fsync
    except BaseException:
        pack.truncate(start)
        raise
    try:
        inserted = session.index.insert(rows)
    except (RepositoryError, OSError) as error:
        if is_rolled_back(error):
            pack.truncate(start)
        raise
    present = signature(path)
    if present is None or present[:2] != file_id(os.fstat(pack.fileno())):
        session.index.remove_rows(rows)
        return False
    if inserted < len(rows):  # keys of another writer, whose pack needs an fsync
        for row in rows:
            session.index.row(row[0])  # raises if the row that was in the way is damaged
    return inserted == len(rows)
