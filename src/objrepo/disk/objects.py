"""Finding and opening objects in a container: packed, then loose, then packed again."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, Final, cast

from objrepo.disk.layout import Row
from objrepo.disk.pool import Lease
from objrepo.errors import CorruptObjectError

__all__ = ("find_size", "has_objects", "open_object", "packed_rows")

_TRIES: Final = 20


def has_objects(lease: Lease, keys: Sequence[str]) -> list[bool]:
    """Say of each key whether its object is there."""
    found: set[str] = set(packed_rows(lease, keys))
    elsewhere = [key for key in keys if key not in found]
    found.update(key for key in elsewhere if lease.layout.loose_path(lease.config, key).is_file())
    # What was neither packed nor loose may have been packed between the two looks.
    found.update(packed_rows(lease, [key for key in elsewhere if key not in found]))
    return [key in found for key in keys]


def packed_rows(lease: Lease, keys: Sequence[str]) -> dict[str, Row]:
    """Return where those of the objects are that are packed."""
    return lease.index.rows(keys) if keys else {}


def find_size(lease: Lease, key: str) -> int | None:
    """Return the size of an object in bytes, None if it is not there."""
    if (row := lease.index.row(key)) is not None:
        return row.size
    try:
        return lease.layout.loose_path(lease.config, key).stat().st_size
    except FileNotFoundError:
        row = lease.index.row(key)
        return None if row is None else row.size


def open_object(lease: Lease, key: str) -> tuple[BinaryIO, int, int] | None:
    """Open an object: a seekable file, where in it the object begins, and its size. None if it is not there."""
    opened = _open_packed(lease, key)
    if opened is not None:
        return opened
    try:
        file = open(lease.layout.loose_path(lease.config, key), "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        return _open_packed(lease, key)
    return file, 0, os.fstat(file.fileno()).st_size


def _open_packed(lease: Lease, key: str) -> tuple[BinaryIO, int, int] | None:
    row = lease.index.row(key)
    for _ in range(_TRIES):
        if row is None:
            return None
        try:
            file = open(lease.layout.pack_path(row.pack_id), "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            # A repack takes the old file away before it puts the new one under its name.
            again = lease.index.row(key)
            if again == row:
                raise CorruptObjectError(key, f"pack {lease.layout.pack_path(row.pack_id)} is missing") from None
            row = again
            continue
        try:
            # A repack may have put another file under the name since the row was read: the row tells.
            again = lease.index.row(key)
            if again == row:
                return _located(lease, row, file)
        except BaseException:
            file.close()
            raise
        file.close()
        row = again
    raise CorruptObjectError(key, f"its pack changed {_TRIES} times while it was being opened")


def _located(lease: Lease, row: Row, file: io.FileIO) -> tuple[BinaryIO, int, int]:
    end = row.offset + row.length
    present = os.fstat(file.fileno()).st_size
    if row.offset < 0 or row.length < 0 or row.size < 0 or end > present:
        raise CorruptObjectError(row.key, f"it should end at {end} in pack {file.name!s}, which has {present} bytes")
    if row.compressed:
        return cast("BinaryIO", _Inflated(lease.config.compression_algorithm, row, file)), 0, row.size
    return cast("BinaryIO", file), row.offset, row.size


class _Inflated:
    """A compressed object, read as the file it was. Going back starts over; going forward inflates what it skips."""

    def __init__(self, algorithm: str, row: Row, file: io.FileIO) -> None:
        from disk_objectstore.utils import PackedObjectReader, get_stream_decompresser

        self._key = row.key
        self._file = file
        self._inflated: Any = get_stream_decompresser(algorithm)(PackedObjectReader(file, row.offset, row.length))

    def seek(self, position: int) -> int:
        return int(self._within(self._inflated.seek, position))

    def read(self, size: int) -> bytes:
        return bytes(self._within(self._inflated.read, size))

    def close(self) -> None:
        self._file.close()

    def _within(self, function: Any, argument: int) -> Any:
        try:
            return function(argument)
        except ValueError as error:
            raise CorruptObjectError(self._key, f"it cannot be decompressed: {error}") from error
