"""Packs: objects of a bucket that contain many objects of the repository."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from objrepo.bucket.client import BucketClient, Listed
from objrepo.bucket.encoding import FOOTER_END_BYTES, ROW_BYTES, Place, Span, decode_footer, encode_footer, footer_size

FOLDER: Final = "packs"
PACK_BYTES: Final = 8 * 1024 * 1024
"""How many bytes one pack of small objects has at the most, with their rows."""

_MAX_GAP: Final = 64 * 1024
"""Bytes between two objects that are read along with them: they take less time than another request."""

_NAME: Final = re.compile(rf"{FOLDER}/([0-9a-f]{{64}})")
_FOOTER_READ: Final = 512 * 1024
"""Bytes at the end of a pack that are read at once: the whole footer, if its objects have 700 bytes each or more."""

_MAX_READ: Final = 4 * 1024 * 1024
_MAX_RUNS: Final = 64


class Packs:
    """The packs of one repository."""

    def __init__(self, bucket: BucketClient) -> None:
        self._bucket = bucket

    def write(self, contents: Mapping[bytes, bytes]) -> tuple[bytes, list[Span]]:
        """Store small objects in a new pack; return its name, and where they are in it."""
        spans = []
        offset = 0
        for key, content in contents.items():
            spans.append(Span(key, offset, len(content)))
            offset += len(content)
        footer = encode_footer(spans)
        self._bucket.put(name_of(footer.pack), b"".join([*contents.values(), footer.content]))
        return footer.pack, spans

    def write_large(
        self, key: bytes, size: int, chunks: Callable[[], Iterable[bytes | memoryview]]
    ) -> tuple[bytes, list[Span]]:
        """Store one large object in a new pack.

        :param chunks: returns the content; called again when the upload is repeated.
        """
        spans = [Span(key, 0, size)]
        footer = encode_footer(spans)
        self._bucket.upload(name_of(footer.pack), lambda: chain(chunks(), [footer.content]), size + len(footer.content))
        return footer.pack, spans

    def read(self, place: Place) -> bytes:
        """Return the bytes at a place; fewer, if the pack ends before.

        :raises MissingError: if the pack does not exist.
        """
        return self.read_range(place, 0, place.length)

    def read_range(self, place: Place, start: int, end: int) -> bytes:
        """Return a part of the bytes at a place; see :meth:`read`."""
        if start >= end:
            return b""
        name = name_of(place.pack)
        return bytes(self._bucket.get_range(name, place.offset + start, place.offset + end).content)

    def read_together(self, places: Sequence[Place]) -> list[bytes]:
        """Return the bytes at places of one run, by one request; see :meth:`read`."""
        pack, start, _ = places[0]
        end = places[-1].offset + places[-1].length
        content = self.read(Place(pack, start, end - start))
        return [content[place.offset - start :][: place.length] for place in places]

    def read_footer(self, pack: bytes, size: int) -> list[Span]:
        """Return the objects of a pack, which may have been deleted since.

        :param size: of the pack, in bytes.
        :raises MissingError: if the pack does not exist.
        :raises DamagedError: if its footer is damaged.
        """
        name = name_of(pack)
        end = bytes(self._bucket.get_range(name, max(size - _FOOTER_READ, 0), size).content)
        wanted = min(footer_size(end[-FOOTER_END_BYTES:]), size)
        if wanted > len(end):
            end = bytes(self._bucket.get_range(name, size - wanted, size).content)
        return decode_footer(pack, end[-wanted:])

    def list(self) -> Iterator[tuple[bytes, Listed]]:
        """Yield all packs in the bucket, also those that the index does not name, by name."""
        for listed in self._bucket.list_all(FOLDER):
            if (found := _NAME.fullmatch(listed.name)) is not None:  # else it is a file of another program
                yield bytes.fromhex(found[1]), listed


def name_of(pack: bytes) -> str:
    """Return the name of a pack in the bucket."""
    return f"{FOLDER}/{pack.hex()}"


def full_packs(contents: Iterable[tuple[bytes, bytes]]) -> Iterator[dict[bytes, bytes]]:
    """Yield small objects, pairs of a key and a content, in parts that fit into one pack each."""
    part: dict[bytes, bytes] = {}
    size = 0
    for key, content in contents:
        if part and size + len(content) + ROW_BYTES > PACK_BYTES:
            yield part
            part, size = {}, 0
        part[key] = content
        size += len(content) + ROW_BYTES
    if part:
        yield part


Planned = tuple[str, Place | None]
"""An object that is to be read, and where it is, if it is in a pack."""


def in_order(keys: Sequence[str], places: Mapping[bytes, Place]) -> list[Planned]:
    """Return objects in the order in which reading them is fastest: that of the packs, then the others."""
    items = [(key, places.get(bytes.fromhex(key))) for key in keys]
    return sorted(items, key=lambda item: (item[1] is None, item[1] or item[0]))


def runs_of(items: Sequence[Planned], size: int | None = None) -> list[list[Planned]]:
    """Return objects in runs, each of which one request reads.

    :param size: after how many bytes no more runs are made; None makes all.
    """
    runs: list[list[Planned]] = []
    total = 0
    for key, place in items:
        if not (runs and _continues(runs[-1], place)):
            if size is not None and (total >= size or len(runs) >= _MAX_RUNS):
                break
            runs.append([])
        runs[-1].append((key, place))
        total += 0 if place is None else place.length
    return runs


def _continues(run: list[Planned], place: Place | None) -> bool:
    first, last = run[0][1], run[-1][1]
    if first is None or last is None or place is None or place.pack != first.pack:
        return False
    gap = place.offset - last.offset - last.length
    return 0 <= gap <= _MAX_GAP and place.offset + place.length - first.offset <= _MAX_READ
