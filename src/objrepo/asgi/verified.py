"""The memory of a server: which objects it has compared with their keys."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from objrepo.errors import CorruptObjectError
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.repository import Repository
from objrepo.streams import CHUNK_BYTES

__all__ = ("VerifiedObjects",)

_MAX_OBJECTS: Final = 10_000
_SECONDS: Final = 3600.0
"""After this time an object is compared again: a disk may have damaged it without changing its file's times."""


class VerifiedObjects:
    """Opens the objects of a repository so that they are compared with their keys, large ones once in an hour.

    An object of up to 256 KiB is compared when it is opened. A larger one is compared while it is read; it is then
    trusted as long as its repository says that its bytes were not replaced, see
    :meth:`~objrepo.repository.Repository.version`. The 10,000 objects that were compared last are remembered.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._repository = repository
        self._intact: dict[str, tuple[tuple[int, ...], float]] = {}
        self._damaged: dict[str, None] = {}

    async def refuse_damaged(self, key: str) -> None:
        """Read an object that was found to be damaged again.

        :raises CorruptObjectError: if it still is.
        """
        if self.is_damaged(key):
            async with self.open(key) as stream:
                async for _ in stream:
                    pass
            self._damaged.pop(key, None)

    def is_damaged(self, key: str) -> bool:
        """Return whether an object was found to be damaged, and not read as a whole since."""
        return key in self._damaged

    async def is_intact(self, key: str) -> bool:
        """Return whether a large object was compared with its key, and not replaced since."""
        version, until = self._intact.get(key, (None, 0.0))
        return version is not None and time.monotonic() < until and await self._version(key) == version

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[ObjectStream]:
        """Open a whole object, which is compared unless :meth:`is_intact`, and remember the outcome."""
        async with self._repository.open(key, check=True) as stream:
            version = await self._version(key) if stream.size > CHUNK_BYTES else None
            try:
                yield stream
            except CorruptObjectError:
                self._damaged[key] = None
                _forget_the_first(self._damaged)
                raise
            if version is not None and await stream.tell() == stream.size:
                self._intact.pop(key, None)
                self._intact[key] = version, time.monotonic() + _SECONDS
                _forget_the_first(self._intact)

    async def _version(self, key: str) -> tuple[int, ...] | None:
        return await self._repository.version(key) if isinstance(self._repository, Repository) else None


def _forget_the_first(objects: dict[str, Any]) -> None:
    if len(objects) > _MAX_OBJECTS:
        del objects[next(iter(objects))]
