"""What all repositories share: the whole protocol, around blocking functions that each of them fills in."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from anyio.abc import ByteSendStream

from objrepo.backend_functions import BlockingFunctions
from objrepo.errors import RepositoryClosedError
from objrepo.keys import require_str
from objrepo.offload import Inline, Offload, Threads
from objrepo.protocol import ObjectStream, ObjectWriter, Source
from objrepo.put_many import put_many_batched
from objrepo.reports import (
    DamagedObject,
    MaintenanceReport,
    Progress,
    ProgressCallback,
    RepositoryInfo,
    Statistics,
    VerifyReport,
)
from objrepo.sendfile import send_stream
from objrepo.sources import checked_source, feed
from objrepo.streams import (
    BATCH_OBJECTS,
    BackendStream,
    ObjectIterator,
    OpenedObject,
    checked_range,
)
from objrepo.writer import Writer

__all__ = ("LIST_PAGE_SIZE", "MAX_GROUPED_OBJECT_BYTES", "Repository", "log", "log_report")

T = TypeVar("T")

log: Final = logging.getLogger("objrepo")
"""What an operator needs is told at INFO and above: what was made, deleted, maintained, erased, found to be damaged."""

LIST_PAGE_SIZE: Final = 1000
"""About how many keys a listing fetches with one hop."""

MAX_GROUPED_OBJECT_BYTES: Final = 64 * 1024
"""Objects of up to this size, in memory already, may be stored together with others."""


class Repository(BlockingFunctions):
    """A repository whose work is done by blocking functions; subclasses fill in those that are abstract.

    :param offload: where they run; a :class:`~objrepo.offload.Threads` of its own unless given.
    """

    def __str__(self) -> str:
        return f"{type(self).__name__} at {id(self):#x}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def __init__(self, offload: Offload | None = None) -> None:
        super().__init__()
        self.offload = Threads() if offload is None else offload
        self._entered = 0
        self._entering = threading.Lock()

    # -- entering and leaving ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        with self._entering:
            self._entered += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        with self._entering:
            self._entered -= 1
            last = not self._entered
        await self.offload.finish(self._leave if last else _nothing)

    def _ready(self) -> Offload:
        if self._entered < 1:
            raise RepositoryClosedError(f"{self} is not open: use it inside `async with`")
        return self.offload

    # -- the protocol ------------------------------------------------------------------------------------------

    async def initialise(self, *args: Any, **options: Any) -> None:
        """Make the repository; see :meth:`AsyncRepository.initialise`."""
        await self._ready().run(lambda: self._initialise(*args, **options))
        log.info("initialised %s", self)

    async def is_initialised(self) -> bool:
        """Say whether the repository exists."""
        return await self._ready().run(self._is_initialised, wait=False)

    async def uuid(self) -> str | None:
        """Return the unique identifier of the repository, None where it has none."""
        return await self._ready().run(self._uuid, wait=False)

    async def key_format(self) -> str:
        """Return what the keys look like."""
        return await self._ready().run(self._key_format, wait=False)

    async def put(self, source: Source) -> str:
        """Store one object and return its key; see :meth:`AsyncRepository.put`."""
        offload = self._ready()
        plain = checked_source(source)
        if not self._groups_puts:
            return await feed(offload, plain, self._put)
        if isinstance(plain, os.PathLike) or (
            isinstance(plain, memoryview) and plain.nbytes <= MAX_GROUPED_OBJECT_BYTES
        ):
            return await self._put_shared(plain)
        return await feed(offload, plain, self._put, self._put_shared, MAX_GROUPED_OBJECT_BYTES)

    async def _put_shared(self, source: Source) -> str:
        return await self._ready().share(self._put_each, source, self._put_alone)

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        """Store many objects, a batch with each hop; see :meth:`AsyncRepository.put_many`."""
        return await put_many_batched(self._ready(), sources, self._put_all, self.put, progress)

    def create(self) -> ObjectWriter:
        """Return a writer of a new object; see :meth:`AsyncRepository.create`."""
        return Writer(self.put, isinstance(self._ready(), Inline))

    async def has(self, key: str) -> bool:
        """Say whether an object is there."""
        if self._several is not None:
            return await self._ready().run(self._has_one, key, wait=False)
        return await self._ready().share(self._has, key, self._has_one, wait=False)

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        """Say of each key whether its object is there; see :meth:`AsyncRepository.has_many`."""
        return await self._ready().run(self._has, list(keys), wait=False)

    async def get(self, key: str, check: bool = False) -> bytes:
        """Return the whole content of an object; see :meth:`AsyncRepository.get`."""
        if self._several is not None:
            return await self._ready().run(self._get_checked if check else self._get, require_str(key), wait=False)
        if check:
            return await self._ready().share(self._get_each_checked, require_str(key), self._get_checked, wait=False)
        return await self._ready().share(self._get_each, require_str(key), self._get, wait=False)

    async def size(self, key: str) -> int:
        """Return the length of an object in bytes; see :meth:`AsyncRepository.size`."""
        return await self._ready().run(self._size, require_str(key), wait=False)

    async def hash(self, key: str) -> str:
        """Return the SHA-256 of an object; see :meth:`AsyncRepository.hash`."""
        return await self._ready().run(self._hash, require_str(key), wait=False)

    @asynccontextmanager
    async def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool = False
    ) -> AsyncIterator[ObjectStream]:
        """Open an object for reading; see :meth:`AsyncRepository.open`."""
        if check and (offset or length is not None):
            raise ValueError("only a whole object can be checked, not a range of it")
        offset, length = checked_range(offset, length)
        open_object = self._open_checked if check else self._open
        opened = await self._ready().run(
            open_object, require_str(key), offset, length, wait=False, discard=OpenedObject.close
        )
        async with BackendStream(opened, self.offload) as stream:
            yield stream

    async def send_object(self, stream: ByteSendStream, key: str, offset: int = 0, length: int | None = None) -> int:
        """Send an object into a stream of bytes; see :meth:`AsyncRepository.send_object`."""
        async with self.open(key, offset, length) as opened:
            return await send_stream(opened, stream, self.offload)

    @asynccontextmanager
    async def stream(self, keys: Iterable[str]) -> AsyncIterator[AsyncIterator[tuple[str, ObjectStream]]]:
        """Read many objects in the order that is fastest; see :meth:`AsyncRepository.stream`."""
        wanted = list(dict.fromkeys(keys))
        if not all(type(key) is str for key in wanted):
            wanted = [require_str(key) for key in wanted]
        items, open_batch = await self._ready().run(self._plan, wanted, wait=False)
        objects = ObjectIterator(items, open_batch, self.offload)
        try:
            yield objects
        finally:
            objects.close()

    async def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of all objects; see :meth:`AsyncRepository.keys`."""
        cursor = None
        while True:
            page, cursor = await self._ready().run(self._list, cursor, wait=False)
            for key in page:
                yield key
            if cursor is None:
                return

    async def delete(self, key: str) -> None:
        """Delete an object; see :meth:`AsyncRepository.delete`."""
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects, all or none; see :meth:`AsyncRepository.delete_many`."""
        unique = list(dict.fromkeys(require_str(key) for key in keys))
        await self._ready().run(self._delete_checked, unique)
        log.info("deleted %d objects from %s", len(unique), self)

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        """Return the state of the repository; see :meth:`AsyncRepository.info`."""
        return await self._ready().run(self._info, detailed, wait=False)

    async def maintain(self, dry_run: bool = False, live: bool = True) -> MaintenanceReport:
        """Do nothing, as most backends need no maintenance; see :meth:`AsyncRepository.maintain`."""
        del live
        await self._ready().run(self._key_format, wait=False)  # raises where there is no repository
        return MaintenanceReport(dry_run)

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        """Read every object back; see :meth:`AsyncRepository.verify`."""
        total = (await self.info()).objects
        objects = size = 0
        damaged: list[DamagedObject] = []
        cursor = None
        while True:
            page, cursor = await self._ready().run(self._list, cursor, wait=False)
            for start in range(0, len(page), BATCH_OBJECTS):
                report = await self.offload.run(self._verify, page[start : start + BATCH_OBJECTS], quick, wait=False)
                objects += report.objects
                size += report.size
                damaged += report.damaged
                if progress is not None:
                    progress(Progress("verify", objects, max(total, objects), "objects"))
            if cursor is None:
                leftovers = await self._ready().run(self._leftovers, wait=False)
                for each in damaged:
                    log.warning("%s in %s is damaged: %s", each.key, self, each.reason)
                log.info("verified %s: %d objects, %d bytes, %d damaged", self, objects, size, len(damaged))
                return VerifyReport(objects, size, tuple(damaged), leftovers)

    async def erase(self) -> None:
        """Delete the repository with every resource that it made; see :meth:`AsyncRepository.erase`."""
        await self._ready().run(self._erase)
        log.info("erased %s", self)

    def statistics(self) -> Statistics:
        """Return what this object is doing at the moment. It may be called at any time, and blocks nothing."""
        return Statistics(
            location=str(self),
            users=self._entered,
            open_objects=len(self._handles),
            **self.offload.statistics_of_calls()._asdict(),
        )


def _nothing() -> None:
    pass


def log_report(repository: object, report: MaintenanceReport) -> None:
    """Log what maintenance did, unless it only looked."""
    if not report.dry_run:
        steps = ", ".join(f"{step.name} {step.objects} objects, {step.size} bytes" for step in report.steps)
        log.info("maintained %s: %s", repository, steps or "nothing to do")
