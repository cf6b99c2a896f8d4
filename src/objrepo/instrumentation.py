"""`InstrumentedRepository`: calls a hook after each operation of another repository.

A repository that is not wrapped has no overhead.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

import anyio

from objrepo.errors import RepositoryClosedError
from objrepo.forwarding import ForwardingRepository
from objrepo.protocol import AsyncRepository, ObjectStream, Source
from objrepo.with_only import async_with_only

__all__ = ("Hook", "InstrumentedRepository", "OperationEvent", "log_operations")

P = ParamSpec("P")
T = TypeVar("T")

_log: Final = logging.getLogger("objrepo.operations")


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """One operation that has ended.

    :ivar name: the method, such as ``'get'``.
    :ivar backend: the class of the repository, such as ``'DiskRepository'``.
    :ivar size: how many bytes of objects were read or written; None where they are not counted.
    :ivar seconds: the duration; that of ``open``, ``stream`` and ``batch`` ends when their ``async with`` is left.
    :ivar outcome: ``'ok'``, ``'cancelled'``, or the name of the exception's class.
    """

    name: str
    backend: str
    size: int | None
    seconds: float
    outcome: str


Hook: TypeAlias = Callable[[OperationEvent], object]
"""Called after each operation, in the task that called the operation. It must neither block nor raise."""


def _timed(
    method: Callable[Concatenate[ForwardingRepository, P], Coroutine[Any, Any, T]],
    size: Callable[[T], int] | None = None,
) -> Any:  # pyright takes no other type for a method that overrides one
    """Return a forwarding method that also calls the hook, with the size that its result has."""

    @functools.wraps(method)
    async def timed(self: InstrumentedRepository, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._timing(method.__name__) as operation:
            result = await method(self, *args, **kwargs)
            operation.size = None if size is None else size(result)
            return result

    timed.__doc__ = getattr(AsyncRepository, method.__name__).__doc__
    return timed


class InstrumentedRepository(ForwardingRepository):
    """A repository around another one that calls a hook after each operation.

    The hook is not called for ``is_initialised``, ``uuid``, ``key_format``, ``create`` and ``keys``, nor for the
    methods that only the other repository has, such as ``repair``, ``prefetch`` and ``statistics``. The size of ``put``
    is counted if the source is bytes; the size of ``open`` is the position at which its stream is closed.

    :param repository: the repository that does the work.
    :param hook: called with an :class:`OperationEvent`.
    """

    def __init__(self, repository: AsyncRepository, hook: Hook) -> None:
        super().__init__(repository)
        self._hook = hook

    def __str__(self) -> str:
        return f"InstrumentedRepository {self._repository}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._repository, name)

    def __reduce__(self) -> tuple[type[InstrumentedRepository], tuple[AsyncRepository, Hook]]:
        return type(self), (self._repository, self._hook)

    if not TYPE_CHECKING:  # type checkers know these methods from the base class
        initialise = _timed(ForwardingRepository.initialise)
        put_many = _timed(ForwardingRepository.put_many)
        get = _timed(ForwardingRepository.get, len)
        send_object = _timed(ForwardingRepository.send_object, int)
        has = _timed(ForwardingRepository.has)
        has_many = _timed(ForwardingRepository.has_many)
        size = _timed(ForwardingRepository.size)
        hash = _timed(ForwardingRepository.hash)
        delete = _timed(ForwardingRepository.delete)
        delete_many = _timed(ForwardingRepository.delete_many)
        info = _timed(ForwardingRepository.info)
        maintain = _timed(ForwardingRepository.maintain)
        verify = _timed(ForwardingRepository.verify, attrgetter("size"))
        erase = _timed(ForwardingRepository.erase)

    async def put(self, source: Source) -> str:
        with self._timing("put") as operation:
            key = await super().put(source)
            if isinstance(source, bytes | bytearray | memoryview):
                operation.size = memoryview(source).nbytes
            return key

    @async_with_only("repo.open(key) as stream")
    async def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> AsyncIterator[ObjectStream]:
        with self._timing("open") as operation:
            async with super().open(key, offset, length, check) as stream:
                yield stream
                with suppress(RepositoryClosedError):
                    operation.size = await stream.tell()

    @async_with_only("repo.stream(keys) as objects")
    async def stream(
        self, keys: Iterable[str], check: bool | None = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, ObjectStream]]]:
        with self._timing("stream"):
            async with super().stream(keys, check) as objects:
                yield objects

    @async_with_only("repo.batch() as batch")
    async def batch(self) -> AsyncIterator[AsyncRepository]:
        with self._timing("batch"):
            async with super().batch() as batch:
                yield InstrumentedRepository(batch, self._hook)

    @contextmanager
    def _timing(self, name: str) -> Iterator[_Operation]:
        operation = _Operation()
        start = time.perf_counter()
        outcome = "ok"
        try:
            yield operation
        except BaseException as error:
            outcome = "cancelled" if _is_cancellation(error) else type(error).__name__
            raise
        finally:
            seconds = time.perf_counter() - start
            self._hook(OperationEvent(name, type(self._repository).__name__, operation.size, seconds, outcome))


class _Operation:
    size: int | None = None


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, Exception):
        return False
    try:
        return isinstance(error, anyio.get_cancelled_exc_class())
    except anyio.NoEventLoopError:  # in a repository that runs `Inline`, nothing is ever cancelled
        return False


def log_operations(event: OperationEvent) -> None:
    """Log an operation; a hook for :class:`InstrumentedRepository`.

    The logger is ``objrepo.operations``. The level is DEBUG, and WARNING if the operation ended with an error. The
    contents of objects are never logged.
    """
    level = logging.DEBUG if event.outcome in ("ok", "cancelled") else logging.WARNING
    size = "" if event.size is None else f", {event.size} bytes"
    _log.log(level, "%s %s: %s in %.6f s%s", event.backend, event.name, event.outcome, event.seconds, size)
