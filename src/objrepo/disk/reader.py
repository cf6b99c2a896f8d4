"""Finding and reading one object in a container: packed, then loose, then packed again.

An object that is packed meanwhile moves from loose to packed, so that two lookups alone could miss it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final, cast

from objrepo.disk.index import NO_ROW, Row
from objrepo.disk.pack_files import read_at
from objrepo.disk.safe_open import is_inside, safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import CorruptObjectError, RepositoryError, with_path
from objrepo.offload import UNBATCHED
from objrepo.streams import CHUNK_BYTES, DecompressingFile, OpenedObject, open_range

_TRIES: Final = 20

_INFLATED_AT_MOST: Final = 1100
"""How many times as long zlib's data can become when they are decompressed: 1,032, says its technical description."""


def has_object(session: ContainerSession, key: str) -> bool:
    """Say whether an object exists."""
    return _is_packed(session, key) or _is_loose(session, key) or _is_packed(session, key)


def has_objects(session: ContainerSession, keys: Sequence[str]) -> set[str]:
    """Return those of the keys whose objects exist."""
    found = session.index.present(keys)
    elsewhere = [key for key in keys if key not in found]
    if elsewhere:
        found.update(key for key in elsewhere if _is_loose(session, key))
        found.update(session.index.present(key for key in elsewhere if key not in found))
    return found


def find_size(session: ContainerSession, key: str) -> int | None:
    """Return the size of an object in bytes, None if it does not exist."""
    for row in _places(session, key):
        if row is not None:
            session.remember(row, is_open=False)
            return row.size
        if (status := is_inside(session.layout.loose_name(session.config, key))) is not None:
            return status.st_size
    return None


def read_at_once(session: ContainerSession, key: str, max_size: int = sys.maxsize) -> bytes | None:
    """Return the content of an object in the common case: uncompressed, in a pack that is open already.

    The open pack is compared with its name, so that this is also right with a session that was not validated.

    :param max_size: in bytes.
    :return: None in every other case; see :func:`read_object`.
    """
    rows = session.index.raw_row(key)
    if not rows:
        return None
    _, pack_id, offset, length, compressed, _ = rows[0]
    try:
        descriptor, opened = session.packs.descriptor(pack_id)
        if opened or compressed or length > max_size:
            return None
        content = read_at(descriptor, length, offset)
    except (OSError, RepositoryError, *NO_ROW):  # `read_object` raises the error
        return None
    if len(content) != length:
        return None
    session.remember(rows[0], is_open=True)
    return content


def read_object(session: ContainerSession, key: str, max_size: int = sys.maxsize) -> Any:
    """Return the whole content of an object, None if it does not exist, or ``UNBATCHED`` if it is larger than allowed.

    :param max_size: in bytes.
    """
    for row in _places(session, key):
        if row is None:
            with suppress(FileNotFoundError), _loose_file(session, key) as file, with_path(file.name, key):
                return UNBATCHED if os.fstat(file.fileno()).st_size > max_size else file.read()
        elif row.size > max_size:
            return UNBATCHED
        elif (content := _read_packed(session, row, 0, row.size)) is not None:
            return content
    return None


def open_object(session: ContainerSession, key: str, offset: int = 0, length: int | None = None) -> OpenedObject | None:
    """Open a range of an object: as a whole if it is small, else with a file of its own. None if it does not exist."""
    for row in _places(session, key):
        if row is None:
            with suppress(FileNotFoundError):
                return open_loose(session, key, offset, length)
        elif (opened := open_packed(session, row, offset, length)) is not None:
            return opened
    return None


def open_loose(session: ContainerSession, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
    """Open a range of a loose object.

    :raises FileNotFoundError: if it is not loose.
    """
    file = _loose_file(session, key)
    return open_range(key, cast("BinaryIO", file), os.fstat(file.fileno()).st_size, offset, length)


def open_packed(session: ContainerSession, row: Row, offset: int = 0, length: int | None = None) -> OpenedObject | None:
    """Open a range of a packed object; None if it is no longer packed."""
    start = min(offset, row.size)
    size = row.size - start if length is None else min(length, row.size - start)
    if size <= CHUNK_BYTES and (row.size <= CHUNK_BYTES or not row.compressed):
        content = _read_packed(session, row, start, size)
        return None if content is None else OpenedObject(row.key, len(content), content, None)
    for current, descriptor in _descriptors(session, row):
        try:
            file = safe_open(session.packs.path(current.pack_id))
        except FileNotFoundError:
            continue
        try:
            # Another file may have taken the name since the descriptor was validated.
            if not os.path.samestat(os.fstat(file.fileno()), os.fstat(descriptor)):
                file.close()
                continue
            whole = _in_file(session, current, file)
        except BaseException:
            file.close()
            raise
        return open_range(
            row.key, whole, current.size, offset, length, start=0 if current.compressed else current.offset
        )
    return None


def _is_packed(session: ContainerSession, key: str) -> bool:
    rows = session.index.raw_row(key)
    if rows:
        session.remember(rows[0], is_open=False)
    return bool(rows)


def _is_loose(session: ContainerSession, key: str) -> bool:
    return is_inside(session.layout.loose_name(session.config, key)) is not None


def _loose_file(session: ContainerSession, key: str) -> io.FileIO:
    """Open the file of a loose object."""
    path = session.layout.loose_name(session.config, key)
    file = safe_open(path)
    if is_inside(path) is None:  # its directory is a link, or it was deleted just now
        file.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return file


def _places(session: ContainerSession, key: str) -> Iterator[Row | None]:
    """Iterate over the places where an object may be: a row for packed, None for loose."""
    if (row := session.index.row(key)) is not None:
        yield row
    yield None
    if (row := session.index.row(key)) is not None:
        yield row


def _read_packed(session: ContainerSession, row: Row, start: int, size: int) -> bytes | None:
    """Return a range of a packed object, None if it is no longer packed."""
    for current, descriptor in _descriptors(session, row):
        path = session.packs.path(current.pack_id)
        check_inside(current, path, os.fstat(descriptor).st_size)
        first, length = (0, current.length) if current.compressed else (start, size)
        with with_path(path, row.key):
            data = read_at(descriptor, length, current.offset + first)
        if len(data) != length:
            raise short_of(current, path, os.fstat(descriptor).st_size)
        session.remember(current, is_open=True)
        return inflated(current, data)[start : start + size] if current.compressed else data
    return None


def check_inside(row: Row, path: str, present: int) -> None:
    """Refuse a row with impossible numbers, before memory is allocated for it.

    :raises CorruptObjectError: naming what is impossible.
    """
    if min(row.offset, row.length, row.size) < 0 or row.offset + row.length > present:
        raise short_of(row, path, present)
    possible = row.size <= row.length * _INFLATED_AT_MOST if row.compressed else row.size == row.length
    if not possible:
        raise CorruptObjectError(row.key, f"{row.length} bytes in {path} cannot be the {row.size} that its row says")


def short_of(row: Row, path: str, present: int) -> CorruptObjectError:
    """Return the error for a pack that ends before an object does."""
    return CorruptObjectError(
        row.key, f"it should end at {row.offset + row.length} in pack {path}, which has {present} bytes"
    )


def inflated(row: Row, data: bytes) -> bytes:
    """Decompress a whole object, to at most the size in its row.

    :raises CorruptObjectError: if the data are invalid, or have another size.
    """
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(data, row.size + 1)
    except zlib.error as error:
        raise CorruptObjectError(row.key, f"it cannot be decompressed: {error}") from error
    if len(content) != row.size or not decompressor.eof:
        raise CorruptObjectError(row.key, f"it does not have the {row.size} bytes of its row when decompressed")
    return content


def _descriptors(session: ContainerSession, row: Row) -> Iterator[tuple[Row, int]]:
    """Find a descriptor that a row is valid for, and the row as it is by then; nothing if it is no longer packed."""
    current: Row | None = row
    for _ in range(_TRIES):
        if current is None:
            return
        try:
            descriptor, opened = session.packs.descriptor(current.pack_id)
        except FileNotFoundError:
            # disk-objectstore's repack removes the old file before it renames the new one.
            again = session.index.row(row.key)
            if again == current:
                path = session.packs.path(current.pack_id)
                raise CorruptObjectError(row.key, f"pack {path} is missing") from None
            current = again
            continue
        if opened:
            again = session.index.row(row.key)
            if again != current:
                current = again
                continue
        yield current, descriptor
    raise CorruptObjectError(row.key, f"its pack changed {_TRIES} times while it was being opened; try again")


def _in_file(session: ContainerSession, row: Row, file: io.FileIO) -> BinaryIO:
    """Check that an object is inside its pack; return the pack, or a file that decompresses the object."""
    check_inside(row, session.packs.path(row.pack_id), os.fstat(file.fileno()).st_size)
    if not row.compressed:
        return cast("BinaryIO", file)
    from disk_objectstore.utils import PackedObjectReader, get_stream_decompresser

    decompressor_class = get_stream_decompresser(session.config.compression_algorithm)
    stream = decompressor_class(PackedObjectReader(file, row.offset, row.length))
    return cast("BinaryIO", DecompressingFile(row.key, stream, (ValueError,), file.close))
