"""Group commit: many small objects by one append to a pack, one flush, and one transaction of the index.

The packs that are written so are numbered from 1,000,000 up. disk-objectstore fills packs from 0 on and never comes
that far, so no lock is needed which its packers take too. Among themselves writers agree by a lock on each such pack;
one that is not full yet is taken up again by the next writer.

What can happen on the way: a crash after the append leaves bytes that belong to nothing; a key that somebody else
stored meanwhile keeps the row it has; and a repack by somebody who believes to be alone may put another file under
the pack's name, which is found after the commit, and the rows are taken back and written anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from objrepo.disk.locks import own_pack_lock
from objrepo.disk.safe_open import safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.sources import write_all

__all__ = ("FIRST_OWN_PACK", "put_group")

FIRST_OWN_PACK: Final = 1_000_000
"""The number of the first pack that groups are written to."""

_TRIES: Final = 5

Buffer = bytes | bytearray | memoryview


def put_group(lease: ContainerSession, contents: Sequence[Buffer]) -> list[str]:
    """Store objects, all or none; on return they are on the disk.

    :return: their keys, in the order of the contents.
    """
    hasher = getattr(hashlib, lease.config.hash_type)  # quicker than `hashlib.new`
    keys = [hasher(content).hexdigest() for content in contents]
    objects = dict(zip(keys, contents, strict=True))
    for _ in range(_TRIES):
        # Only packed ones are left out: a loose copy beside a packed one is as usual as a packer that was interrupted,
        # and to look for 256 files costs more than to write 256 small objects.
        there = lease.index.rows(objects)
        for pack_id in {row[1] for row in there}:
            lease.packs.flush(pack_id)  # whoever put it there may not have come to that yet
        objects = {key: content for key, content in objects.items() if key not in {row[0] for row in there}}
        if not objects:
            return keys
        with _own_pack(lease) as (pack_id, pack):
            rows = _append(pack, pack_id, objects)
            lease.index.insert(rows)
            if lease.packs.identity(pack_id) == _identity(pack):
                return keys
            lease.index.take_back(rows)
    raise RepositoryError(
        f"somebody keeps on replacing the packs of {lease.layout.folder} while they are written; try again later"
    )


@contextmanager
def _own_pack(lease: ContainerSession) -> Iterator[tuple[int, BinaryIO]]:
    """Open for appending the first pack of the kind that is neither full nor somebody else's at this moment."""
    pack_id = FIRST_OWN_PACK
    while True:
        path = lease.packs.path(pack_id)
        if not os.path.exists(path) or os.stat(path).st_size < lease.config.pack_size_target:  # noqa: PTH110, PTH116
            with own_pack_lock(lease.layout.folder, pack_id, timeout=0) as locked:
                if locked:
                    with safe_open(path, "ab") as pack:
                        yield pack_id, cast("BinaryIO", pack)
                    return
        pack_id += 1


def _append(pack: BinaryIO, pack_id: int, objects: dict[str, Buffer]) -> list[tuple[str, int, int, int, int, int]]:
    """Write objects to the end of a pack and flush it; on an error leave it as it was."""
    start = pack.seek(0, os.SEEK_END)
    data = b"".join(objects.values())
    rows = []
    offset = start
    for key, content in objects.items():
        size = memoryview(content).nbytes
        rows.append((key, 0, size, offset, size, pack_id))
        offset += size
    try:
        with with_path(pack.name):
            write_all(pack, data)
            fsync_file(pack)
        fsync_directory(Path(pack.name).parent)  # whoever made the pack may have been killed before
    except OSError:
        pack.truncate(start)
        raise
    return rows


def _identity(pack: BinaryIO) -> tuple[int, int]:
    status = os.fstat(pack.fileno())
    return status.st_dev, status.st_ino
