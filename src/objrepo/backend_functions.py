"""What a repository is made of: blocking functions, of which a backend fills in those that are abstract here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, Final
from weakref import WeakSet

from objrepo.errors import CorruptObjectError, ObjectNotFoundError, RepositoryError
from objrepo.integrity import checked, compared, digest, verify
from objrepo.keys import is_key
from objrepo.offload import UNBATCHED, BlockingPool, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader, Source
from objrepo.reports import Leftover, RepositoryInfo, VerifyReport
from objrepo.sources import open_source
from objrepo.streams import BATCH_BYTES, OpenedObject, RangeHandle, close_all

__all__ = ("BlockingFunctions",)

_OPENED_AT_ONCE: Final = 64
"""How many objects are opened together, of which each may bring 256 KiB."""


class BlockingFunctions(ABC):
    """The blocking functions of a repository.

    They run on worker threads, several at a time, and may be left by their caller before they end: what one of them
    takes, it gives back itself. They check the keys that they are given: what cannot be a key is simply not there.
    """

    def __init__(self) -> None:
        self._handles: WeakSet[RangeHandle] = WeakSet()

    @abstractmethod
    def _initialise(self, **options: Any) -> None: ...

    @abstractmethod
    def _is_initialised(self) -> bool: ...

    @abstractmethod
    def _key_format(self) -> str: ...

    @abstractmethod
    def _put(self, reader: BinaryReader) -> str:
        """Store what the reader gives and return its key; if reading raises, leave nothing and let it out."""

    @abstractmethod
    def _has(self, keys: Sequence[object]) -> list[bool]:
        """Say of each key whether its object is there. Anything may be among them."""

    @abstractmethod
    def _open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        """Open a range of an object; it goes through :meth:`_kept`.

        :raises ObjectNotFoundError: if the object is not there.
        """

    @abstractmethod
    def _list(self, cursor: Any) -> tuple[list[str], Any]:
        """Return some keys and what to call this with for more: first None, and None when there are no more."""

    @abstractmethod
    def _delete(self, keys: Sequence[str]) -> None:
        """Delete objects, which are well-formed keys; if one is missing, raise and delete nothing.

        :raises ObjectNotFoundError: naming every missing key.
        """

    @abstractmethod
    def _info(self, detailed: bool) -> RepositoryInfo: ...

    @abstractmethod
    def _erase(self) -> None: ...

    def _uuid(self) -> str | None:
        return None

    def _close(self) -> None:  # noqa: B027  (most backends hold nothing)
        """Give up what was held between two calls, when the last user leaves."""

    _groups_puts = False
    """Whether small objects that are put at the same moment are better stored together, by ``_put_each``."""

    _several: BlockingPool | None = None
    """What reads and stores several objects at the same time within one hop; None where these are better taken one
    after the other, and together with those of others, as from a disk."""

    def _leave(self) -> None:
        for handle in tuple(self._handles):
            handle.close()
        if self._several is not None:
            self._several.close()
        self._close()

    # -- made of those that the backend filled in; it may have quicker ones ---------------------------------------

    def _put_all(self, sources: Sequence[Source]) -> list[str]:
        if self._several is not None:
            return list(self._several.each(self._put_alone, sources))
        keys = []
        for source in sources:
            if cancel_requested():
                raise WorkCancelled
            keys.append(self._put_alone(source))
        return keys

    def _put_alone(self, source: Source) -> str:
        with open_source(source) as reader:
            return self._put(reader)

    def _put_each(self, sources: list[memoryview | os.PathLike[str]]) -> list[Any]:
        """Store what is in memory and small, and small files; return the key of each, ``UNBATCHED``, or an error."""
        return [UNBATCHED] * len(sources)

    def _get_each(self, keys: list[str]) -> list[Any]:
        """Return the content of each small object, ``UNBATCHED`` for a large one, or the error of reading it."""
        outcomes: list[Any] = []
        for key in keys:
            try:
                with closing(self._open(key)) as opened:
                    outcomes.append(opened.head if opened.handle is None else UNBATCHED)
            except (RepositoryError, OSError) as error:
                outcomes.append(error)
        return outcomes

    def _get_each_checked(self, keys: list[str]) -> list[Any]:
        key_format = self._key_format()
        outcomes = self._get_each(keys)
        for number, (key, content) in enumerate(zip(keys, outcomes, strict=True)):
            if isinstance(content, bytes):
                try:
                    compared(key, key_format, content)
                except CorruptObjectError as error:
                    outcomes[number] = error
        return outcomes

    def _get_checked(self, key: str) -> bytes:
        return compared(key, self._key_format(), self._get(key))

    def _open_checked(self, key: str, offset: int, length: int | None) -> OpenedObject:
        opened = self._open(key, offset, length)
        try:
            return checked(opened, self._key_format())
        except BaseException:
            opened.close()
            raise

    def _has_one(self, key: object) -> bool:
        return self._has([key])[0]

    def _require(self, keys: Sequence[str]) -> None:
        missing = [key for key, found in zip(keys, self._has(keys), strict=True) if not found]
        if missing:
            raise ObjectNotFoundError(missing, self)

    def _kept(self, opened: OpenedObject) -> OpenedObject:
        """Note an open handle, so that leaving the repository closes it."""
        if opened.handle is not None:
            self._handles.add(opened.handle)
        return opened

    def _get(self, key: str) -> bytes:
        opened = self._open(key)
        try:
            if opened.handle is None:
                return opened.head
            start = len(opened.head)
            return opened.head + opened.handle.read_at(start, opened.size - start)
        finally:
            opened.close()

    def _size(self, key: str) -> int:
        opened = self._open(key)
        opened.close()
        return opened.size

    def _hash(self, key: str) -> str:
        if self._key_format() == "sha256":
            self._require([key])
            return key
        return digest(self._open(key), "sha256")[0]

    def _verify(self, keys: Sequence[str], quick: bool) -> VerifyReport:
        key_format = self._key_format()
        if self._several is None:
            return verify(keys, key_format, self._open, quick)
        reports = list(self._several.each(lambda key: verify([key], key_format, self._open, quick), keys))
        damaged = [item for report in reports for item in report.damaged]
        return VerifyReport(sum(r.objects for r in reports), sum(r.size for r in reports), tuple(damaged))

    def _leftovers(self) -> tuple[Leftover, ...]:
        return ()

    def _plan(self, keys: Sequence[str]) -> tuple[Sequence[Any], Callable[[Sequence[Any]], list[OpenedObject]]]:
        """Return objects in the order in which reading them is fastest, and what opens some of them.

        :raises ObjectNotFoundError: naming every key whose object is not there.
        """
        self._require(keys)
        return keys, self._open_batch

    def _delete_checked(self, keys: Sequence[str]) -> None:
        key_format = self._key_format()
        if not all(is_key(key, key_format) for key in keys):
            self._require(keys)
        self._delete(keys)

    def _open_batch(self, keys: Sequence[str]) -> list[OpenedObject]:
        """Open objects until there is enough for one hop, or one is too large to be held whole."""
        batch: list[OpenedObject] = []
        opening: Iterable[OpenedObject] = map(self._open, keys)
        if self._several is not None:
            opening = self._several.each(self._open, keys[:_OPENED_AT_ONCE])
        try:
            size = 0
            for opened in opening:
                batch.append(opened)
                size += len(opened.head)
                if self._several is None and (opened.handle is not None or size >= BATCH_BYTES or cancel_requested()):
                    break
        except (RepositoryError, OSError):
            if not batch:
                raise
            # What was opened is good. The error comes again when its object is the first.
        except BaseException:
            close_all(batch)
            raise
        return batch
