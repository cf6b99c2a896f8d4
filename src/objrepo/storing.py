"""`put_many`: a batch of sources with each hop to a worker, which stores it while the next one is gathered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence, Sized
from contextlib import aclosing
from typing import Final

from objrepo.offload import Offload
from objrepo.protocol import Source
from objrepo.reports import Progress, ProgressCallback
from objrepo.source import checked_source, closing_generator, is_async_source, size_in_memory
from objrepo.stream import BATCH_BYTES

__all__ = ("store_many",)

_BATCH_SOURCES: Final = 1024


async def store_many(
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
    keys: list[str] = []
    batch: list[Source] = []
    size = 0

    def note(stored: list[str]) -> None:
        keys.extend(stored)
        if stored and progress is not None:
            progress(Progress("put_many", len(keys), total, "objects"))

    async with offload.ahead() as storing, aclosing(_async_iter(sources)) as each:

        async def store() -> None:
            nonlocal batch, size
            note(await storing.result() or [])
            if batch:
                storing.start(put_all, batch)
                batch, size = [], 0

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
                await store()
                await store()
                note([await put(source)])
                continue
            batch.append(source)
            size += size_in_memory(source)
            if len(batch) >= _BATCH_SOURCES or size >= BATCH_BYTES:
                await store()
        await store()
        await store()
        if failure is not None:
            raise failure
    return keys


async def _async_iter(sources: Iterable[Source] | AsyncIterable[Source]) -> AsyncGenerator[Source, None]:
    if isinstance(sources, AsyncIterable):
        async with closing_generator(sources):
            async for source in sources:
                yield source
    else:
        for source in sources:
            yield source
