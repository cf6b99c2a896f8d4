"""Listing a container in bounded memory.

Objects move from loose to packed while one looks, never back. So the keys are taken by their first digits, a share
at a time, and for each share first the loose ones and then the packed ones: no object is missed, and none comes twice.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from objrepo.disk.pool import Lease
from objrepo.keys import is_key

__all__ = ("Cursor", "list_keys", "loose_keys")

SHARES: Final = tuple(f"{share:02x}" for share in range(256))
_AFTER_HEX: Final = "g"


class Cursor(NamedTuple):
    """Where a listing goes on: the next share, and the names of loose files where they all lie in one folder."""

    share: int
    names: list[str]


def list_keys(lease: Lease, cursor: Cursor | None, enough: int) -> tuple[list[str], Cursor | None]:
    """Return the keys of some shares, and where to go on; None after the last."""
    start, names = cursor or Cursor(0, _flat_names(lease))
    keys: list[str] = []
    for number in range(start, len(SHARES)):
        share = SHARES[number]
        loose = set(_loose_in_share(lease, share, names))
        packed = lease.index.keys(share, share + _AFTER_HEX)
        keys += packed
        keys += sorted(loose.difference(packed))
        if len(keys) >= enough and number + 1 < len(SHARES):
            return keys, Cursor(number + 1, names)
    return keys, None


def loose_keys(lease: Lease) -> Iterator[list[str]]:
    """Iterate over the keys of all loose objects, packed as well or not, a share at a time."""
    names = _flat_names(lease)
    for share in SHARES:
        yield list(_loose_in_share(lease, share, names))


def _flat_names(lease: Lease) -> list[str]:
    return sorted(_names(lease.layout.loose)) if not lease.config.loose_prefix_len else []


def _loose_in_share(lease: Lease, share: str, names: list[str]) -> Iterator[str]:
    loose = lease.layout.loose
    length = lease.config.loose_prefix_len
    keys: Iterator[str]
    if length == 0:
        keys = iter(names[bisect_left(names, share) : bisect_left(names, share + _AFTER_HEX)])
    elif length <= len(share):
        folder = share[:length]
        keys = (folder + name for name in _names(loose / folder) if name.startswith(share[length:]))
    else:
        folders = sorted(name for name in _names(loose) if name.startswith(share) and len(name) == length)
        keys = (folder + name for folder in folders for name in _names(loose / folder))
    return (key for key in keys if is_key(key, lease.config.hash_type))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are wanted, and there may be a million of them)
    except (FileNotFoundError, NotADirectoryError):
        return []
