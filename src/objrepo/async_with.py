"""Results that are used by `async with` only, and say so when they are used in another way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

__all__ = ("AsyncWithOnly", "async_with_only")

P = ParamSpec("P")
T = TypeVar("T")


class AsyncWithOnly(AbstractAsyncContextManager[T, None]):
    """An async context manager whose other uses raise an error that shows the right one.

    :cvar usage: the right one, such as ``repo.open(key) as stream``.
    """

    usage: str

    @abstractmethod
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"use `async with {self.usage}`: this has no {name!r} by itself")

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(f"use `async with {self.usage}`")

    __await__ = __aiter__ = __iter__ = __enter__ = __exit__ = _refuse


class _Wrapped(AsyncWithOnly[T], Generic[T]):
    def __init__(self, context: AbstractAsyncContextManager[T, Any], usage: str) -> None:
        self._context = context
        self.usage = usage

    async def __aenter__(self) -> T:
        return await self._context.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> Any:
        return await self._context.__aexit__(exc_type, exc, traceback)


def async_with_only(
    usage: str,
) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, AbstractAsyncContextManager[T, None]]]:
    """Make an async generator function return an async context manager that shows its usage.

    :param usage: such as ``repo.open(key) as stream``.
    """

    def decorate(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AbstractAsyncContextManager[T, None]]:
        make = asynccontextmanager(function)

        @wraps(function)
        def method(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T, None]:
            return _Wrapped(make(*args, **kwargs), usage)

        return method

    return decorate
