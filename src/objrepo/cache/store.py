"""The near side of a `CachedRepository`: what is in the cache, by which names, and how it gets in and out."""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Final, TypeVar

from objrepo.cache.lru_index import Ledger
from objrepo.cache.named import NamedStream
from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.integrity import compared
from objrepo.keys import is_key
from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository, ObjectStream, Source
from objrepo.sources import closing_generator

__all__ = ("Cache",)

T = TypeVar("T")

_log: Final = logging.getLogger("objrepo")


class Cache:
    """A repository of copies, and the ledger of what is in it.

    :param repository: where the copies are.
    :param origin: where the objects are.
    :param ledger: what is where, and when it was used.
    :param offload: where the ledger is read and written.
    :ivar repository, ledger: as given.
    :ivar same_keys: whether both know objects by the same keys, once it was found out.
    """

    def __init__(self, repository: AsyncRepository, origin: AsyncRepository, ledger: Ledger, offload: Offload) -> None:
        self.repository = repository
        self.same_keys = False
        self._origin = origin
        self.ledger = ledger
        self._offload = offload
        self._key_format: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}, in front of {self._origin}"

    async def close(self) -> None:
        """Close the ledger, and forget what was found out."""
        self._key_format = None
        await self._offload.finish(self.ledger.close)

    async def erase(self) -> None:
        """Delete the copies and the ledger."""
        await self.repository.erase()
        await self._offload.run(self.ledger.remove)
        self._key_format = None

    async def prepare(self) -> str:
        """Find out, once, how both know objects, and return how the origin does; also while that is not to be had."""
        if self._key_format is not None:
            return self._key_format
        if not await self.repository.is_initialised():
            await self._origin.key_format()  # a cache without an origin is none
            await self.repository.initialise()
        cached_format = await self.repository.key_format()
        known = await self._offload.run(self.ledger.fact, "key_format")
        key_format = known or await self._origin.key_format()
        if known is None:
            uuid = await self._origin.uuid()
            await self._offload.run(lambda: self.ledger.write_facts(key_format=key_format, uuid=uuid))
        self.same_keys = key_format == cached_format != "uuid4"
        if known is None:
            await self.take_stock()
        self._key_format = key_format
        return key_format

    async def take_stock(self) -> None:
        """Write down what is in the cache, and strike out what is not there, where the keys tell that."""
        if not self.same_keys:
            return
        gone = set(await self._offload.run(self.ledger.keys))
        keys = self.repository.keys()
        async with closing_generator(keys):
            async for key in keys:
                if key in gone:
                    gone.discard(key)
                    continue
                with suppress(ObjectNotFoundError):
                    await self._offload.run(self.ledger.enter, key, key, await self.repository.size(key))
        await self._offload.run(self.ledger.strike_out, gone)
        await self._make_space(0)

    async def name(self, key: str) -> str | None:
        """Return by which name the cache knows an object, if it has it; None if it certainly does not."""
        key_format = await self.prepare()
        if not is_key(key, key_format):
            return None
        return key if self.same_keys else await self._offload.run(self.ledger.name, key)

    async def get(self, key: str) -> bytes | None:
        """Return the content of an object, None if it is not there as it should be."""

        async def read(name: str) -> bytes:
            content = await self.repository.get(name, check=True)
            if not self.same_keys:
                await self._offload.run(compared, key, await self.prepare(), content)
            return content

        return await self._used(key, read)

    async def open(
        self, resources: AsyncExitStack, key: str, offset: int, length: int | None, check: bool
    ) -> ObjectStream | None:
        """Open an object until the resources are closed; None if it is not there as it should be."""

        async def enter(name: str) -> ObjectStream:
            stream = await resources.enter_async_context(self.repository.open(name, offset, length, check))
            return stream if name == key else NamedStream(key, stream)

        return await self._used(key, enter)

    async def _used(self, key: str, use: Callable[[str], Awaitable[T]]) -> T | None:
        """Use an object by the name that it has here, and note that; None if it is not there as it should be."""
        name = await self.name(key)
        if name is None:
            return None
        try:
            found = await use(name)
        except ObjectNotFoundError:
            return None
        except CorruptObjectError:
            await self.drop(key)
            return None
        self.ledger.note(key)
        return found

    def is_too_small_for(self, size: int) -> bool:
        """Say whether an object is larger than the whole cache."""
        return size > self.ledger.max_bytes

    async def keep(self, key: str, source: bytes | ObjectStream, size: int) -> bool:
        """Put an object into the cache; return whether it is there now. The cache is allowed to fail."""
        if self.is_too_small_for(size):
            return False
        # As a file, so that it is kept in one of its own, which frees its bytes at once when it is deleted.
        content: Source = io.BytesIO(source) if isinstance(source, bytes) else source
        try:
            await self._make_space(size)
            if self.same_keys:  # written down first: what a crash leaves in the cache is in the book
                await self._offload.run(self.ledger.enter, key, key, size)
                await self.repository.put(content)
            else:
                name = await self.repository.put(content)
                await self._offload.run(self.ledger.enter, key, name, size)
        except CorruptObjectError:  # at the origin
            await self._offload.run(self.ledger.strike_out, [key])
            raise
        except OSError:
            await self._offload.run(self.ledger.strike_out, [key])
            return False
        return True

    async def drop(self, key: str) -> None:
        """Take an object out that was damaged here, and is fetched again."""
        _log.warning("%s is damaged in the cache, and fetched again: %s", key, self)
        await self.remove(key)

    async def remove(self, key: str) -> None:
        """Take an object out, if it is there."""
        name = await self.name(key)
        if name is not None:
            await self._offload.run(self.ledger.strike_out, [key])
            with suppress(ObjectNotFoundError):
                await self.repository.delete(name)

    async def _make_space(self, size: int) -> None:
        for name in await self._offload.run(self.ledger.make_space, size):
            with suppress(ObjectNotFoundError):  # another process was quicker
                await self.repository.delete(name)
