"""`CachedRepository`: a repository that keeps copies of the objects of another repository."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import ByteSendStream

from objrepo.cache.lru_index import LRUIndex
from objrepo.cache.single_flight import Download, SingleFlight
from objrepo.cache.store import CacheStore
from objrepo.errors import CorruptObjectError, ObjectNotFoundError, RepositoryClosedError
from objrepo.forwarding import ForwardingRepository
from objrepo.keys import key_list, require_str, unique_keys
from objrepo.lifetime import Lifetime
from objrepo.offload import Inline, Offload, Threads, runs_in_place
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.reports import CopyReport, DamagedObject, MaintenanceReport, Progress, ProgressCallback, Statistics
from objrepo.sendfile import send_stream
from objrepo.streams import CHUNK_BYTES, BackendStream, OpenedObject, checked_range
from objrepo.with_only import async_with_only

_CONCURRENT_FETCHES: Final = 16


class CachedRepository(ForwardingRepository):
    """Reads objects from a cache, and from the origin if the cache does not have them; the cache then keeps a copy.

    Objects are written to the origin. Objects in the cache are read without a request to the origin, also while the
    origin is unavailable. Each is compared with its key, whatever ``check`` says; one that is damaged in the cache is
    fetched again. Before a range of it is read, it is compared once in the life of this object. So a cache on disk is
    not flushed, as with ``durable=False``: what a power failure damages is fetched again. Concurrent
    misses of an object are coalesced into one download (single-flight). When the cache is full, the least recently used
    objects are evicted. Ranges of objects that are not in the cache are read from the origin and not kept.

    A cache that fails, or is smaller than an object, does not keep the object from being read: the failure is logged at
    WARNING. ``uuid``, ``info``, ``verify`` and ``maintain`` concern the origin; ``maintain`` also compares the index of
    the cache with its content. ``delete`` deletes from both. ``erase`` erases both.

    :param cache: where the copies are, such as a :class:`~objrepo.DiskRepository`, whose ``durable`` becomes False; it
        is initialised on first use and has no other content. Several processes may share it if all use the same index.
    :param origin: where the objects are.
    :param max_bytes: the size of the cache in bytes; at least 1.
    :param index: the path of the SQLite file that lists what is in the cache and when it was used. By default it is the
        path of the cache with the suffix ``.cache-index``, and in memory for a cache that has no path.
    :raises TypeError: if ``max_bytes`` is not an int.
    :raises ValueError: if ``max_bytes`` is less than 1.
    """

    def __init__(
        self,
        cache: AsyncRepository,
        origin: AsyncRepository,
        *,
        max_bytes: int,
        index: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be an int, not {type(max_bytes).__name__}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        super().__init__(origin)
        folder = getattr(cache, "path", None)
        if index is None and isinstance(folder, Path):
            index = f"{folder}.cache-index"
        self.offload: Offload = Inline() if runs_in_place(cache) and runs_in_place(origin) else Threads(4)
        lru_index = LRUIndex(None if index is None else Path(index).absolute(), max_bytes)
        self._store = CacheStore(cache, origin, lru_index, self.offload)
        self._single_flight = SingleFlight()
        self._lifetime = Lifetime()
        self._hits = self._misses = 0

    def __str__(self) -> str:
        return f"CachedRepository of {self._store.repository} over {self._repository}"

    def __reduce__(self) -> tuple[Callable[..., CachedRepository], tuple[AsyncRepository, AsyncRepository]]:
        index = self._store.index
        return partial(type(self), max_bytes=index.max_bytes, index=index.path), (
            self._store.repository,
            self._repository,
        )

    # -- the repository as a whole ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            for repository in (self._repository, self._store.repository):
                await entered.enter_async_context(repository)
            await self._lifetime.enter(self.offload)
            entered.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        leaving = AsyncExitStack()
        for repository in (self._repository, self._store.repository):
            leaving.push_async_exit(repository)
        leaving.push_async_callback(self._lifetime.leave, self.offload, self._store.close)
        await leaving.__aexit__(exc_type, exc, traceback)

    async def initialise(self, *args: Any, **options: Any) -> None:
        await super().initialise(*args, **options)
        await self._store.repository.initialise()
        await self._store.prepare()

    async def key_format(self) -> str:
        return await self._store.prepare()

    def statistics(self) -> Statistics:
        """Return the current state of this object: its thread calls, and the hits and misses of the cache."""
        return Statistics(
            location=str(self),
            users=self._lifetime.users,
            cache_hits=self._hits,
            cache_misses=self._misses,
            **self.offload.statistics()._asdict(),
        )

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        report = await super().maintain(dry_run, live, *args, **options)
        await self._store.prepare()
        if not dry_run:
            await self._store.synchronise_index()
        return report

    async def erase(self) -> None:
        await super().erase()
        await self._store.erase()

    async def delete(self, key: str) -> None:
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        unique = unique_keys(keys)
        await super().delete_many(unique)
        for key in unique:
            await self._store.remove(key)

    # -- questions that the cache may answer --------------------------------------------------------------------------

    async def has(self, key: str) -> bool:
        return (await self.has_many([key]))[0]

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        wanted: list[Any] = key_list(keys)
        await self._store.prepare()
        cached = [False] * len(wanted)
        if self._store.same_keys:
            with self._store.failures_ignored():
                cached = await self._store.repository.has_many(wanted)
        unknown = [key for key, found in zip(wanted, cached, strict=True) if not found]
        if not unknown:
            return cached
        answers = iter(await super().has_many(unknown))
        return [found or next(answers) for found in cached]

    async def size(self, key: str) -> int:
        size = await self._store.size(require_str(key))
        return await super().size(key) if size is None else size

    async def hash(self, key: str) -> str:
        return await self._store.use(require_str(key), self._store.repository.hash) or await super().hash(key)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str, check: bool | None = None) -> bytes:
        completed = self._single_flight.completed
        content = await self._store.get(require_str(key))
        if content is not None:
            self._hits += 1
            return content
        self._misses += 1
        async with self._single_flight.join(key, completed) as download:
            if download.recheck:
                download.content = await self._store.get(key)
            if download.content is None:
                download.content = await super().get(key, check=True)
                download.ended.set()
                await self._store.keep(key, download.content, len(download.content))
            return download.content

    @async_with_only("repo.open(key) as stream")
    async def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> AsyncIterator[ObjectStream]:
        offset, length = checked_range(offset, length)
        async with AsyncExitStack() as resources:
            stream = await self._open(resources, require_str(key), offset, length, bool(check))
            try:
                yield stream
            except CorruptObjectError as error:
                if error.key == key:
                    await self._store.drop(key)
                raise

    async def send_object(
        self,
        stream: ByteSendStream,
        key: str,
        offset: int = 0,
        length: int | None = None,
        check: bool | None = None,
    ) -> int:
        async with self.open(key, offset, length, check) as opened:
            return await send_stream(opened, stream, self.offload)

    @async_with_only("repo.stream(keys) as objects")
    async def stream(
        self, keys: Iterable[str], check: bool | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, ObjectStream]]]:
        wanted = unique_keys(keys)
        present = await self.has_many(wanted)
        missing = [key for key, found in zip(wanted, present, strict=True) if not found]
        if missing:
            raise ObjectNotFoundError(missing, self)
        async with aclosing(_Objects(self, wanted)) as objects:
            yield objects

    async def prefetch(self, keys: Iterable[str], progress: ProgressCallback | None = None) -> CopyReport:
        """Fetch objects into the cache, several at a time.

        The first error stops it. Cancellation stops it too; the objects that were fetched until then stay in the cache.

        :param keys: the objects. If they are more than the cache can hold, the later ones evict the earlier ones.
        :param progress: called after each object.
        :return: how many objects were fetched, and which are damaged in the origin.
        :raises ObjectNotFoundError: if there is no such object.
        :raises RepositoryUnavailableError: if the origin is unavailable.
        """
        wanted = unique_keys(keys)
        await self._store.prepare()
        remaining = iter(wanted)
        sizes: list[int] = []
        damaged: list[DamagedObject] = []
        done = 0

        async def fetch_remaining() -> None:
            nonlocal done
            for key in remaining:
                try:
                    if not await self._store.use(key, self._store.repository.has):
                        async with AsyncExitStack() as resources:
                            sizes.append((await self._open(resources, key, 0, None, True)).size)
                except CorruptObjectError as error:
                    damaged.append(DamagedObject(key, error.reason))
                done += 1
                if progress is not None:
                    progress(Progress("prefetch", done, len(wanted), "objects"))

        if not self.offload.concurrent:
            await fetch_remaining()
        else:
            try:
                async with anyio.create_task_group() as group:
                    for _ in range(min(_CONCURRENT_FETCHES, len(wanted))):
                        group.start_soon(fetch_remaining)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return CopyReport(objects=done, copied=len(sizes), size=sum(sizes), damaged=tuple(damaged))

    async def _open(
        self, resources: AsyncExitStack, key: str, offset: int, length: int | None, check: bool
    ) -> ObjectStream:
        whole = not offset and length is None
        completed = self._single_flight.completed
        opened = await self._store.open(resources, key, offset, length, whole or check)
        if opened is not None:
            self._hits += 1
            return opened
        self._misses += 1
        if whole:
            async with self._single_flight.join(key, completed) as download:
                if download.content is not None:
                    return self._in_memory(key, download.content)
                if download.recheck:
                    opened = await self._store.open(resources, key, 0, None, True)
                if opened is None:
                    opened = await self._fetch(resources, key, download)
        if opened is not None:
            return opened
        return await resources.enter_async_context(super().open(key, offset, length, whole or check))

    async def _fetch(self, resources: AsyncExitStack, key: str, download: Download) -> ObjectStream | None:
        """Copy an object into the cache and open the copy; return None if the cache does not keep it."""
        async with super().open(key, check=True) as stream:
            size = stream.size
            if size <= CHUNK_BYTES:
                content = download.content = await stream.read()
                download.ended.set()
                await self._store.keep(key, content, size)
                return self._in_memory(key, content)
            if not await self._store.keep(key, stream, size):
                return None
        return await self._store.open(resources, key, 0, None, True)

    def _in_memory(self, key: str, content: bytes) -> ObjectStream:
        return BackendStream(OpenedObject(key, len(content), content, None), self.offload)


class _Objects:
    """The iterator of ``stream``: each step opens one object and closes the one before."""

    def __init__(self, repository: CachedRepository, keys: list[str]) -> None:
        self._repository = repository
        self._remaining = iter(keys)
        self._resources = AsyncExitStack()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, ObjectStream]:
        if self._closed:
            raise RepositoryClosedError("the stream of objects is closed: read inside its `with`")
        await self._resources.aclose()
        for key in self._remaining:
            return key, await self._resources.enter_async_context(self._repository.open(key))
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._closed = True
        await self._resources.aclose()
