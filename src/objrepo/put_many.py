"""`put_many`: a batch of sources with each hop to a worker, which stores it while the next one is gathered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence, Sized
from contextlib import aclosing
from typing import Final

from objrepo.offload import Offload
from objrepo.offload.ahead import Ahead
from objrepo.protocol import Source
from objrepo.reports import Progress, ProgressCallback
from objrepo.sources import checked_source, closing_generator, is_async_source, size_in_memory
from objrepo.streams import BATCH_BYTES

__all__ = ("put_many_batched",)

_BATCH_SOURCES: Final = 1024


async def put_many_batched(
    offload: Offload,
    sources: Iterable[Source] | AsyncIterable[Source],
    put_all: Callable[[Sequence[Source]], list[str]],
    put: Callable[[Source], Awaitable[str]],
    progress: ProgressCallback | None,
) -> list[str]:
    """Store many objects; at most two batches of sources are in memory.

    :param put_all: a blocking function that stores sources which need no loop.
    :param put: stores one that does.
    :return: the keys in the order of the sources.
    :raises: what a source, or storing one, raises; what came before it is stored.
    """
    total = len(sources) if isinstance(sources, Sized) else None
    async with offload.ahead() as worker, aclosing(_async_iter(sources)) as each:
        work = _Storing(worker, put_all, total, progress)
        failure: Exception | None = None
        while failure is None:
            try:
                source = checked_source(await anext(each))
            except StopAsyncIteration:
                break
            except Exception as error:  # noqa: BLE001  (it is raised once what came before it is stored)
                failure = error
                continue
            if is_async_source(source):
                await work.finish()
                work.note([await put(source)])
            else:
                await work.add(source)
        await work.finish()
        if failure is not None:
            raise failure
    return work.keys


class _Storing:
    """Sources that are gathered while those before them are stored.

    :ivar keys: of what is stored by now.
    """

    def __init__(
        self,
        worker: Ahead[list[str]],
        put_all: Callable[[Sequence[Source]], list[str]],
        total: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.keys: list[str] = []
        self._worker = worker
        self._put_all = put_all
        self._total = total
        self._progress = progress
        self._batch: list[Source] = []
        self._size = 0

    async def add(self, source: Source) -> None:
        """Have a source stored, together with others."""
        self._batch.append(source)
        self._size += size_in_memory(source)
        if len(self._batch) >= _BATCH_SOURCES or self._size >= BATCH_BYTES:
            await self._store()

    async def finish(self) -> None:
        """Have everything stored that was added."""
        await self._store()
        await self._store()

    def note(self, stored: list[str]) -> None:
        """Take down what was stored."""
        self.keys.extend(stored)
        if stored and self._progress is not None:
            self._progress(Progress("put_many", len(self.keys), self._total, "objects"))

    async def _store(self) -> None:
        self.note(await self._worker.result() or [])
        if self._batch:
            self._worker.start(self._put_all, self._batch)
            self._batch, self._size = [], 0


async def _async_iter(sources: Iterable[Source] | AsyncIterable[Source]) -> AsyncGenerator[Source, None]:
    if isinstance(sources, AsyncIterable):
        async with closing_generator(sources):
            async for source in sources:
                yield source
    else:
        for source in sources:
            yield source
