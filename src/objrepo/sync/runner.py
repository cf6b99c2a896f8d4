"""How a coroutine is brought to its end by a caller that has no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ("Caller", "Driver", "InPlace", "ThroughPortal")

T = TypeVar("T")


class Caller(Protocol):
    """Runs coroutines for callers that do not await."""

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function and return what it returns."""
        ...


class Driver(Caller, Protocol):
    """Runs the coroutines of a repository, and its context managers too."""

    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> AbstractContextManager[T, Any]:
        """Return an async context manager as an ordinary one."""
        ...


class InPlace:
    """For repositories that run ``Inline``: their coroutines never suspend, so one step is all there is to it."""

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function right here; what it raises comes out.

        :raises RuntimeError: if it suspends, as then only an event loop could bring it to its end.
        """
        coroutine: Any = function(*args)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return cast("T", stop.value)
        error = RuntimeError(f"{function} suspended: without an event loop, no source and no repository can be awaited")
        with suppress(StopIteration):
            coroutine.throw(error)  # it ends as if what it awaits had raised, and cleans up
        raise error

    @contextmanager
    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> Iterator[T]:
        """Return an async context manager as an ordinary one."""
        value = self.call(context.__aenter__)
        try:
            yield value
        except BaseException as error:
            if not self.call(context.__aexit__, type(error), error, error.__traceback__):
                raise
        else:
            self.call(context.__aexit__, None, None, None)


class ThroughPortal:
    """For all other repositories: their coroutines run in an event loop of another thread."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function in the portal's loop and wait for it."""
        return self._portal.call(function, *args)

    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> AbstractContextManager[T, Any]:
        """Return an async context manager as an ordinary one, entered and left by one and the same task."""
        return self._portal.wrap_async_context_manager(context)
