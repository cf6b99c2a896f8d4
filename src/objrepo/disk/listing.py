"""Listing a container in bounded memory.

Other processes may pack loose objects meanwhile, but never unpack them. So the keys are listed in ranges of their first
two digits, in each range the loose ones before the packed ones: no object is missed, and none is listed twice.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from objrepo.disk.session import ContainerSession
from objrepo.keys import valid_keys

_PREFIXES: Final = tuple(f"{prefix:02x}" for prefix in range(256))
_AFTER_HEX: Final = "g"


class Cursor(NamedTuple):
    """The position of a listing.

    :ivar prefix: the number of the next prefix of keys in ``_PREFIXES``.
    :ivar width: the number of prefixes in the next page: more of them if few keys have each.
    :ivar names: the sorted names in the folder of the loose objects at the start: folders or, without prefix folders,
        the objects.
    """

    prefix: int
    width: int
    names: list[str]


def list_keys(session: ContainerSession, cursor: Cursor | None, enough: int) -> tuple[list[str], Cursor | None]:
    """Return the keys of some prefixes, and the next position; None after the last."""
    prefix, width, names = cursor or Cursor(0, 1, sorted(_names(session.layout.loose)))
    end = min(prefix + width, len(_PREFIXES))
    loose = set(_loose_with_prefixes(session, prefix, end, names))
    keys = valid_keys(session.index.keys(_PREFIXES[prefix], _PREFIXES[end - 1] + _AFTER_HEX), session.config.hash_type)
    if loose:
        keys += sorted(loose.difference(keys))
    if end == len(_PREFIXES):
        return keys, None
    # Hashes are spread evenly, so the keys of these prefixes tell how many prefixes make a page.
    return keys, Cursor(end, max(width * enough // max(len(keys), 1), 1), names)


def keys_with_prefix(session: ContainerSession, prefix: str) -> list[str]:
    """Return the keys that begin with some hexadecimal digits, at least two, in order."""
    number = int(prefix[:2], 16)
    loose = _loose_with_prefixes(session, number, number + 1, sorted(_names(session.layout.loose)))
    packed = session.index.keys(prefix, prefix + _AFTER_HEX)
    return sorted({key for key in loose if key.startswith(prefix)}.union(packed))


def loose_keys(session: ContainerSession) -> Iterator[list[str]]:
    """Iterate over the keys of all loose objects, packed ones too, a list for each prefix."""
    names = sorted(_names(session.layout.loose))
    for prefix in range(len(_PREFIXES)):
        yield list(_loose_with_prefixes(session, prefix, prefix + 1, names))


def loose_sizes(session: ContainerSession, keys: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of those of the objects that are loose."""
    sizes = {}
    for key in keys:
        with suppress(FileNotFoundError):
            sizes[key] = os.lstat(session.layout.loose_name(session.config, key)).st_size
    return sizes


def _loose_with_prefixes(session: ContainerSession, prefix: int, end: int, names: list[str]) -> list[str]:
    first, last = _PREFIXES[prefix], _PREFIXES[end - 1] + _AFTER_HEX
    length = session.config.loose_prefix_len
    if length == 0:
        found = names[bisect_left(names, first) : bisect_left(names, last)]
    else:
        # A folder named with one digit has the keys of sixteen prefixes, one with many digits a part of one.
        folders = names[bisect_left(names, first[:length]) : bisect_left(names, last[:length] + _AFTER_HEX)]
        folders = [folder for folder in folders if len(folder) == length]
        found = [folder + name for folder in folders for name in _names(session.layout.loose / folder)]
    return [key for key in valid_keys(found, session.config.hash_type) if first <= key < last]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (only names are needed, of up to a million files)
    except (FileNotFoundError, NotADirectoryError):
        return []
