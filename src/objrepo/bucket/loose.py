"""Loose objects: those that are each an object of the bucket, as all are in a repository of format 1."""

from __future__ import annotations

import hashlib
import io
import operator
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Final

from objrepo.bucket.client import PAGE_NAMES, BucketClient, Listed
from objrepo.errors import CorruptObjectError
from objrepo.integrity import check_digest
from objrepo.keys import is_key
from objrepo.offload import BlockingPool, WorkCancelled, cancel_requested
from objrepo.range_reader import PART_BYTES, Buffer

_MIN_KEYS_FOR_LISTING: Final = 8


class LooseObjects:
    """The loose objects of one repository."""

    def __init__(self, bucket: BucketClient, pool: BlockingPool) -> None:
        self._bucket = bucket
        self._pool = pool

    def present(self, keys: list[str]) -> set[str]:
        """Return which of some sorted keys exist, with as few requests as possible.

        A listing of a thousand names with each request decides all keys in its range. Keys are hashes and therefore
        equally distributed, so that the first pages show how many requests the rest will take. Where one request for
        each key is cheaper, and for a few keys, each key is requested.
        """
        position = 0
        present: set[str] = set()
        if len(keys) >= _MIN_KEYS_FOR_LISTING:
            listing = self._bucket.list(after=name_of(keys[0])[:-1], page_size=PAGE_NAMES // 2)
            seen = 0
            end = keys[0]
            while position < len(keys) and seen * _distance(end, keys[-1]) <= (
                PAGE_NAMES * (len(keys) - position) * _distance(keys[0], end)
            ):
                if cancel_requested():
                    raise WorkCancelled
                names = [each.name for each in listing.next_page()]
                present.update(key for name in names if (key := key_of(name)) is not None)
                seen += len(names)
                end = "g" if listing.ended else key_of(names[-1]) or "g"  # after all keys
                position = bisect_right(keys, end)
        undecided = keys[position:]
        sizes = self._pool.map(self._bucket.size, map(name_of, undecided))
        found = {key for key, size in zip(undecided, sizes, strict=True) if size is not None}
        return found | present.intersection(keys)

    def pages(self, after: str = "") -> Iterator[tuple[list[tuple[str, Listed]], str]]:
        """Yield the objects with keys after another one, a page at a time, each with the last key that it decides.

        :raises WorkCancelled: if the caller is cancelled between two requests.
        """
        listing = self._bucket.list(name_of(after) if after else "")
        end = ""
        while end < "g":
            if cancel_requested():
                raise WorkCancelled
            page = listing.next_page()
            objects = [(key, each) for each in page if (key := key_of(each.name)) is not None]
            end = "g" if listing.ended or page[-1].name > "g" else objects[-1][0] if objects else end
            yield objects, end

    def get(self, key: str) -> bytes:
        """Return the content of an object, compared with its key.

        :raises MissingError: if the object does not exist.
        :raises CorruptObjectError: if its content has another hash.
        """
        (content, size), first = self._bucket.get(name_of(key))
        if first is None:
            return check_digest(key, "sha256", content)
        starts = range(PART_BYTES, size, PART_BYTES)
        rest = (partial(self.read_range, key, start, min(start + PART_BYTES, size)) for start in starts)
        reads: Iterable[Callable[[], Buffer]] = chain([first], rest)
        hasher = hashlib.sha256()
        whole = io.BytesIO()  # returns what was written to it without a copy
        for part in self._pool.map(operator.call, reads):
            hasher.update(part)
            whole.write(part)
        if hasher.hexdigest() != key:
            raise CorruptObjectError(key, f"its content hashes to {hasher.hexdigest()}")
        return whole.getvalue()

    def read_range(self, key: str, start: int, end: int) -> Buffer:
        """Return a range of an object.

        :raises MissingError: if the object does not exist.
        :raises CorruptObjectError: if it is too short.
        """
        content = self._bucket.get_range(name_of(key), start, end).content
        if len(content) != end - start:
            raise CorruptObjectError(key, f"its bytes end after {start + len(content)}, not {end}")
        return content


def name_of(key: str) -> str:
    """Return the name of a loose object in the bucket."""
    return f"{key[:2]}/{key[2:]}"


def key_of(name: str) -> str | None:
    """Return the key of a loose object by its name, None if the name is none of a loose object."""
    key = name.replace("/", "", 1)
    return key if is_key(key, "sha256") and name_of(key) == name else None


def _distance(key: str, other: str) -> int:
    """Return how many keys lie between two keys, in units of the first 64 bits."""
    return max(int(other[:16], 16) - int(key[:16], 16), 0) if other < "g" and key < "g" else 0
