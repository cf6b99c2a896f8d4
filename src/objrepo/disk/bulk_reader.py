"""Reading many objects: in the order in which they lie in the packs, with neighbours joined into one read.

Rows are looked up once, for all objects, and used later, when the objects' turn comes. By then a repack may have put
another file under a pack's name, so the state of each pack is noted when the rows are read: see :func:`plan`. Which
file it is would not be enough, as nobody keeps the file open, and another one may get its inode.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from objrepo.disk.index import NO_ROW, SCANNED_FOR_ONE, RawRow
from objrepo.disk.pack_files import FileSignature, read_at, signature_of
from objrepo.disk.reader import has_objects, open_object
from objrepo.disk.session import ContainerSession
from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.offload import UNBATCHED
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES, OpenedObject

__all__ = ("FileSignatures", "Item", "open_items", "plan", "read_each")

FileSignatures = Mapping[int, FileSignature | None]
"""The state of each pack."""

Item = RawRow | str
"""A row of the index, or the key of an object that is not packed or that is to be looked up again."""

_PLANNED_AT_MOST: Final = 100_000
"""For so many objects rows are held in memory, about 30 MB. More are looked up when their turn comes, in no order."""

_JOINED_BYTES: Final = 1024 * 1024
_GAP_BYTES: Final = 4096
_TRIES: Final = 3

_KEYS_AT_ONCE: Final = BATCH_BYTES // CHUNK_BYTES
"""How many small objects are read without asking how large each is, and still are no more than a batch."""


def plan(lease: ContainerSession, keys: Sequence[str], repository: object) -> tuple[list[Item], FileSignatures]:
    """Look up objects, and put them in the order in which reading them is fastest.

    :return: items for :func:`open_items`, and the state of each pack at the time.
    :raises ObjectNotFoundError: naming every key whose object is not there.
    """
    if len(keys) > _PLANNED_AT_MOST:
        found = set[str]()
        for start in range(0, len(keys), _PLANNED_AT_MOST):
            found |= has_objects(lease, keys[start : start + _PLANNED_AT_MOST])
        _require(keys, found, repository)
        return list(keys), {}
    rows, stamps = _rows(lease, keys)
    loose: list[str] = []
    if len(rows) < len(keys):
        packed = {row[0] for row in rows}
        loose = [key for key in keys if key not in packed]
        _require(keys, packed | has_objects(lease, loose), repository)
    rows.sort(key=itemgetter(1, 2))
    return [*rows, *loose], stamps


def open_items(
    lease: ContainerSession, stamps: FileSignatures, items: Sequence[Item], repository: object
) -> list[OpenedObject]:
    """Open objects, from the first on, until there is enough for one hop or one is too large to be held whole.

    :raises ObjectNotFoundError: if one has been deleted since it was looked up.
    """
    batch: list[OpenedObject] = []
    size = 0
    try:
        while len(batch) < len(items) and size < BATCH_BYTES:
            position = len(batch)
            end = len(items) if position == 0 and _is_dense(items) else _end_of_run(items, position)
            run = _read_run(lease, stamps, items[position:end]) if end > position else None
            batch += run or _open_keys(lease, items[position : position + _KEYS_AT_ONCE], repository)
            size += sum(len(opened.head) for opened in batch[position:])
            if batch[-1].handle is not None:
                break
    except (RepositoryError, OSError):
        if not batch:
            raise
        # What was opened is good. The error comes again when its object is the first.
    except BaseException:
        for opened in batch:
            opened.close()
        raise
    return batch


def read_each(lease: ContainerSession, keys: Sequence[str], repository: object) -> dict[str, Any]:
    """Read small objects that have nothing to do with each other.

    :return: for each key the content, an error, or ``UNBATCHED`` where the object is large.
    """
    if len(keys) == 1:
        return {keys[0]: _read_one(lease, keys[0], repository)}
    outcomes: dict[str, Any] = {}
    for pack_id, rows in groupby(sorted(lease.index.rows(keys), key=itemgetter(1)), key=itemgetter(1)):
        descriptor = _good_descriptor(lease, pack_id)
        for key, _, offset, length, compressed, _ in rows:
            if descriptor is None or compressed or length > CHUNK_BYTES:
                continue
            content = _read(descriptor, length, offset)
            if content is not None:
                outcomes[key] = content
    for key in keys:
        if key not in outcomes:
            outcomes[key] = _read_one(lease, key, repository)
    return outcomes


def _good_descriptor(lease: ContainerSession, pack_id: int) -> int | None:
    """Return a pack's descriptor if it is good for rows that were read before."""
    lease.packs.trim()
    try:
        descriptor, _, opened = lease.packs.descriptor(pack_id)
    except (OSError, RepositoryError):
        return None
    return None if opened else descriptor


def _read_one(lease: ContainerSession, key: str, repository: object) -> Any:
    try:
        opened = open_object(lease, key)
    except (RepositoryError, OSError) as error:
        return error
    if opened is None:
        return ObjectNotFoundError([key], repository)
    if opened.handle is None:
        return opened.head
    opened.close()
    return UNBATCHED


def _rows(lease: ContainerSession, keys: Sequence[str]) -> tuple[list[RawRow], FileSignatures]:
    """Return the rows of objects, with the states of the packs, as long as nobody changed the index."""
    rows = []
    for _ in range(_TRIES):
        version = lease.index.version()
        scan = lease.index.count_at_most() < SCANNED_FOR_ONE * len(keys)
        rows = lease.index.scan(set(keys)) if scan else lease.index.rows(keys)
        stamps = {pack_id: lease.packs.signature(pack_id) for pack_id in {row[1] for row in rows}}
        if lease.index.version() == version:
            return rows, stamps
    return rows, {}  # somebody writes all the time: look them up again, one by one


def _require(keys: Sequence[str], found: set[str], repository: object) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise ObjectNotFoundError(missing, repository)


def _is_dense(items: Sequence[Item]) -> bool:
    """Say whether one read gives all items: they are in their order, so that it is enough to look at both ends."""
    first, last = items[0], items[-1]
    return (
        not isinstance(first, str)
        and not isinstance(last, str)
        and first[1] == last[1]
        and last[2] + last[3] - first[2] <= _JOINED_BYTES
        and not any(map(itemgetter(4), items))
    )


def _end_of_run(items: Sequence[Item], position: int) -> int:
    """Return where the small uncompressed objects end that lie next to each other in one pack, from a position on."""
    first = items[position]
    if isinstance(first, str):
        return position
    _, pack, start, _, _, _ = first
    here = start
    for end in range(position, len(items)):
        item = items[end]
        if isinstance(item, str):
            return end
        _, pack_id, offset, length, compressed, _ = item
        if (
            compressed
            or pack_id != pack
            or length > CHUNK_BYTES
            or not 0 <= offset - here <= _GAP_BYTES
            or offset + length - start > _JOINED_BYTES
        ):
            return end
        here = offset + length
    return len(items)


def _read_run(lease: ContainerSession, stamps: FileSignatures, items: Sequence[Item]) -> list[OpenedObject] | None:
    """Read neighbours at once; None if their pack has changed since or ends early: each says then what it is."""
    rows = [item for item in items if not isinstance(item, str)]
    _, pack, start, _, _, _ = rows[0]
    lease.packs.trim()
    try:
        descriptor, _, _ = lease.packs.descriptor(pack)
    except (OSError, RepositoryError):
        return None
    if signature_of(os.fstat(descriptor)) != stamps.get(pack):
        return None
    _, _, last, length, _, _ = rows[-1]
    data = _read(descriptor, last + length - start, start)
    if data is None:
        return None
    run = [
        OpenedObject(key, length, data[offset - start : offset - start + length], None)
        for key, _, offset, length, _, _ in rows
    ]
    # Only an index that somebody else has written has objects that lie across others.
    return run if all(len(opened.head) == opened.size for opened in run) else None


def _read(descriptor: int, length: int, offset: int) -> bytes | None:
    """Read bytes of a pack; None where that fails, or gives less: whoever reads one object says what is wrong."""
    try:
        data = read_at(descriptor, length, offset)
    except (OSError, *NO_ROW):
        return None
    return data if len(data) == length else None


def _open_keys(lease: ContainerSession, items: Sequence[Item], repository: object) -> list[OpenedObject]:
    """Look objects up again, and open them, from the first on, up to a large one or one that cannot be read."""
    keys = [item if isinstance(item, str) else item[0] for item in items]
    rows = {row[0]: row for row in lease.index.rows(keys)}
    batch: list[OpenedObject] = []
    for key in keys:
        try:
            batch.append(_read_row(lease, rows.get(key)) or _open_one(lease, key, repository))
        except (RepositoryError, OSError):
            if not batch:
                raise
            break
        if batch[-1].handle is not None:
            break
    return batch


def _read_row(lease: ContainerSession, row: RawRow | None) -> OpenedObject | None:
    """Read a small object if it is packed as it is in a pack that is open already."""
    if row is None or row[4] or row[3] > CHUNK_BYTES or (descriptor := _good_descriptor(lease, row[1])) is None:
        return None
    key, _, offset, length, _, _ = row
    content = _read(descriptor, length, offset)
    return None if content is None else OpenedObject(key, length, content, None)


def _open_one(lease: ContainerSession, key: str, repository: object) -> OpenedObject:
    opened = open_object(lease, key)
    if opened is None:
        raise ObjectNotFoundError([key], repository)
    return opened
