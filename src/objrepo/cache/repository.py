"""`CachedRepository`: a cache near by in front of an origin far away."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anyio.abc import ByteSendStream

from objrepo.cache.lru_index import Ledger
from objrepo.cache.prefetch import Prefetch
from objrepo.cache.single_flight import Flight, Flights
from objrepo.cache.store import Cache
from objrepo.errors import CorruptObjectError, ObjectNotFoundError, RepositoryClosedError
from objrepo.keys import require_str
from objrepo.offload import Inline, Offload, Threads
from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter, Source
from objrepo.reports import (
    CopyReport,
    DamagedObject,
    MaintenanceReport,
    ProgressCallback,
    RepositoryInfo,
    Statistics,
    VerifyReport,
)
from objrepo.sendfile import send_stream
from objrepo.streams import CHUNK_BYTES, BackendStream, OpenedObject, checked_range

__all__ = ("CachedRepository",)

T = TypeVar("T")


class CachedRepository:
    """Reads from a cache, and from the origin what the cache does not have, which it then keeps.

    What is written goes to the origin, and is acknowledged when it is there. Objects are read from the cache without
    asking the origin, so that reading them works while it is not to be had; one that is damaged in the cache is fetched
    again. Several tasks that want the same absent object cause one download. When the cache is full, what was not read
    for longest goes. The cache belongs to nothing else; several processes may share it, if all give the same ledger.

    Whole objects are kept; of what is not in the cache a range comes straight from the origin. A cache that cannot be
    written to, or an object larger than the whole cache, does not keep anything from being read.

    :param cache: where copies are kept, such as a :class:`~objrepo.DiskRepository`; it is made when it is needed.
    :param origin: where the objects are.
    :param max_bytes: how many bytes the objects in the cache may have together; at least 1.
    :param ledger: the file in which it is written down what is in the cache, and when it was used. Unless given, it is
        beside the folder of a cache on disk, and in memory for any other.
    """

    def __init__(
        self,
        cache: AsyncRepository,
        origin: AsyncRepository,
        *,
        max_bytes: int,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be an int, not {type(max_bytes).__name__}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._origin = origin
        folder = getattr(cache, "path", None)
        path = Path(f"{folder}.ledger") if ledger is None and isinstance(folder, Path) else ledger
        ledger_file = Ledger(None if path is None else Path(path).absolute(), max_bytes)
        inline = all(isinstance(getattr(each, "offload", None), Inline) for each in (cache, origin))
        self.offload: Offload = Inline() if inline else Threads(4)
        self._cache = Cache(cache, origin, ledger_file, self.offload)
        self._flights = Flights()
        self._entered = 0
        self._entering = threading.Lock()
        self._hits = self._misses = 0

    def __str__(self) -> str:
        return f"CachedRepository of {self._cache.repository} over {self._origin}"

    def __repr__(self) -> str:
        return f"<{self}>"

    # -- entering and leaving -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._origin.__aenter__()
        try:
            await self._cache.repository.__aenter__()
        except BaseException:
            await self._origin.__aexit__(None, None, None)
            raise
        with self._entering:
            self._entered += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        with self._entering:
            self._entered -= 1
            last = not self._entered
        try:
            if last:
                await self._cache.close()
        finally:
            try:
                await self._cache.repository.__aexit__(exc_type, exc, traceback)
            finally:
                await self._origin.__aexit__(exc_type, exc, traceback)

    # -- the repository as a whole ----------------------------------------------------------------------------------

    async def initialise(self, *args: Any, **options: Any) -> None:
        """Make the origin, with its options, and the cache; see :meth:`AsyncRepository.initialise`."""
        await self._origin.initialise(*args, **options)
        await self._cache.prepare()

    async def is_initialised(self) -> bool:
        """Say whether the origin exists."""
        return await self._origin.is_initialised()

    async def uuid(self) -> str | None:
        """Return the unique identifier of the origin, None where it has none."""
        return await self._origin.uuid()

    async def key_format(self) -> str:
        """Return what the keys look like."""
        return await self._cache.prepare()

    def statistics(self) -> Statistics:
        """Return what this object is doing at the moment, its own work and hits and misses of the cache."""
        statistics_of_calls = self.offload.statistics_of_calls()._asdict()
        return Statistics(
            location=str(self),
            users=self._entered,
            cache_hits=self._hits,
            cache_misses=self._misses,
            **statistics_of_calls,
        )

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        """Return the state of the origin."""
        return await self._origin.info(detailed)

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        """Maintain the origin, with its options, and compare what is in the cache with its ledger."""
        report = await self._origin.maintain(dry_run, live, *args, **options)
        await self._cache.prepare()
        if not dry_run:
            await self._cache.take_stock()
        return report

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        """Verify the origin. What is damaged in the cache is found and fetched again when it is read."""
        return await self._origin.verify(progress, quick)

    async def erase(self) -> None:
        """Erase the origin, the cache and its ledger."""
        await self._origin.erase()
        await self._cache.erase()

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of the origin; see :meth:`AsyncRepository.keys`."""
        return self._origin.keys()

    # -- writing: to the origin ---------------------------------------------------------------------------------------

    async def put(self, source: Source) -> str:
        """Store one object in the origin; see :meth:`AsyncRepository.put`."""
        return await self._origin.put(source)

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        """Store many objects in the origin; see :meth:`AsyncRepository.put_many`."""
        return await self._origin.put_many(sources, progress)

    def create(self) -> ObjectWriter:
        """Return a writer of a new object of the origin; see :meth:`AsyncRepository.create`."""
        return self._origin.create()

    async def delete(self, key: str) -> None:
        """Delete an object from both; see :meth:`AsyncRepository.delete`."""
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects from both, from the origin first; see :meth:`AsyncRepository.delete_many`."""
        wanted = list(keys)
        await self._origin.delete_many(wanted)
        await self._cache.prepare()
        for key in dict.fromkeys(wanted):
            await self._cache.remove(key)

    # -- looking: in the cache, and then at the origin ----------------------------------------------------------------

    async def has(self, key: str) -> bool:
        """Say whether an object is there; the origin is asked only for what is not in the cache."""
        return (await self.has_many([key]))[0]

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        """Say of each key whether its object is there; see :meth:`has`."""
        wanted: list[Any] = list(keys)
        await self._cache.prepare()
        found = set()
        if self._cache.same_keys:
            near = await self._cache.repository.has_many(wanted)
            found = {key for key, there in zip(wanted, near, strict=True) if there}
        asked = [key for key in wanted if isinstance(key, str) and key not in found]
        if asked:
            far = await self._origin.has_many(asked)
            found |= {key for key, there in zip(asked, far, strict=True) if there}
        return [isinstance(key, str) and key in found for key in wanted]

    async def size(self, key: str) -> int:
        """Return the length of an object in bytes; see :meth:`AsyncRepository.size`."""
        return await self._ask(key, lambda repository, name: repository.size(name))

    async def hash(self, key: str) -> str:
        """Return the SHA-256 of an object; see :meth:`AsyncRepository.hash`."""
        return await self._ask(key, lambda repository, name: repository.hash(name))

    async def _ask(self, key: str, question: Callable[[AsyncRepository, str], Awaitable[T]]) -> T:
        name = await self._cache.name(require_str(key))
        if name is not None:
            with suppress(ObjectNotFoundError, CorruptObjectError):
                return await question(self._cache.repository, name)
        return await question(self._origin, key)

    # -- reading: from the cache, which is filled on the way -----------------------------------------------------------

    async def get(self, key: str, check: bool = False) -> bytes:
        """Return the whole content of an object, always compared with its key; see :meth:`AsyncRepository.get`."""
        landed = self._flights.landed
        content = await self._cache.get(require_str(key))
        if content is not None:
            self._hits += 1
            return content
        self._misses += 1
        async with self._flights.of(key, landed) as flight:
            if flight.outdated:
                flight.content = await self._cache.get(key)
            if flight.content is None:
                flight.content = await self._origin.get(key, check=True)
                flight.land()
                await self._cache.keep(key, flight.content, len(flight.content))
            return flight.content

    @asynccontextmanager
    async def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool = False
    ) -> AsyncIterator[ObjectStream]:
        """Open an object for reading; see :meth:`AsyncRepository.open`.

        A whole object is always compared with its key by the time that it was read straight to its end, if the cache
        knows it by that.
        """
        offset, length = checked_range(offset, length)
        async with AsyncExitStack() as resources:
            stream = await self._open(resources, require_str(key), offset, length, check)
            try:
                yield stream
            except CorruptObjectError as error:
                if error.key == key:
                    await self._cache.drop(key)
                raise

    async def send_object(self, stream: ByteSendStream, key: str, offset: int = 0, length: int | None = None) -> int:
        """Send an object into a stream of bytes; see :meth:`AsyncRepository.send_object`."""
        async with self.open(key, offset, length) as opened:
            return await send_stream(opened, stream, self.offload)

    @asynccontextmanager
    async def stream(self, keys: Iterable[str]) -> AsyncIterator[AsyncIterator[tuple[str, ObjectStream]]]:
        """Read many objects, each as :meth:`open` does; see :meth:`AsyncRepository.stream`."""
        wanted = list(dict.fromkeys(require_str(key) for key in keys))
        present = await self.has_many(wanted)
        missing = [key for key, there in zip(wanted, present, strict=True) if not there]
        if missing:
            raise ObjectNotFoundError(missing, self)
        async with aclosing(_Objects(self, wanted)) as objects:
            yield objects

    async def prefetch(self, keys: Iterable[str], progress: ProgressCallback | None = None) -> CopyReport:
        """Have objects in the cache before they are read, several at the same time.

        Cancellation leaves in the cache what is there by then.

        :param keys: which objects; more than the cache can hold drive out those before them.
        :param progress: told of each object.
        :return: how many objects were fetched, and which are damaged at the origin.
        :raises ObjectNotFoundError: if one of the keys is not there.
        """
        wanted = list(dict.fromkeys(require_str(key) for key in keys))
        await self._cache.prepare()
        return await Prefetch(self._prefetch_one, progress).run(wanted, not isinstance(self.offload, Inline))

    async def _prefetch_one(self, key: str) -> int | DamagedObject | None:
        """Return the size of what was fetched, None for what is there, or what is wrong with the object."""
        name = await self._cache.name(key)
        if name is not None and await self._cache.repository.has(name):
            return None
        try:
            async with AsyncExitStack() as resources:
                return (await self._open(resources, key, 0, None, True)).size
        except CorruptObjectError as error:
            return DamagedObject(key, error.reason)

    async def _open(
        self, resources: AsyncExitStack, key: str, offset: int, length: int | None, check: bool
    ) -> ObjectStream:
        whole = not offset and length is None
        landed = self._flights.landed
        opened = await self._cache.open(resources, key, offset, length, whole or check)
        if opened is not None:
            self._hits += 1
            return opened
        self._misses += 1
        if whole:
            async with self._flights.of(key, landed) as flight:
                if flight.content is not None:
                    return self._in_memory(key, flight.content)
                if flight.outdated:
                    opened = await self._cache.open(resources, key, 0, None, True)
                if opened is None:
                    opened = await self._fetch(resources, key, flight)
        if opened is not None:
            return opened
        return await resources.enter_async_context(self._origin.open(key, offset, length, whole or check))

    async def _fetch(self, resources: AsyncExitStack, key: str, flight: Flight) -> ObjectStream | None:
        """Bring an object into the cache and open it there; None if that cannot keep it."""
        async with self._origin.open(key, check=True) as stream:
            size = stream.size
            if self._cache.is_too_small_for(size):
                return None
            if size <= CHUNK_BYTES:
                content = flight.content = await stream.read()
                flight.land()
                await self._cache.keep(key, content, size)
                return self._in_memory(key, content)
            if not await self._cache.keep(key, stream, size):
                return None
        return await self._cache.open(resources, key, 0, None, True)

    def _in_memory(self, key: str, content: bytes) -> ObjectStream:
        return BackendStream(OpenedObject(key, len(content), content, None), self.offload)


class _Objects:
    """The objects of ``stream``; each is opened when it is asked for, and closed by the next step."""

    def __init__(self, repository: CachedRepository, keys: list[str]) -> None:
        self._repository = repository
        self._left = iter(keys)
        self._resources = AsyncExitStack()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, ObjectStream]:
        if self._closed:
            raise RepositoryClosedError("the stream of objects is closed: read inside its `async with`")
        await self._resources.aclose()
        for key in self._left:
            return key, await self._resources.enter_async_context(self._repository.open(key))
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        await self._resources.aclose()


if TYPE_CHECKING:
    _: type[AsyncRepository] = CachedRepository
