"""All objects of a repository with packs, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from objrepo.bucket.encoding import HASH_BYTES, Place, decode_location
from objrepo.bucket.log import Log
from objrepo.bucket.loose import LooseObjects

_WINDOW_ROWS: Final = 65_536
_LAST: Final = b"\xff" * (HASH_BYTES + 1)


class Item(NamedTuple):
    """An object in a listing.

    :ivar place: where it is, if it is in a pack.
    """

    key: str
    size: int
    place: Place | None


def windows(log: Log, loose: LooseObjects) -> Iterator[list[Item]]:
    """Yield all objects in ranges of keys, each once; within a range in the order of the packs, in which they are read.

    An object that is packed meanwhile is found nevertheless: in each range, loose objects are listed first, and the
    index is then brought up to date before it is read.
    """
    after = b""
    for objects, end in loose.pages():
        log.update()
        listed = {bytes.fromhex(key): each.size for key, each in objects}
        last = bytes.fromhex(end) if end < "g" else _LAST
        while after < last:
            with log.index.scan() as scan:
                rows = list(islice(scan.rows(after, last), _WINDOW_ROWS))
                bound = rows[-1][0] if len(rows) == _WINDOW_ROWS else last
                hidden = {key for key, _ in rows} | {key for key, _ in scan.tombstones(after, bound)}
                packed = [(decode_location(location), key) for key, location in rows]
                names = scan.packs
            items = [
                Item(key.hex(), length, Place(names[pack], offset, length))
                for (pack, offset, length), key in sorted(packed)
            ]
            items += (
                Item(key.hex(), size, None)
                for key, size in listed.items()
                if after < key <= bound and key not in hidden
            )
            yield items
            after = bound
