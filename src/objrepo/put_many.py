"""`put_many`: one batch of sources is stored while the next one is gathered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence, Sized
from contextlib import aclosing
from typing import Any, Final

import anyio.lowlevel

from objrepo.offload import UNBATCHED, Offload, Submitted
from objrepo.protocol import Source
from objrepo.reports import Progress, ProgressCallback
from objrepo.sources import closing_generator, is_async_source, plain_source, require_many
from objrepo.streams import BATCH_BYTES

__all__ = ("put_many",)

_MAX_BATCH: Final = 4096
"""How many small objects are stored at once: into an index of a million rows 2.5 times as fast as 1,024 at once."""

_UNKNOWN_BYTES: Final = BATCH_BYTES // 1024
"""What a source counts whose size is not known: files are stored 1,024 at once."""

_YIELD_AFTER: Final = 512
"""After how many sources other tasks run: to gather a batch takes milliseconds."""


async def put_many(
    sources: Iterable[Source] | AsyncIterable[Source],
    offload: Offload,
    put_batch: Callable[[Sequence[Source]], list[Any]],
    put: Callable[[Source], Awaitable[str]],
    progress: ProgressCallback | None,
) -> list[str]:
    """Store many objects; at most two batches of sources are in memory.

    :param put_batch: a blocking function; see :meth:`Backend.put_batch`.
    :param put: stores an async source, or one that is not to be batched.
    :return: the keys in the order of the sources.
    :raises: the error of a source or of storing one; the sources before it are stored.
    """
    require_many(sources)
    total = len(sources) if isinstance(sources, Sized) else None
    pipeline = _Pipeline(offload, put_batch, put, total, progress)
    failures: list[Exception] = []
    async with aclosing(_plain_sources(sources, failures)) as plain:
        try:
            async for source in plain:
                await pipeline.add(source)
            await pipeline.flush()
        finally:
            await pipeline.cancel()
    if failures:
        raise failures[0]
    return pipeline.keys


async def _plain_sources(
    sources: Iterable[Source] | AsyncIterable[Source], failures: list[Exception]
) -> AsyncGenerator[Source, None]:
    """Yield the sources, up to the first error, which is raised once the sources before it are stored."""
    try:
        if isinstance(sources, AsyncIterable):
            async with closing_generator(sources):
                async for source in sources:
                    yield plain_source(source)
        else:
            for source in sources:
                yield plain_source(source)
    except Exception as error:  # noqa: BLE001
        failures.append(error)


class _Pipeline:
    """Sources that are gathered while those before them are stored.

    :ivar keys: of the objects that are stored.
    """

    def __init__(
        self,
        offload: Offload,
        put_batch: Callable[[Sequence[Source]], list[Any]],
        put: Callable[[Source], Awaitable[str]],
        total: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.keys: list[str] = []
        self._offload = offload
        self._put_batch = put_batch
        self._put = put
        self._total = total
        self._progress = progress
        self._batch: list[Source] = []
        self._size = 0
        self._submitted: tuple[Submitted[list[Any]], list[Source]] | None = None

    async def add(self, source: Source) -> None:
        """Have a source stored, after those before it."""
        if is_async_source(source):
            await self.flush()
            self.keys.append(await self._put(source))
            self._report()
            return
        self._batch.append(source)
        self._size += source.nbytes if isinstance(source, memoryview) else _UNKNOWN_BYTES
        if self._size >= BATCH_BYTES or len(self._batch) >= _MAX_BATCH:
            await self._next_batch()
        elif self._offload.concurrent and len(self._batch) % _YIELD_AFTER == 0:
            await anyio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Wait until everything that was added is stored."""
        await self._next_batch()
        await self._next_batch()

    async def cancel(self) -> None:
        """Stop storing, and wait for its end."""
        if self._submitted is not None:
            await self._submitted[0].cancel()

    async def _next_batch(self) -> None:
        """Wait for the batch that is being stored, and have the gathered one stored."""
        if self._submitted is not None:
            submitted, sources = self._submitted
            outcomes = await submitted.result()
            self._submitted = None
            for source, outcome in zip(sources, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    raise outcome
                self.keys.append(await self._put(source) if outcome is UNBATCHED else outcome)
            self._report()
        if self._batch:
            self._submitted = await self._offload.submit(self._put_batch, self._batch), self._batch
            self._batch, self._size = [], 0

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress("put_many", len(self.keys), self._total, "objects"))
