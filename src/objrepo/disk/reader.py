"""Finding and reading objects in a container: packed, then loose, then packed again.

An object moves from loose to packed while somebody packs, so what is neither may have been moved between the two looks.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, Final, cast

from objrepo.disk.index import NO_ROW, Row
from objrepo.disk.pack_files import inflated, read_at, short_of
from objrepo.disk.safe_open import is_inside, safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import CorruptObjectError, RepositoryError, with_path
from objrepo.streams import CHUNK_BYTES, DecompressingFile, OpenedObject, open_range

__all__ = (
    "find_size",
    "has_object",
    "has_objects",
    "open_loose",
    "open_object",
    "open_packed",
    "read_at_once",
    "read_object",
)

_TRIES: Final = 20

_INFLATED_AT_MOST: Final = 1100
"""How many times as long zlib's data can become when they are decompressed: 1,032, says its technical description."""


def has_object(lease: ContainerSession, key: str) -> bool:
    """Say whether an object is there."""
    return lease.index.has(key) or _is_loose(lease, key) or lease.index.has(key)


def has_objects(lease: ContainerSession, keys: Sequence[str]) -> set[str]:
    """Return those of the keys whose objects are there."""
    found = lease.index.present(keys)
    elsewhere = [key for key in keys if key not in found]
    if elsewhere:
        found.update(key for key in elsewhere if _is_loose(lease, key))
        found.update(lease.index.present(key for key in elsewhere if key not in found))
    return found


def find_size(lease: ContainerSession, key: str) -> int | None:
    """Return the size of an object in bytes, None if it is not there."""
    if (row := lease.index.row(key)) is not None:
        return row.size
    if (status := is_inside(lease.layout.loose_name(lease.config, key))) is not None:
        return status.st_size
    row = lease.index.row(key)
    return None if row is None else row.size


def read_at_once(lease: ContainerSession, key: str) -> bytes | None:
    """Return the content of an object in the common case: packed as it is, in a pack that is open already.

    As the pack is compared with its name, this is also right with a lease that was not compared with its container.

    :return: None where it is not so simple; see :func:`read_object`.
    """
    rows = lease.index.raw_row(key)
    if not rows:
        return None
    _, pack_id, offset, length, compressed, _ = rows[0]
    try:
        descriptor, _, opened = lease.packs.descriptor(pack_id)
        if opened or compressed:
            return None
        content = read_at(descriptor, length, offset)
    except (OSError, RepositoryError, *NO_ROW):  # the other way says what is wrong
        return None
    return content if len(content) == length else None


def read_object(lease: ContainerSession, key: str) -> bytes | None:
    """Return the whole content of an object, None if it is not there."""
    for row in _places(lease, key, lease.index.row(key)):
        if row is None:
            with suppress(FileNotFoundError), _loose_file(lease, key) as file, with_path(file.name, key):
                return file.read()
        elif (content := _read_packed(lease, row, 0, row.size)) is not None:
            return content
    return None


def open_object(lease: ContainerSession, key: str, offset: int = 0, length: int | None = None) -> OpenedObject | None:
    """Open a range of an object: read at once if it is small, else with a file of its own. None if it is not there."""
    for row in _places(lease, key, lease.index.row(key)):
        if row is None:
            with suppress(FileNotFoundError):
                return open_loose(lease, key, offset, length)
        elif (opened := open_packed(lease, row, offset, length)) is not None:
            return opened
    return None


def open_loose(lease: ContainerSession, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
    """Open a range of a loose object.

    :raises FileNotFoundError: if it is not loose.
    """
    file = _loose_file(lease, key)
    return open_range(key, cast("BinaryIO", file), os.fstat(file.fileno()).st_size, offset, length)


def open_packed(lease: ContainerSession, row: Row, offset: int = 0, length: int | None = None) -> OpenedObject | None:
    """Open a range of a packed object; None if it is not packed any longer."""
    start = min(offset, row.size)
    size = row.size - start if length is None else min(length, row.size - start)
    if size <= CHUNK_BYTES and (row.size <= CHUNK_BYTES or not row.compressed):
        content = _read_packed(lease, row, start, size)
        return None if content is None else OpenedObject(row.key, len(content), content, None)
    for current, descriptor in _descriptors(lease, row):
        try:
            file = safe_open(lease.packs.path(current.pack_id))
        except FileNotFoundError:
            continue
        try:
            # Another file may have got the name since the descriptor was found good.
            if not os.path.samestat(os.fstat(file.fileno()), os.fstat(descriptor)):
                file.close()
                continue
            whole = _in_file(lease, current, file)
        except BaseException:
            file.close()
            raise
        return open_range(
            row.key, whole, current.size, offset, length, start=0 if current.compressed else current.offset
        )
    return None


def _is_loose(lease: ContainerSession, key: str) -> bool:
    return is_inside(lease.layout.loose_name(lease.config, key)) is not None


def _loose_file(lease: ContainerSession, key: str) -> io.FileIO:
    """Open the file of a loose object."""
    path = lease.layout.loose_name(lease.config, key)
    file = safe_open(path)
    if is_inside(path) is None:  # it is in a folder that is a link, or was removed just now
        file.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return file


def _places(lease: ContainerSession, key: str, row: Row | None) -> Iterator[Row | None]:
    """Say where an object may be, one after the other: a row for packed, None for loose."""
    if row is not None:
        yield row
    yield None
    row = lease.index.row(key)
    if row is not None:
        yield row


def _read_packed(lease: ContainerSession, row: Row, start: int, size: int) -> bytes | None:
    """Return a range of a packed object, None if it is not packed any longer."""
    for current, descriptor in _descriptors(lease, row):
        path = lease.packs.path(current.pack_id)
        check_inside(current, path, os.fstat(descriptor).st_size)
        with with_path(path, row.key):
            if current.compressed:
                return _inflate(lease, current, descriptor)[start : start + size]
            data = read_at(descriptor, size, current.offset + start)
        if len(data) != size:
            raise short_of(current, path, os.fstat(descriptor).st_size)
        return data
    return None


def check_inside(row: Row, path: str, present: int) -> None:
    """Refuse a row that nobody has written who knows what he does, before anything is allocated for it."""
    if min(row.offset, row.length, row.size) < 0 or row.offset + row.length > present:
        raise short_of(row, path, present)
    possible = row.size <= row.length * _INFLATED_AT_MOST if row.compressed else row.size == row.length
    if not possible:
        raise CorruptObjectError(row.key, f"{row.length} bytes in {path} cannot be the {row.size} that its row says")


def _inflate(lease: ContainerSession, row: Row, descriptor: int) -> bytes:
    """Return the whole content of a compressed object."""
    data = read_at(descriptor, row.length, row.offset)
    if len(data) != row.length:
        raise short_of(row, lease.packs.path(row.pack_id), os.fstat(descriptor).st_size)
    return inflated(row, data)


def _descriptors(lease: ContainerSession, row: Row) -> Iterator[tuple[Row, int]]:
    """Find a descriptor that a row is good for, and the row as it is by then; nothing if it is not packed any more."""
    current: Row | None = row
    for _ in range(_TRIES):
        if current is None:
            return
        try:
            descriptor, _, opened = lease.packs.descriptor(current.pack_id)
        except FileNotFoundError:
            # A repack takes the old file away before it puts the new one under its name.
            again = lease.index.row(row.key)
            if again == current:
                path = lease.packs.path(current.pack_id)
                raise CorruptObjectError(row.key, f"pack {path} is missing") from None
            current = again
            continue
        if opened:
            again = lease.index.row(row.key)
            if again != current:
                current = again
                continue
        yield current, descriptor
    raise CorruptObjectError(row.key, f"its pack changed {_TRIES} times while it was being opened; try again")


def _in_file(lease: ContainerSession, row: Row, file: io.FileIO) -> BinaryIO:
    """Check that an object is inside its pack; return the pack, or what decompresses the object out of it."""
    check_inside(row, lease.packs.path(row.pack_id), os.fstat(file.fileno()).st_size)
    if row.compressed:
        return cast("BinaryIO", _inflating(lease.config.compression_algorithm, row, file))
    return cast("BinaryIO", file)


def _inflating(algorithm: str, row: Row, file: io.FileIO) -> DecompressingFile:
    """Return a compressed object as the file it was. Going back starts over; going forward inflates what it skips."""
    from disk_objectstore.utils import PackedObjectReader, get_stream_decompresser

    inflated = get_stream_decompresser(algorithm)(PackedObjectReader(file, row.offset, row.length))
    return DecompressingFile(row.key, inflated, (ValueError,), file.close)
