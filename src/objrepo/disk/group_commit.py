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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from objrepo.disk.index import RawRow
from objrepo.disk.locks import own_pack_lock
from objrepo.disk.safe_open import file_id, safe_open, signature
from objrepo.disk.session import ContainerSession
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.sources import write_all

__all__ = ("FIRST_OWN_PACK", "is_rolled_back", "put_group")

FIRST_OWN_PACK: Final = 1_000_000
"""The number of the first pack that groups are written to."""

_TRIES: Final = 5

Buffer = bytes | bytearray | memoryview


def put_group(session: ContainerSession, contents: Sequence[Buffer]) -> list[str]:
    """Store objects durably, all or none.

    :return: their keys, in the order of the contents.
    """
    hasher = getattr(hashlib, session.config.hash_type)  # quicker than `hashlib.new`
    keys = [hasher(content).hexdigest() for content in contents]
    objects = dict(zip(keys, contents, strict=True))
    for _ in range(_TRIES):
        # Only packed objects are skipped: a loose copy beside a packed one is normal after an interrupted packing, and
        # to look for 256 files costs more than to write 256 small objects.
        existing = session.index.rows(objects)
        for pack_id in {row[1] for row in existing}:
            session.packs.fsync(pack_id)  # the process that wrote it may not have done so yet
        objects = {key: content for key, content in objects.items() if key not in {row[0] for row in existing}}
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


def _commit(session: ContainerSession, objects: dict[str, Buffer]) -> bool:
    """Append objects to a pack and insert their rows; return whether all of them are durable."""
    with _own_pack(session) as (pack_id, pack):
        start = pack.seek(0, os.SEEK_END)
        rows = _append(pack, pack_id, objects)
        try:
            inserted = session.index.insert(rows)
        except (RepositoryError, OSError) as error:
            if is_rolled_back(error):
                pack.truncate(start)
            raise
        present = signature(session.packs.path(pack_id))
        if present is None or present[:2] != file_id(os.fstat(pack.fileno())):
            session.index.remove_rows(rows)
            return False
        if inserted < len(rows):  # keys of another writer, whose pack needs an fsync
            for key in objects:
                session.index.row(key)  # raises if the row that was in the way is damaged
        return inserted == len(rows)


@contextmanager
def _own_pack(session: ContainerSession) -> Iterator[tuple[int, BinaryIO]]:
    """Lock and open for appending the first pack for groups that is neither full nor locked."""
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
                    with safe_open(path, "ab") as pack:
                        yield pack_id, cast("BinaryIO", pack)
                    return
        pack_id += 1


def _append(pack: BinaryIO, pack_id: int, objects: dict[str, Buffer]) -> list[RawRow]:
    """Write objects to the end of a pack and fsync it; on an error truncate it to its former size."""
    start = pack.seek(0, os.SEEK_END)
    data = b"".join(objects.values())
    rows = []
    offset = start
    for key, content in objects.items():
        size = memoryview(content).nbytes
        rows.append((key, pack_id, offset, size, 0, size))
        offset += size
    try:
        with with_path(pack.name):
            write_all(pack, data)
            fsync_file(pack)
        fsync_directory(Path(pack.name).parent)  # the process that made the pack may have been killed before its fsync
    except BaseException:
        pack.truncate(start)
        raise
    return rows
