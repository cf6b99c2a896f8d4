"""The copies of a `CachedRepository`: the repository that holds them, and the index that bounds their size."""

from __future__ import annotations

import io
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from anyio.abc import ByteReceiveStream

from objrepo.backend import Backend
from objrepo.cache.lru_index import LRUIndex
from objrepo.errors import CorruptObjectError, NotInitialisedError, ObjectNotFoundError
from objrepo.integrity import check_digest
from objrepo.keys import is_key
from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository, ObjectStream, Source
from objrepo.sources import closing_generator
from objrepo.streams import BATCH_OBJECTS

T = TypeVar("T")

_MAX_INTACT: Final = 100_000

_log: Final = logging.getLogger("objrepo")


class CacheStore:
    """The copies of the objects of an origin.

    A failure of the cache never makes reading fail, as the origin has the objects: it is logged, once until
    :meth:`close`.

    A repository on disk does not flush its copies. So a copy is compared with its key, as a whole, before a range of it
    or its size is used, unless this process has written or compared it since it started.

    :param repository: where the copies are.
    :param origin: where the objects are.
    :param index: what is in the cache.
    :param offload: runs the methods of the index.
    :ivar same_keys: whether a copy has the key of its object; known after :meth:`prepare`.
    """

    def __init__(self, repository: AsyncRepository, origin: AsyncRepository, index: LRUIndex, offload: Offload) -> None:
        self.repository = repository
        self.index = index
        self.same_keys: bool = False
        self._origin = origin
        self._offload = offload
        self._key_format: str | None = None
        self._usable = False
        self._failure_logged = False
        backend = getattr(repository, "backend", None)
        self._flushes = getattr(backend, "durable", None) is None
        if isinstance(backend, Backend) and not self._flushes:
            backend.durable = False
        self._intact: set[str] = set()

    def close(self) -> None:
        """Close the index; blocks. The next use prepares the cache again."""
        self._intact.clear()
        self._key_format = None
        self._failure_logged = False
        self.index.close()

    async def erase(self) -> None:
        """Delete the copies and the index."""
        await self.repository.erase()
        await self._offload.run(self.index.remove)
        self._key_format = None

    async def prepare(self) -> str:
        """Create the cache unless it exists, and return the key format of the origin, which the index remembers."""
        if self._key_format is not None:
            return self._key_format
        exists = False
        cache_format: str | None = None
        known: str | None = None
        with self.failures_ignored():
            exists = await self.repository.is_initialised()
        if not exists:
            await self._origin.key_format()  # raises before anything is created if there is no origin
        with self.failures_ignored():
            if not exists:
                await self.repository.initialise()
            cache_format = await self.repository.key_format()
            known = await self._offload.run(self.index.key_format)
        key_format = known or await self._origin.key_format()
        self._usable = bool(cache_format)
        self.same_keys = key_format == cache_format != "uuid4"
        if self._usable and known is None:
            with self.failures_ignored():
                await self._offload.run(self.index.set_key_format, key_format)
                await self.synchronise_index()
        self._key_format = key_format
        return key_format

    async def synchronise_index(self) -> None:
        """Make the index list exactly the copies that exist. If copies have keys of their own, do nothing.

        :raises OSError: if the cache or its index fails.
        """
        if not self.same_keys:
            return
        vanished = set(await self._offload.run(self.index.keys))
        found: list[tuple[str, str, int]] = []
        keys = self.repository.keys()
        async with closing_generator(keys):
            async for key in keys:
                if key in vanished:
                    vanished.discard(key)
                    continue
                with suppress(ObjectNotFoundError):
                    found.append((key, key, await self.repository.size(key)))
                if len(found) == BATCH_OBJECTS:
                    await self._offload.run(self.index.insert, found)
                    found = []
        await self._offload.run(self.index.insert, found)
        await self._offload.run(self.index.delete, vanished)
        await self._evict(0)

    async def get(self, key: str) -> bytes | None:
        """Return the content of an object; see :meth:`use`."""

        async def read(name: str) -> bytes:
            content = await self.repository.get(name, check=True)
            self._note_intact(name)
            if not self.same_keys:
                await self._offload.run(check_digest, key, await self.prepare(), content)
            return content

        return await self.use(key, read)

    async def open(
        self, resources: AsyncExitStack, key: str, offset: int, length: int | None, check: bool
    ) -> ObjectStream | None:
        """Open an object until ``resources`` is closed; see :meth:`use`."""

        async def enter(name: str) -> ObjectStream:
            if not check:
                await self._require_intact(name)
            stream = await resources.enter_async_context(self.repository.open(name, offset, length, check))
            return stream if name == key else _RenamedStream(key, stream)

        return await self.use(key, enter)

    async def size(self, key: str) -> int | None:
        """Return the size of an object; see :meth:`use`."""

        async def size(name: str) -> int:
            await self._require_intact(name)
            return await self.repository.size(name)

        return await self.use(key, size)

    async def _require_intact(self, name: str) -> None:
        """Compare a copy with its key if a power failure may have damaged it.

        :raises CorruptObjectError: if it is damaged.
        """
        if not self._flushes and name not in self._intact:
            async with self.repository.open(name, check=True) as stream:
                async for _ in stream:
                    pass
            self._note_intact(name)

    def _note_intact(self, name: str) -> None:
        if len(self._intact) >= _MAX_INTACT:
            self._intact.clear()
        self._intact.add(name)

    async def use(self, key: str, operation: Callable[[str], Awaitable[T]]) -> T | None:
        """Call an operation with the key of an object's copy.

        :return: its result, or None if there is no copy or the cache fails. A damaged copy is deleted.
        """
        await self.prepare()
        with self.failures_ignored():
            name = await self._name(key)
            if name is None:
                return None
            try:
                result = await operation(name)
            except CorruptObjectError:
                await self.drop(key)
                return None
            if self.index.touch(key):
                with self.failures_ignored():
                    await self._offload.run(self.index.flush)
            return result
        return None

    async def keep(self, key: str, source: bytes | ObjectStream, size: int) -> bool:
        """Store a copy.

        :return: whether the cache has it now.
        :raises CorruptObjectError: if the source is damaged.
        """
        if not self._usable or size > self.index.max_bytes:
            return False
        # A file is stored as a loose object, whose bytes are freed at once when it is deleted.
        content: Source = io.BytesIO(source) if isinstance(source, bytes) else source
        name = key
        try:
            await self._evict(size)
            if self.same_keys:  # indexed first: a crash leaves no copy that the index does not count
                await self._offload.run(self.index.insert, [(key, key, size)])
                await self.repository.put(content)
            else:
                name = await self.repository.put(content)
                await self._offload.run(self.index.insert, [(key, name, size)])
        except (OSError, NotInitialisedError) as error:
            with self.failures_ignored():
                await self._offload.run(self.index.delete, [key])
            if name != key:
                with self.failures_ignored():
                    await self.repository.delete(name)
            if isinstance(error, CorruptObjectError):
                raise
            self._log_failure(error)
            return False
        self._note_intact(name)
        return True

    async def drop(self, key: str) -> None:
        """Delete a damaged copy."""
        _log.warning("the copy of object %s in the cache %s is damaged and is fetched again", key, self.repository)
        with self.failures_ignored():
            await self.remove(key)

    async def remove(self, key: str) -> None:
        """Delete the copy of an object, if there is one.

        :raises OSError: if the copy may still be there.
        """
        await self.prepare()
        name = await self._name(key)
        if name is not None:
            self._intact.discard(name)
            with self.failures_ignored():
                await self._offload.run(self.index.delete, [key])
            with suppress(ObjectNotFoundError):
                await self.repository.delete(name)

    @contextmanager
    def failures_ignored(self) -> Iterator[None]:
        """Log a failure of the cache instead of raising it."""
        try:
            yield
        except ObjectNotFoundError:
            pass  # another process evicted it
        except (OSError, NotInitialisedError) as error:
            self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        if not self._failure_logged:
            self._failure_logged = True
            _log.warning("the cache %s fails, objects are read from %s: %s", self.repository, self._origin, error)

    async def _name(self, key: str) -> str | None:
        """Return the key of an object's copy, None if there certainly is no copy."""
        if not self._usable or not is_key(key, await self.prepare()):
            return None
        return key if self.same_keys else await self._offload.run(self.index.name, key)

    async def _evict(self, size: int) -> None:
        for name in await self._offload.run(self.index.evict, size):
            with self.failures_ignored():
                await self.repository.delete(name)


class _RenamedStream(ByteReceiveStream):
    """An :class:`ObjectStream` of a copy that has a key of its own, with the key of the object."""

    def __init__(self, key: str, stream: ObjectStream) -> None:
        self.key = key
        self.size = stream.size
        self.seek = stream.seek
        self.tell = stream.tell
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._errors_renamed():
            return await self._stream.receive(max_bytes)

    async def read(self, n: int | None = -1) -> bytes:
        with self._errors_renamed():
            return await self._stream.read(n)

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        with self._errors_renamed():
            return await self._stream.readinto(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _errors_renamed(self) -> Iterator[None]:
        try:
            yield
        except CorruptObjectError as error:
            raise CorruptObjectError(self.key, error.reason) from error


if TYPE_CHECKING:
    _: type[ObjectStream] = _RenamedStream
