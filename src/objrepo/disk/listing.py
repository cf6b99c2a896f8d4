"""Listing a container in bounded memory.

Objects move from loose to packed while one looks, never back. So the keys are taken by their first digits, some shares
at a time, and for these first the loose ones and then the packed ones: no object is missed, and none comes twice.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from objrepo.disk.session import ContainerSession
from objrepo.keys import valid_keys

__all__ = ("Cursor", "list_keys", "loose_keys")

SHARES: Final = tuple(f"{share:02x}" for share in range(256))
_AFTER_HEX: Final = "g"


class Cursor(NamedTuple):
    """Where a listing goes on.

    :ivar share: the next share.
    :ivar width: how many shares to take at once: more of them where there is little in each.
    :ivar names: what was in the folder of the loose objects at the start, sorted: their own folders or, where they
        all lie in one, they themselves.
    """

    share: int
    width: int
    names: list[str]


def list_keys(session: ContainerSession, cursor: Cursor | None, enough: int) -> tuple[list[str], Cursor | None]:
    """Return the keys of some shares, and where to go on; None after the last."""
    share, width, names = cursor or Cursor(0, 1, sorted(_names(session.layout.loose)))
    end = min(share + width, len(SHARES))
    loose = set(_loose_in_shares(session, share, end, names))
    keys = valid_keys(session.index.keys(SHARES[share], SHARES[end - 1] + _AFTER_HEX), session.config.hash_type)
    if loose:
        keys += sorted(loose.difference(keys))
    if end == len(SHARES):
        return keys, None
    # Hashes are spread evenly: what was in these shares tells how many of them make a page.
    return keys, Cursor(end, max(width * enough // max(len(keys), 1), 1), names)


def loose_keys(session: ContainerSession) -> Iterator[list[str]]:
    """Iterate over the keys of all loose objects, packed as well or not, a share at a time."""
    names = sorted(_names(session.layout.loose))
    for share in range(len(SHARES)):
        yield list(_loose_in_shares(session, share, share + 1, names))


def _loose_in_shares(session: ContainerSession, share: int, end: int, names: list[str]) -> list[str]:
    first, last = SHARES[share], SHARES[end - 1] + _AFTER_HEX
    length = session.config.loose_prefix_len
    if length == 0:
        found = names[bisect_left(names, first) : bisect_left(names, last)]
    else:
        # A folder with a name of one digit holds sixteen shares, one with many digits a part of one.
        folders = names[bisect_left(names, first[:length]) : bisect_left(names, last[:length] + _AFTER_HEX)]
        folders = [folder for folder in folders if len(folder) == length]
        found = [folder + name for folder in folders for name in _names(session.layout.loose / folder)]
    return [key for key in valid_keys(found, session.config.hash_type) if first <= key < last]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are wanted, and there may be a million of them)
    except (FileNotFoundError, NotADirectoryError):
        return []
