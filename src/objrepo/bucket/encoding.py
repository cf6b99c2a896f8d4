"""The bytes of packs, log entries and snapshots; `docs/bucket-format.md` describes them for other programs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from objrepo.errors import RepositoryError

HASH_BYTES: Final = 32
ROW_BYTES: Final = 44
"""A key, and where its object is."""

FOOTER_END_BYTES: Final = 64
SNAPSHOT_HEAD_BYTES: Final = 64
_PACK_MAGIC: Final = b"objpack2"
_ENTRY_MAGIC: Final = b"objlog 2"
_SNAPSHOT_MAGIC: Final = b"objsnap2"
_ID_BYTES: Final = 16
_MAX_PACKS: Final = 2**24
MAX_OFFSET: Final = 2**28
_MAX_LENGTH: Final = 2**44


class Place(NamedTuple):
    """Where an object is: in a pack, from an offset on."""

    pack: bytes
    offset: int
    length: int


class Span(NamedTuple):
    """The bytes of an object in a pack."""

    key: bytes
    offset: int
    length: int


class DamagedError(RepositoryError):
    """Bytes are not what was written."""


# -- packs --------------------------------------------------------------------------------------------------------


class Footer(NamedTuple):
    """The end of a pack, which lists its objects.

    :ivar pack: the name of the pack: the hash of the footer, which has a random number in it.
    :ivar content: the bytes.
    """

    pack: bytes
    content: bytes


def encode_footer(spans: Iterable[Span]) -> Footer:
    """Return the footer of a new pack."""
    rows = b"".join(map(_encode_span, sorted(spans)))
    hashed = rows + os.urandom(_ID_BYTES) + (len(rows) // ROW_BYTES).to_bytes(8)
    name = hashlib.sha256(hashed).digest()
    return Footer(name, hashed + name + _PACK_MAGIC)


def footer_size(end: bytes) -> int:
    """Return how many bytes at the end of a pack are its footer.

    :param end: the last ``FOOTER_END_BYTES``.
    :raises DamagedError: if they are no end of a pack.
    """
    if len(end) != FOOTER_END_BYTES or end[-8:] != _PACK_MAGIC:
        raise DamagedError("it does not end with a list of its objects")
    return int.from_bytes(end[_ID_BYTES : _ID_BYTES + 8]) * ROW_BYTES + FOOTER_END_BYTES


def decode_footer(pack: bytes, content: bytes) -> list[Span]:
    """Return the objects of a pack, in the order of their keys.

    :param content: the footer alone.
    :raises DamagedError: if it is not the footer of this pack.
    """
    hashed, name = content[: -HASH_BYTES - 8], content[-HASH_BYTES - 8 : -8]
    if footer_size(content[-FOOTER_END_BYTES:]) != len(content) or not hashlib.sha256(hashed).digest() == name == pack:
        raise DamagedError("the list of its objects is damaged")
    return list(_decode_spans(hashed[: -_ID_BYTES - 8]))


def _encode_span(span: Span) -> bytes:
    if not (span.offset < MAX_OFFSET and span.length < _MAX_LENGTH):
        raise ValueError(f"{span.length} bytes at {span.offset} do not fit into a pack")
    return span.key + span.offset.to_bytes(6) + span.length.to_bytes(6)


def _decode_spans(rows: bytes) -> Iterator[Span]:
    for start in range(0, len(rows), ROW_BYTES):
        numbers = start + HASH_BYTES
        yield Span(
            rows[start:numbers],
            int.from_bytes(rows[numbers : numbers + 6]),
            int.from_bytes(rows[numbers + 6 : numbers + 12]),
        )


# -- log entries --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One change of the repository. Its parts are applied in the order of these fields.

    :ivar rows: by pack, objects that are from now on read from there.
    :ivar deleted: keys of objects that cease to exist.
    :ivar tombstones: keys whose files of their own cease to count.
    :ivar forgotten: keys that have no such file any longer, so that a new one would count again.
    :ivar retired: packs that are removed, and will never be read again.
    :ivar gone: retired packs that have been removed.
    """

    rows: Mapping[bytes, list[Span]] = field(default_factory=dict[bytes, list[Span]])
    deleted: frozenset[bytes] = frozenset()
    tombstones: frozenset[bytes] = frozenset()
    forgotten: frozenset[bytes] = frozenset()
    retired: frozenset[bytes] = frozenset()
    gone: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return any(vars(self).values())


_SETS: Final = ("deleted", "tombstones", "forgotten", "retired", "gone")


def encode_entry(entry: Entry) -> bytes:
    """Return the bytes of a log entry; a random number makes them unlike those of any other."""
    parts = [_ENTRY_MAGIC, os.urandom(_ID_BYTES), len(entry.rows).to_bytes(4)]
    for pack in sorted(entry.rows):
        rows = entry.rows[pack]
        parts += pack, len(rows).to_bytes(4), *map(_encode_span, sorted(rows))
    for name in _SETS:
        hashes = sorted(getattr(entry, name))
        parts += len(hashes).to_bytes(4), *hashes
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def decode_entry(content: bytes) -> Entry:
    """Return a log entry.

    :raises DamagedError: if the bytes are not one.
    """
    if content[:8] != _ENTRY_MAGIC or hashlib.sha256(content[:-HASH_BYTES]).digest() != content[-HASH_BYTES:]:
        raise DamagedError("its checksum is wrong")
    position = 8 + _ID_BYTES

    def take(size: int) -> bytes:
        nonlocal position
        position += size
        return content[position - size : position]

    rows = {
        take(HASH_BYTES): list(_decode_spans(take(int.from_bytes(take(4)) * ROW_BYTES)))
        for _ in range(int.from_bytes(take(4)))
    }
    return Entry(rows, *(frozenset(split(take(int.from_bytes(take(4)) * HASH_BYTES), HASH_BYTES)) for _ in _SETS))


def split(content: bytes, size: int) -> Iterator[bytes]:
    """Yield the records of a fixed size in some bytes."""
    return (content[start : start + size] for start in range(0, len(content), size))


# -- snapshots ----------------------------------------------------------------------------------------------------


class SnapshotHead(NamedTuple):
    """The sizes of a snapshot's sections, which follow each other in this order.

    :ivar number: the last log entry that it includes.
    :ivar packs: how many packs it names, 32 bytes each.
    :ivar tombstones: how many keys have a tombstone, 40 bytes each: the key, and the number of the log entry.
    :ivar retired: how many packs are retired, 40 bytes each: the name, and the number of the log entry.
    :ivar rows: how many objects it lists, 44 bytes each, in the order of their keys.
    """

    number: int
    packs: int
    tombstones: int
    retired: int
    rows: int

    def encode(self) -> bytes:
        """Return the bytes at the beginning of a snapshot."""
        return (_SNAPSHOT_MAGIC + b"".join(number.to_bytes(8) for number in self)).ljust(SNAPSHOT_HEAD_BYTES, b"\0")

    @classmethod
    def decode(cls, content: bytes) -> SnapshotHead:
        """Read the bytes at the beginning of a snapshot.

        :raises DamagedError: if they are not that.
        """
        if len(content) != SNAPSHOT_HEAD_BYTES or content[:8] != _SNAPSHOT_MAGIC:
            raise DamagedError("it does not begin as a snapshot does")
        return cls(*map(int.from_bytes, split(content[8:48], 8)))

    @property
    def size(self) -> int:
        """How many bytes the whole snapshot has, with a SHA-256 of all before it at its end."""
        marks = (self.tombstones + self.retired) * (HASH_BYTES + 8)
        return SNAPSHOT_HEAD_BYTES + self.packs * HASH_BYTES + marks + self.rows * ROW_BYTES + HASH_BYTES


def encode_location(pack: int, offset: int, length: int) -> bytes:
    """Return the last 12 bytes of a snapshot's row: 24 bits for the pack, 28 for the offset, 44 for the length."""
    if pack >= _MAX_PACKS:
        raise ValueError(f"more than {_MAX_PACKS} packs")
    return (pack << 72 | offset << 44 | length).to_bytes(12)


def decode_location(content: bytes) -> tuple[int, int, int]:
    """Return the number of the pack, the offset and the length."""
    number = int.from_bytes(content)
    return number >> 72, number >> 44 & MAX_OFFSET - 1, number & _MAX_LENGTH - 1
