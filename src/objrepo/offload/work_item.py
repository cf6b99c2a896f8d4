"""A blocking call on a worker thread, and its two ends: the caller may leave, and the worker may be told so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio.lowlevel

__all__ = ("Call", "WorkCancelled", "call_soon", "cancel_requested")

T = TypeVar("T")

_worker = threading.local()


class WorkCancelled(Exception):  # noqa: N818  (nobody catches it: it only unwinds a worker's call)
    """Raised inside a worker to unwind a call whose caller has been cancelled."""


def cancel_requested() -> bool:
    """Say, inside a blocking function, whether its caller has been cancelled.

    A long function asks now and then and raises :class:`WorkCancelled` where it can stop with nothing half-done.
    """
    call: Call[Any] | None = getattr(_worker, "call", None)
    return call is not None and call.abandoned


def call_soon(token: anyio.lowlevel.EventLoopToken, function: Callable[[], object]) -> None:
    """Have an event loop call a function, from any thread and without waiting for it.

    :param token: the loop's ``anyio.lowlevel.current_token()``. If that loop has ended, nothing is called.
    """
    loop: Any = token.native_token
    schedule = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
    with suppress(RuntimeError):  # what both kinds of loops raise when they have ended
        schedule(function)


class Call(Generic[T]):
    """A blocking call that either hands its result to its caller or, abandoned, gets rid of it."""

    def __init__(
        self, function: Callable[..., T], args: tuple[Any, ...], discard: Callable[[T], object] | None
    ) -> None:
        self._function = function
        self._args = args
        self._discard = discard
        self._lock = threading.Lock()
        self.started = False
        self._ended = False
        self._results: list[T] = []
        self._listeners: list[Callable[[], None]] = []
        self.abandoned = False

    def __call__(self) -> T:
        """Run the function, on the worker."""
        with self._lock:
            if self.abandoned:
                raise WorkCancelled
            self.started = True
        _worker.call = self
        # Nothing is held longer than it is needed: worker threads keep what they ran last until they are given more.
        function, args = self._function, self._args
        del self._function, self._args
        try:
            result = function(*args)
            with self._lock:
                if not self.abandoned:
                    self._results.append(result)
            if self.abandoned and not self._results and self._discard is not None:
                self._discard(result)
            return result
        finally:
            del function, args
            _worker.call = None
            self._end()

    def abandon(self) -> bool:
        """Note that the caller goes; return whether the function is running still."""
        with self._lock:
            self.abandoned = True
            if self.started and not self._ended and not self._results:
                return True
            self._ended = True
        if self._results and self._discard is not None:
            self._discard(self._results.pop())
        return False

    def forget(self) -> None:
        """Let go of the result, which the caller has taken."""
        self._results.clear()

    def when_ended(self, listener: Callable[[], None]) -> bool:
        """Have the worker call a function when it has ended; return True if it has ended already."""
        with self._lock:
            if self._ended:
                return True
            self._listeners.append(listener)
            return False

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        for listener in self._listeners:
            listener()
