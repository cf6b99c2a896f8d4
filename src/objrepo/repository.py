"""`Repository`: the async protocol around a backend with blocking methods."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, TypeVar

import anyio
from anyio.abc import ByteSendStream
from anyio.lowlevel import checkpoint

from objrepo.backend import Backend
from objrepo.batch import BatchBackend
from objrepo.errors import CorruptObjectError, RepositoryClosedError
from objrepo.integrity import check_digest, combined, with_verification, with_verification_of_each
from objrepo.keys import hash_type_of, key_list, require_str, unique_keys, valid_keys
from objrepo.lifetime import Lifetime
from objrepo.offload import Offload, Threads
from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter, Source
from objrepo.put_many import put_many
from objrepo.reports import (
    MaintenanceReport,
    Progress,
    ProgressCallback,
    RepositoryInfo,
    Statistics,
    VerifyReport,
    count_of,
)
from objrepo.sendfile import send_stream
from objrepo.sources import is_async_source, plain_source, read_source, run_with_reader, size_in_memory
from objrepo.streams import (
    BATCH_OBJECTS,
    MAX_BATCHED_OBJECT_BYTES,
    BackendStream,
    ObjectIterator,
    OpenedObject,
    OpenStreams,
    checked_range,
)
from objrepo.with_only import AsyncWithOnly, NoSyncWith, async_with_only
from objrepo.writer import Writer

__all__ = ("REPORTED", "Repository", "log", "log_report")

BackendT = TypeVar("BackendT", bound=Backend)
T = TypeVar("T", bound="BackendStream | ObjectIterator")

log: Final = logging.getLogger("objrepo")
REPORTED: Final = {"is_reported": True}
"""The attributes of log records whose facts are in a report as well."""
"""Logs at INFO and above what an operator needs: creation, deletion, maintenance, erasure, damage."""


class Repository(NoSyncWith, AsyncRepository, Generic[BackendT]):
    """An object repository for async programs, around a backend.

    It is pickled and copied by its configuration, and is closed on arrival.

    :param backend: stores the objects.
    :param offload: where the backend's blocking methods run; worker threads of its own unless given.
    :param check: whether reads compare the content with the key by default.
    """

    def __init__(self, backend: BackendT, offload: Offload | None = None, *, check: bool = False) -> None:
        self.backend = backend
        self.check = check
        offload = Threads() if offload is None else offload
        self.offload: Offload = offload
        self._lifetime = Lifetime()
        self._streams = OpenStreams()
        self._put_in_batch = offload.batched(backend.put_batch, partial(read_source, function=backend.put))
        self._has = self._reading(backend.has, lambda key: backend.has([key])[0])
        self._get = self._reading(backend.get_batch, backend.get)
        self._get_checked = self._reading(self._get_batch_checked, self._get_one_checked)

    def _reading(
        self, batch: Callable[[list[Any]], list[Any]], one: Callable[[Any], Any]
    ) -> Callable[[Any], Awaitable[Any]]:
        if self.backend.pool is None:
            return self.offload.batched(batch, one, abandon_on_cancel=True)
        # One request for each object, which waits for a network: the calls are better made side by side.
        return partial(self.offload.run, one, abandon_on_cancel=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_configuration, (type(self), self.backend, self.offload, self.check)

    def __copy__(self) -> Self:
        return deepcopy(self)  # with a backend of its own: to close the copy closes nothing of this one

    def __str__(self) -> str:
        return f"{type(self).__name__} at {self.backend.location}"

    def __repr__(self) -> str:
        return f"<{self}>"

    # -- entering and leaving ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._lifetime.enter(self.offload)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._lifetime.leave(self.offload, self._close)

    def _close(self) -> None:
        self._streams.close()
        self.backend.close()

    def _open(self) -> Offload:
        self._lifetime.require_open(self)
        return self.offload

    # -- the repository as a whole -----------------------------------------------------------------------------

    async def initialise(self, *args: Any, **options: Any) -> None:
        await self._open().run(lambda: self.backend.initialise(*args, **options))
        log.info("initialised %s", self)

    async def is_initialised(self) -> bool:
        return await self._open().run(self.backend.is_initialised, abandon_on_cancel=True)

    async def uuid(self) -> str | None:
        return await self._open().run(self.backend.uuid, abandon_on_cancel=True)

    async def key_format(self) -> str:
        return await self._open().run(self.backend.key_format, abandon_on_cancel=True)

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        return await self._open().run(self.backend.info, detailed, abandon_on_cancel=True)

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        maintain = partial(self.backend.maintain, *args, dry_run=dry_run, live=live, **options)
        report = await self._open().run(maintain)
        log_report(self, report)
        return report

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        total = (await self.info()).objects
        reports = VerifyReport(0, 0, ())
        cursor = None
        while True:
            page, cursor = await self._open().run(self.backend.list_keys, cursor, abandon_on_cancel=True)
            for start in range(0, len(page), BATCH_OBJECTS):
                batch = page[start : start + BATCH_OBJECTS]
                report = await self.offload.run(self.backend.verify_batch, batch, quick, abandon_on_cancel=True)
                reports = combined([reports, report])
                if progress is not None:
                    progress(Progress("verify", reports.objects, max(total, reports.objects), "objects"))
            if cursor is None:
                break
        if not quick:
            damaged = await self._open().run(self.backend.verify_rest, abandon_on_cancel=True)
            reports = combined([reports, VerifyReport(0, 0, damaged)])
        leftovers = await self._open().run(self.backend.leftovers, abandon_on_cancel=True)
        for each in reports.damaged:
            log.warning("%s in %s is damaged: %s", each.key, self, each.reason, extra=REPORTED)
        objects = count_of(reports.objects, "object")
        log.info("verified %s: %s, %d bytes, %d damaged", self, objects, reports.size, len(reports.damaged))
        return VerifyReport(reports.objects, reports.size, reports.damaged, leftovers)

    async def erase(self) -> None:
        await self._open().run(self.backend.erase)
        log.info("erased %s", self)

    def statistics(self) -> Statistics:
        """Return what this object is doing at the moment. It may be called at any time, and never blocks."""
        return Statistics(
            location=str(self),
            users=self._lifetime.users,
            open_objects=len(self._streams),
            **self.offload.statistics()._asdict(),
        )

    # -- writing -----------------------------------------------------------------------------------------------

    async def put(self, source: Source) -> str:
        offload = self._open()
        source = plain_source(source)
        if is_async_source(source):
            return await run_with_reader(offload, source, self.backend.put, self.put)
        may_be_small = isinstance(source, os.PathLike) or 0 < size_in_memory(source) <= MAX_BATCHED_OBJECT_BYTES
        if may_be_small and self.backend.batches_puts:
            return await self._put_in_batch(source)
        return await offload.run(read_source, source, self.backend.put)

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        return await put_many(sources, self._open(), self.backend.put_batch, self.put, progress)

    def create(self) -> ObjectWriter:
        return Writer(self.put, self.backend.put, self._open())

    @async_with_only("repo.batch() as batch")
    async def batch(self) -> AsyncIterator[AsyncRepository]:
        backend = await self._open().run(self._start_batch)
        batch = Batch(self.backend if backend is None else backend, self.offload, check=self.check)
        batch._lifetime.users = 1  # noqa: SLF001  (of the same module)
        try:
            yield batch
            if backend is not None:
                await self._open().run(backend.commit)
        finally:
            await batch._end(self.backend)  # noqa: SLF001

    def _start_batch(self) -> BatchBackend | None:
        self.backend.key_format()  # raises where there is no repository
        return self.backend.batch()

    async def delete(self, key: str) -> None:
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[str]) -> None:
        unique = unique_keys(keys)
        await self._open().run(self._delete, unique)
        log.info("deleted %s from %s", count_of(len(unique), "object"), self)

    def _delete(self, keys: list[str]) -> None:
        key_format = self.backend.key_format()
        if len(valid_keys(keys, key_format)) < len(keys):
            self.backend.require(keys)
        self.backend.delete(keys)

    # -- reading -----------------------------------------------------------------------------------------------

    async def has(self, key: str) -> bool:
        if self._open().concurrent and isinstance(key, str) and self.backend.size_nowait(key) is not None:
            await checkpoint()
            return True
        return await self._has(key)  # type: ignore[no-any-return]

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        return await self._open().run(self.backend.has, key_list(keys), abandon_on_cancel=True)

    async def get(self, key: str, check: bool | None = None) -> bytes:
        check = self.check if check is None else check
        if self._open().concurrent:
            content = self.backend.get_nowait(require_str(key))
            if content is not None:
                await checkpoint()
                return check_digest(key, hash_type_of(key), content) if check else content
        return await (self._get_checked if check else self._get)(require_str(key))  # type: ignore[no-any-return]

    def _get_one_checked(self, key: str) -> bytes:
        return check_digest(key, self.backend.key_format(), self.backend.get(key))

    def _get_batch_checked(self, keys: list[str]) -> list[Any]:
        key_format = self.backend.key_format()
        outcomes = self.backend.get_batch(keys)
        for number, (key, content) in enumerate(zip(keys, outcomes, strict=True)):
            if isinstance(content, bytes):
                try:
                    check_digest(key, key_format, content)
                except CorruptObjectError as error:
                    outcomes[number] = error
        return outcomes

    async def size(self, key: str) -> int:
        size = self.backend.size_nowait(require_str(key)) if self._open().concurrent else None
        if size is not None:
            await checkpoint()
            return size
        return await self._open().run(self.backend.size, require_str(key), abandon_on_cancel=True)

    async def hash(self, key: str) -> str:
        return await self._open().run(self.backend.hash, require_str(key), abandon_on_cancel=True)

    async def version(self, key: str) -> tuple[int, ...] | None:
        """Return numbers that change when the stored bytes of an object are replaced. Abandoned on cancellation.

        A program that has read an object with ``check=True`` can trust its bytes while these numbers stay the same, as
        far as the hardware keeps what it has stored.

        :param key: the object.
        :return: on disk, the device, inode, size and time of change of the object's file, and its position in a pack;
            None if the backend has no such numbers, or no such object.
        :raises NotInitialisedError: if the repository does not exist.
        :raises OSError: if the storage fails.
        """
        return await self._open().run(self.backend.version, require_str(key), abandon_on_cancel=True)

    def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> AbstractAsyncContextManager[ObjectStream]:
        return _Opening("repo.open(key) as stream", partial(self._open_stream, key, offset, length, check))

    async def _open_stream(self, key: str, offset: int, length: int | None, check: bool | None) -> BackendStream:
        if offset or length is not None:
            if check:
                raise ValueError("only a whole object can be checked, not a range of it")
        elif check is None:
            check = self.check
        offset, length = checked_range(offset, length)
        content = self.backend.get_nowait(require_str(key), offset, length) if self._open().concurrent else None
        if content is not None:
            await checkpoint()
            found = OpenedObject(key, len(content), content, None)
            if check:
                found = with_verification(found, hash_type_of(key))
            return BackendStream(found, self.offload, self._streams)
        opened = await self._open().run(
            self._open_checked if check else self.backend.open,
            require_str(key),
            offset,
            length,
            abandon_on_cancel=True,
            discard=OpenedObject.close,
        )
        return BackendStream(opened, self.offload, self._streams)

    def _open_checked(self, key: str, offset: int, length: int | None) -> OpenedObject:
        key_format = self.backend.key_format()
        return with_verification(self.backend.open(key, offset, length), key_format)

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

    def stream(
        self, keys: Iterable[str], check: bool | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, ObjectStream]]]:
        return _Opening("repo.stream(keys) as objects", partial(self._open_many, keys, check))

    async def _open_many(self, keys: Iterable[str], check: bool | None) -> ObjectIterator:
        unique = unique_keys(keys)
        items, open_batch = await self._open().run(self.backend.plan, unique, abandon_on_cancel=True)
        if self.check if check is None else check:
            open_batch = partial(self._open_batch_checked, open_batch)
        return ObjectIterator(items, open_batch, self.offload, self._streams)

    def _open_batch_checked(
        self, open_batch: Callable[[Sequence[Any]], list[OpenedObject]], items: Sequence[Any]
    ) -> list[OpenedObject]:
        key_format = self.backend.key_format()
        return with_verification_of_each(open_batch(items), key_format)

    def keys(self) -> AsyncIterator[str]:
        return _Keys(self)

    async def _list_keys(self, cursor: Any) -> tuple[list[str], Any]:
        return await self._open().run(self.backend.list_keys, cursor, abandon_on_cancel=True)


class Batch(Repository[Backend]):
    """What ``async with repo.batch()`` returns."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("a batch cannot be pickled or copied: give its repository to other processes")

    def _open(self) -> Offload:
        if self._lifetime.users < 1:  # one that is not entered has no methods
            raise RepositoryClosedError(f"{self} has ended: begin another one")
        return self.offload

    async def _end(self, backend: Backend) -> None:
        """Close everything; a backend that others use stays open."""
        self._lifetime.users = 0
        await self.offload.run_shielded(self._streams.close if self.backend is backend else self._close)


class _Opening(AsyncWithOnly, AbstractAsyncContextManager[T, None]):
    """Opens something on entering, and closes it on leaving."""

    def __init__(self, usage: str, open_it: Callable[[], Awaitable[T]]) -> None:
        self._usage = usage
        self._open_it = open_it
        self._entered = False

    async def __aenter__(self) -> T:
        if self._entered:
            raise RuntimeError(f"this is entered already: use `async with {self._usage}` for each")
        self._entered = True
        try:
            self._opened = await self._open_it()
        except BaseException:
            self._entered = False
            raise
        return self._opened

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._opened.close()
        self._entered = False


class _Keys(AsyncIterator[str]):
    """The keys of a repository, a page with each thread call; not a generator, which a loop left early must close."""

    def __init__(self, repository: Repository[Any]) -> None:
        self._repository = repository
        self._page: Iterator[str] = iter(())
        self._cursor: Any = None
        self._ended = False
        self._guard = anyio.ResourceGuard("reading from")

    def _refuse(self) -> NoReturn:
        raise TypeError("use `async for key in repo.keys()`")

    __iter__ = __await__ = _refuse

    async def __anext__(self) -> str:
        while True:
            for key in self._page:
                return key
            if self._ended:
                raise StopAsyncIteration
            with self._guard:
                page, self._cursor = await self._repository._list_keys(self._cursor)  # noqa: SLF001  (of the same module)
            self._page, self._ended = iter(page), self._cursor is None


def _from_configuration(
    kind: type[Repository[Any]], backend: Backend, offload: Offload, check: bool
) -> Repository[Any]:
    """Return a repository as it was pickled, of any subclass that adds no state of its own."""
    repository = kind.__new__(kind)
    Repository.__init__(repository, backend, offload, check=check)
    return repository


def log_report(repository: object, report: MaintenanceReport) -> None:
    """Log what maintenance did, unless it was a dry run."""
    if not report.dry_run:
        steps = ", ".join(f"{step.name} {count_of(step.objects, 'object')}, {step.size} bytes" for step in report.steps)
        log.info("maintained %s: %s", repository, steps or "nothing to do")
