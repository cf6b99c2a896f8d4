"""All objects of a repository with packs, in the order in which reading them is fastest, and in bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

from objrepo.bucket.age import Moment
from objrepo.bucket.encoding import Place, decode_location
from objrepo.bucket.log import Log
from objrepo.bucket.loose import LooseObjects

_PAGE_ROWS: Final = 8192


class Item(NamedTuple):
    """An object in a listing.

    :ivar place: where it is, if it is in a pack.
    """

    key: str
    size: int
    place: Place | None


def pages(log: Log, loose: LooseObjects) -> Iterator[list[Item]]:
    """Yield all objects, each once: the loose ones, and then those in packs in the order of the packs.

    An object that is packed meanwhile is found nevertheless: loose objects are listed first, and the index that is read
    after that is more recent than each of these listings.
    """
    # A database without a name is a temporary file, which SQLite writes only if it is large.
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as db:
        db.execute("CREATE TABLE loose (key BLOB PRIMARY KEY) WITHOUT ROWID")
        db.execute("CREATE TABLE packed (location BLOB, key BLOB)")
        for items in _loose(log, loose):
            db.executemany("INSERT INTO loose VALUES (?)", ((bytes.fromhex(item.key),) for item in items))
            yield items
        with log.index.scan() as scan:
            names = scan.packs
            db.execute("BEGIN")
            db.executemany("INSERT INTO packed VALUES (?, ?)", ((location, key) for key, location in scan.rows()))
            db.execute("COMMIT")
        packed = db.execute(
            "SELECT key, location FROM packed WHERE key NOT IN (SELECT key FROM loose) ORDER BY location"
        )
        while rows := packed.fetchmany(_PAGE_ROWS):
            yield [_item(key, location, names) for key, location in rows]


def totals(log: Log, loose: LooseObjects) -> tuple[int, int]:
    """Return the number of objects and the sum of their sizes; one that is packed meanwhile may count twice."""
    objects = size = 0
    for items in _loose(log, loose):
        objects += len(items)
        size += sum(item.size for item in items)
    with log.index.scan() as scan:
        for _, location in scan.rows():
            objects += 1
            size += decode_location(location)[2]
    return objects, size


def _loose(log: Log, loose: LooseObjects) -> Iterator[list[Item]]:
    """Yield the loose objects that count, a page at a time."""
    after = ""
    listing = loose.pages()
    while after < "g":
        began = Moment()
        listed, end = next(listing)
        log.update()
        places, tombstones = log.look(bytes.fromhex(key) for key, _ in listed)
        if began.is_recent():
            hidden = places.keys() | tombstones.keys()
            yield [Item(key, each.size, None) for key, each in listed if bytes.fromhex(key) not in hidden]
            after = end
        else:  # a tombstone may have been forgotten since
            listing = loose.pages(after)


def _item(key: bytes, location: bytes, names: dict[int, bytes]) -> Item:
    pack, offset, length = decode_location(location)
    return Item(key.hex(), length, Place(names[pack], offset, length))
