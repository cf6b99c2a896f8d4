"""Context managers for `with` or for `async with` only, which say so when they are used in another way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

__all__ = ("AsyncWithOnly", "NoSyncWith", "WithOnly", "async_with_only", "with_only")

P = ParamSpec("P")
T = TypeVar("T")


def _refuse(self: Any, *_: object) -> NoReturn:
    raise TypeError(f"this is a context manager: use `{self._statement} {self._usage}`")


class _Only:
    """The base of what is used in one way only: other uses raise an error that shows the right one.

    :cvar _statement: ``with`` or ``async with``.
    :cvar _usage: what follows it, such as ``repo.open(key) as file``.
    """

    _statement: str
    _usage: str

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"use `{self._statement} {self._usage}`: this has no {name!r} by itself")

    if not TYPE_CHECKING:  # type checkers report these uses by themselves
        __await__ = __aiter__ = __iter__ = _refuse


class WithOnly(_Only):
    """The base of what is used by ``with`` only."""

    _statement = "with"

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = _refuse


class AsyncWithOnly(_Only):
    """The base of what is used by ``async with`` only."""

    _statement = "async with"

    if not TYPE_CHECKING:
        __enter__ = __exit__ = _refuse


class NoSyncWith:
    """The base of async repositories: ``with`` raises an error that shows what to use instead."""

    if not TYPE_CHECKING:  # type checkers report `with` by themselves

        def __enter__(self) -> NoReturn:
            raise TypeError("use `async with`; without an event loop, use objrepo.sync.open_repository(path)")

        __exit__ = __enter__


class _With(WithOnly, AbstractContextManager[T, Any], Generic[T]):
    def __init__(self, context: AbstractContextManager[T, Any], usage: str) -> None:
        self._context = context
        self._usage = usage

    def __enter__(self) -> T:
        return self._context.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> Any:
        return self._context.__exit__(exc_type, exc, traceback)


class _AsyncWith(AsyncWithOnly, AbstractAsyncContextManager[T, Any], Generic[T]):
    def __init__(self, context: AbstractAsyncContextManager[T, Any], usage: str) -> None:
        self._context = context
        self._usage = usage

    async def __aenter__(self) -> T:
        return await self._context.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> Any:
        return await self._context.__aexit__(exc_type, exc, traceback)


def with_only(usage: str) -> Callable[[Callable[P, Iterator[T]]], Callable[P, AbstractContextManager[T, None]]]:
    """Make a generator function return a context manager that shows its usage, such as ``repo.open(key) as file``."""

    def decorate(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T, None]]:
        make = contextmanager(function)

        @wraps(function)
        def method(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T, None]:
            return _With(make(*args, **kwargs), usage)

        return method

    return decorate


def async_with_only(
    usage: str,
) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, AbstractAsyncContextManager[T, None]]]:
    """Make an async generator function return an async context manager likewise."""

    def decorate(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AbstractAsyncContextManager[T, None]]:
        make = asynccontextmanager(function)

        @wraps(function)
        def method(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T, None]:
            return _AsyncWith(make(*args, **kwargs), usage)

        return method

    return decorate
