"""Looking on: a repository that tells of each operation what it took and how it ended.

A repository on its own tells nobody and so pays nothing: who wants to look wraps it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import anyio
from anyio.abc import ByteSendStream

from objrepo.errors import RepositoryClosedError
from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter, Source
from objrepo.reports import MaintenanceReport, ProgressCallback, RepositoryInfo, VerifyReport
from objrepo.sources import checked_source

__all__ = ("Hook", "InstrumentedRepository", "Operation", "log_operations")

T = TypeVar("T")

_log: Final = logging.getLogger("objrepo.operations")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that has ended.

    :ivar name: the method, such as ``'get'``.
    :ivar backend: the class of the repository, such as ``'DiskRepository'``.
    :ivar size: how many bytes of objects it moved; None where nobody counted.
    :ivar seconds: how long it took; of ``open``, ``stream`` and ``keys``, until they were left.
    :ivar outcome: ``'ok'``, ``'cancelled'``, or the name of the error's class.
    """

    name: str
    backend: str
    size: int | None
    seconds: float
    outcome: str


Hook: TypeAlias = Callable[[Operation], object]
"""Called after each operation, in the task that has asked for it. It must neither block nor raise."""


class InstrumentedRepository:
    """A repository around another one, which tells a hook of each operation.

    Everything else is done by the other one, also what only that one has (``repair``, ``prefetch``, ``statistics``),
    of which the hook is not told.

    :param repository: the repository that does the work.
    :param hook: what is told.
    """

    def __init__(self, repository: AsyncRepository, hook: Hook) -> None:
        self._repository = repository
        self._hook = hook
        self._backend = type(repository).__name__

    def __str__(self) -> str:
        return f"InstrumentedRepository {self._repository}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    async def __aenter__(self) -> Self:
        await self._repository.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._repository.__aexit__(exc_type, exc, traceback)

    async def initialise(self, *args: Any, **options: Any) -> None:
        """Make the repository; see :meth:`AsyncRepository.initialise`."""
        await self._told("initialise", self._repository.initialise(*args, **options))

    async def is_initialised(self) -> bool:
        """Say whether the repository exists."""
        return await self._repository.is_initialised()

    async def uuid(self) -> str | None:
        """Return the unique identifier of the repository."""
        return await self._repository.uuid()

    async def key_format(self) -> str:
        """Return what the keys look like."""
        return await self._repository.key_format()

    async def put(self, source: Source) -> str:
        """Store one object; of sources that are not in memory the hook is not told the size."""
        with self._telling("put") as counted:
            key = await self._repository.put(source)
            plain = checked_source(source)
            counted.size = plain.nbytes if isinstance(plain, memoryview) else None
            return key

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        """Store many objects; see :meth:`AsyncRepository.put_many`."""
        return await self._told("put_many", self._repository.put_many(sources, progress))

    def create(self) -> ObjectWriter:
        """Return a writer of a new object, of which the hook is not told."""
        return self._repository.create()

    async def has(self, key: str) -> bool:
        """Say whether an object is there."""
        return await self._told("has", self._repository.has(key))

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        """Say of each key whether its object is there."""
        return await self._told("has_many", self._repository.has_many(keys))

    async def get(self, key: str, check: bool = False) -> bytes:
        """Return the whole content of an object; see :meth:`AsyncRepository.get`."""
        with self._telling("get") as counted:
            content = await self._repository.get(key, check)
            counted.size = len(content)
            return content

    async def size(self, key: str) -> int:
        """Return the length of an object in bytes."""
        return await self._told("size", self._repository.size(key))

    async def hash(self, key: str) -> str:
        """Return the SHA-256 of an object."""
        return await self._told("hash", self._repository.hash(key))

    @asynccontextmanager
    async def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool = False
    ) -> AsyncIterator[ObjectStream]:
        """Open an object for reading; the size that is told is how far it was read when it was left."""
        with self._telling("open") as counted:
            async with self._repository.open(key, offset, length, check) as stream:
                yield stream
                with suppress(RepositoryClosedError):
                    counted.size = await stream.tell()

    async def send_object(self, stream: ByteSendStream, key: str, offset: int = 0, length: int | None = None) -> int:
        """Send an object into a stream of bytes; see :meth:`AsyncRepository.send_object`."""
        with self._telling("send_object") as counted:
            counted.size = await self._repository.send_object(stream, key, offset, length)
            return counted.size

    @asynccontextmanager
    async def stream(self, keys: Iterable[str]) -> AsyncIterator[AsyncIterator[tuple[str, ObjectStream]]]:
        """Read many objects in the order that is fastest; see :meth:`AsyncRepository.stream`."""
        with self._telling("stream"):
            async with self._repository.stream(keys) as objects:
                yield objects

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of all objects, of which the hook is not told."""
        return self._repository.keys()

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self._told("delete", self._repository.delete(key))

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects, all or none."""
        await self._told("delete_many", self._repository.delete_many(keys))

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        """Return the state of the repository."""
        return await self._told("info", self._repository.info(detailed))

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        """Do the work that keeps a repository fast and small; see :meth:`AsyncRepository.maintain`."""
        return await self._told("maintain", self._repository.maintain(dry_run, live, *args, **options))

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        """Read every object back; see :meth:`AsyncRepository.verify`."""
        with self._telling("verify") as counted:
            report = await self._repository.verify(progress, quick)
            counted.size = report.size
            return report

    async def erase(self) -> None:
        """Delete the repository with every resource that it made."""
        await self._told("erase", self._repository.erase())

    async def _told(self, name: str, operation: Awaitable[T]) -> T:
        with self._telling(name):
            return await operation

    @contextmanager
    def _telling(self, name: str) -> Iterator[_Counted]:
        counted = _Counted()
        start = time.perf_counter()
        outcome = "ok"
        try:
            yield counted
        except anyio.get_cancelled_exc_class():
            outcome = "cancelled"
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._hook(Operation(name, self._backend, counted.size, time.perf_counter() - start, outcome))


class _Counted:
    size: int | None = None


def log_operations(operation: Operation) -> None:
    """Log an operation, as a hook: at DEBUG when all is well, at WARNING when it ended in an error.

    The logger is ``objrepo.operations``. It is not told what objects contain.
    """
    level = logging.DEBUG if operation.outcome in ("ok", "cancelled") else logging.WARNING
    if _log.isEnabledFor(level):
        size = "" if operation.size is None else f", {operation.size} bytes"
        what = f"{operation.backend} {operation.name}"
        _log.log(level, "%s: %s in %.6f s%s", what, operation.outcome, operation.seconds, size)
