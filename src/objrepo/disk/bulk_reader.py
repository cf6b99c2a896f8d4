"""Reading many objects, in the order in which they lie in the packs, with adjacent objects joined into one read.

Rows are looked up once, for all objects, and used later. By then a repack may have put another file under a pack's
name, so the signature of each pack is read together with the rows: see :func:`plan`. Device and inode would not be
enough: the file is not kept open, and another one may reuse its inode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, repeat
from operator import attrgetter, itemgetter
from typing import Any, Final, cast

from objrepo.disk.index import NO_ROW, SCANNED_FOR_ONE, RawRow
from objrepo.disk.pack_files import read_at
from objrepo.disk.reader import has_objects, open_object, read_object
from objrepo.disk.safe_open import FileSignature, signature, signature_of
from objrepo.disk.session import ContainerSession
from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES, OpenedObject, fill_batch

FileSignatures = Mapping[int, FileSignature | None]
"""The signature of each pack."""

Item = RawRow | str
"""A row of the index, or the key of an object that is not packed or that is to be looked up again."""

_KEY: Final = itemgetter(0)
_LENGTH: Final = itemgetter(3)
_SIZE: Final = attrgetter("size")

PLACE: Final = itemgetter(1, 2)
"""Sorts rows in the order in which their objects lie in the packs."""

_PLANNED_AT_MOST: Final = 100_000
"""For so many objects rows are kept in memory, about 30 MB. More objects are looked up in batches, in no order."""

_JOINED_BYTES: Final = 1024 * 1024
_GAP_BYTES: Final = 4096
_TRIES: Final = 3

_KEYS_AT_ONCE: Final = BATCH_BYTES // CHUNK_BYTES
"""How many small objects are read without asking how large each is, and still are no more than a batch."""


def plan(session: ContainerSession, keys: Sequence[str], repository: object) -> tuple[list[Item], FileSignatures]:
    """Look up objects, and sort them in the order in which reading them is fastest.

    :return: items for :func:`open_items`, and the signature of each pack at the time.
    :raises ObjectNotFoundError: naming every key whose object does not exist.
    """
    if len(keys) > _PLANNED_AT_MOST:
        found = set[str]()
        for start in range(0, len(keys), _PLANNED_AT_MOST):
            found |= has_objects(session, keys[start : start + _PLANNED_AT_MOST])
        _require(keys, found, repository)
        return list(keys), {}
    rows, signatures = _rows(session, keys)
    loose: list[str] = []
    if len(rows) < len(keys):
        packed = {row[0] for row in rows}
        loose = [key for key in keys if key not in packed]
        _require(keys, packed | has_objects(session, loose), repository)
    return [*rows, *loose], signatures


def open_items(
    session: ContainerSession, signatures: FileSignatures, items: Sequence[Item], repository: object
) -> list[OpenedObject]:
    """Open objects, from the first on, until a batch is full; see :func:`~objrepo.streams.fill_batch`.

    :raises ObjectNotFoundError: if one was deleted since it was looked up.
    """
    return fill_batch(_open_runs(session, signatures, items, repository))


def _open_runs(
    session: ContainerSession, signatures: FileSignatures, items: Sequence[Item], repository: object
) -> Iterator[list[OpenedObject]]:
    position = 0
    while position < len(items):
        opened = _read_pack(session, items, position, signatures)
        if not opened:
            opened = fill_batch(_open_keys(session, items[position : position + _KEYS_AT_ONCE], repository))
        yield opened
        position += len(opened)


def read_adjacent(session: ContainerSession, rows: Sequence[RawRow]) -> Iterator[OpenedObject]:
    """Read small uncompressed objects, adjacent ones at once, for a caller that compares their hashes.

    Left out are those that cannot be read so; what is read of a pack that was replaced meanwhile may be other bytes.

    :param rows: the rows of the objects, in the order of the packs.
    """
    position = 0
    while position < len(rows):
        opened = _read_pack(session, rows, position)
        yield from opened
        position += len(opened) or 1


def read_each(session: ContainerSession, keys: Sequence[str], repository: object) -> dict[str, Any]:
    """Read small objects in any order.

    :return: for each key the content, the error of reading it, or ``UNBATCHED`` if the object is large.
    """
    outcomes: dict[str, Any] = {}
    if len(keys) > 1:
        for pack_id, rows in groupby(sorted(session.index.rows(keys), key=itemgetter(1)), key=itemgetter(1)):
            descriptor = _valid_descriptor(session, pack_id)
            for row in rows:
                key, _, offset, length, compressed, _ = row
                if descriptor is None or compressed or length > CHUNK_BYTES:
                    continue
                content = _read(descriptor, length, offset)
                if content is not None:
                    outcomes[key] = content
                    session.remember(row, is_open=True)
    for key in keys:
        if key not in outcomes:
            outcomes[key] = _read_one(session, key, repository)
    return outcomes


def _read_one(session: ContainerSession, key: str, repository: object) -> Any:
    try:
        content = read_object(session, key, CHUNK_BYTES)
    except (RepositoryError, OSError) as error:
        return error
    return ObjectNotFoundError([key], repository) if content is None else content


def _valid_descriptor(session: ContainerSession, pack_id: int) -> int | None:
    """Return the descriptor of a pack if it is valid for rows that were read before."""
    session.packs.trim()
    try:
        descriptor, opened = session.packs.descriptor(pack_id)
    except (OSError, RepositoryError):
        return None
    return None if opened else descriptor


def _rows(session: ContainerSession, keys: Sequence[str]) -> tuple[list[RawRow], FileSignatures]:
    """Return the rows of objects in the order of the packs, and the signatures of these when the rows were valid."""
    rows = []
    for _ in range(_TRIES):
        version = session.index.version()
        scan = session.index.count_at_most() < SCANNED_FOR_ONE * len(keys)
        rows = session.index.scan(set(keys)) if scan else session.index.rows(keys)
        rows.sort(key=PLACE)  # most rows of a scan are in this order, so that SQLite's ORDER BY takes longer
        signatures = {pack_id: signature(session.packs.path(pack_id)) for pack_id in {row[1] for row in rows}}
        if session.index.version() == version:
            return rows, signatures
    return rows, {}  # another process writes all the time: the objects are looked up again, one by one


def _require(keys: Sequence[str], found: set[str], repository: object) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise ObjectNotFoundError(missing, repository)


def _read_pack(
    session: ContainerSession, items: Sequence[Item], position: int, signatures: FileSignatures | None = None
) -> list[OpenedObject]:
    """Read the small uncompressed objects from a position on that are in one pack, up to a batch.

    :param signatures: of the packs when the rows were valid.
    :return: none if the pack has changed since then; the objects up to the first one that cannot be read so.
    """
    first = items[position]
    if isinstance(first, str):
        return []
    session.packs.trim()
    try:
        descriptor, _ = session.packs.descriptor(first[1])
    except (OSError, RepositoryError):
        return []

    def is_unchanged() -> bool:
        return signatures is None or signature_of(os.fstat(descriptor)) == signatures.get(first[1])

    opened: list[OpenedObject] = []
    size = 0 if is_unchanged() else BATCH_BYTES
    while size < BATCH_BYTES and (end := _end_of_run(items, position, first[1])) > position:
        run = _read_run(descriptor, cast("Sequence[RawRow]", items[position:end]))
        if not run:
            break
        opened += run
        size += sum(map(_SIZE, run))
        position = end
    return opened if is_unchanged() else []


def _end_of_run(items: Sequence[Item], position: int, pack: int) -> int:
    """Return where the small uncompressed objects end that lie next to each other in a pack, from a position on."""
    if position == 0 and _is_dense(items):
        return len(items)
    start = here = None
    for end in range(position, len(items)):
        item = items[end]
        if isinstance(item, str):
            return end
        _, pack_id, offset, length, compressed, _ = item
        if start is None or here is None:
            start = here = offset
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


def _is_dense(items: Sequence[Item]) -> bool:
    """Say whether one read returns all items; they are sorted, so that the first and the last one tell."""
    first, last = items[0], items[-1]
    return (
        not isinstance(first, str)
        and not isinstance(last, str)
        and first[1] == last[1]
        and last[2] + last[3] - first[2] <= _JOINED_BYTES
        and not any(map(itemgetter(4), items))
    )


def _read_run(descriptor: int, rows: Sequence[RawRow]) -> list[OpenedObject]:
    """Read adjacent objects at once; none if their pack ends early, or if they overlap as in a damaged index."""
    start = rows[0][2]
    data = _read(descriptor, rows[-1][2] + rows[-1][3] - start, start)
    if data is None:
        return []
    heads = [data[offset - start : offset - start + length] for _, _, offset, length, _, _ in rows]
    if [*map(len, heads)] != [*map(_LENGTH, rows)]:
        return []
    return [*map(OpenedObject, map(_KEY, rows), map(_LENGTH, rows), heads, repeat(None))]


def _read(descriptor: int, length: int, offset: int) -> bytes | None:
    """Read bytes of a pack; None where that fails or returns less: reading the object alone raises the error."""
    try:
        data = read_at(descriptor, length, offset)
    except (OSError, *NO_ROW):
        return None
    return data if len(data) == length else None


def _open_keys(session: ContainerSession, items: Sequence[Item], repository: object) -> Iterator[list[OpenedObject]]:
    """Look objects up again, and open them one by one."""
    keys = [item if isinstance(item, str) else item[0] for item in items]
    rows = {row[0]: row for row in session.index.rows(keys)}
    for key in keys:
        yield [_read_row(session, rows.get(key)) or _open_one(session, key, repository)]


def _read_row(session: ContainerSession, row: RawRow | None) -> OpenedObject | None:
    """Read a small object if it is uncompressed in a pack that is open already."""
    if row is None or row[4] or row[3] > CHUNK_BYTES or (descriptor := _valid_descriptor(session, row[1])) is None:
        return None
    key, _, offset, length, _, _ = row
    content = _read(descriptor, length, offset)
    return None if content is None else OpenedObject(key, length, content, None)


def _open_one(session: ContainerSession, key: str, repository: object) -> OpenedObject:
    opened = open_object(session, key)
    if opened is None:
        raise ObjectNotFoundError([key], repository)
    return opened
