"""Blocking calls that are at work while their caller goes on: one at a time, none outlives its ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

__all__ = ("Ahead", "InTask", "WhenAsked")

T = TypeVar("T")


class Ahead(ABC, Generic[T]):
    """At most one call under way; leaving this cancels it and waits for its end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass

    @abstractmethod
    def start(self, function: Callable[..., T], *args: Any) -> None:
        """Have a blocking function called. The result of the one before must have been taken."""

    @abstractmethod
    async def result(self) -> T | None:
        """Wait for what was started, and return what it returns or raise what it raises; None if there is nothing."""


class WhenAsked(Ahead[T]):
    """For callers without a loop, where nothing happens beside them: the call is made when its result is asked for."""

    _call: Callable[[], T] | None = None

    def start(self, function: Callable[..., T], *args: Any) -> None:
        """Note what is to be called."""
        self._call = partial(function, *args)

    async def result(self) -> T | None:
        """Call it."""
        call, self._call = self._call, None
        return None if call is None else call()


class InTask(Ahead[T]):
    """The call is awaited by a task of its own, which ends with this context manager.

    :param run: an offload's ``run``.
    """

    def __init__(self, run: Callable[..., Awaitable[T]]) -> None:
        self._run = run
        self._ended: anyio.Event | None = None
        self._take: Callable[[], T] | None = None

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._group.cancel_scope.cancel()
        # The group is not told of the exception, as it would wrap it into a group of exceptions.
        await self._group.__aexit__(None, None, None)

    def start(self, function: Callable[..., T], *args: Any) -> None:
        """Have a task await the call."""
        self._ended = anyio.Event()
        self._group.start_soon(self._call, self._ended, function, args)

    async def result(self) -> T | None:
        """Wait for the task. Cancellation leaves the call under way."""
        if self._ended is None:
            return None
        await self._ended.wait()
        take, self._ended, self._take = self._take, None, None
        assert take is not None, "what has ended has a result or an error; what was cancelled is not waited for"
        return take()

    async def _call(self, ended: anyio.Event, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            value = await self._run(function, *args)
        except Exception as error:  # noqa: BLE001  (it comes out where the result is asked for)
            self._take = partial(_raise, error)
        else:
            self._take = lambda: value
        ended.set()


def _raise(error: Exception) -> Any:
    raise error
