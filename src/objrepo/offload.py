"""Where blocking functions run: on worker threads (`Threads`), or right here (`Inline`).

Backends hand over blocking functions with ``await offload.run(function, *args)`` and await nothing else. What such a
function takes (a lease, a handle, a lock) it gives back itself, so that a caller may leave before it has ended.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ("Inline", "Offload", "OperationAbandoned", "Threads", "call_soon", "is_abandoned")

T = TypeVar("T")

DEFAULT_LIMIT: Final = 8
"""How many calls of one repository run at a time. More threads do not make a disk or the interpreter lock faster."""

_worker = threading.local()


class OperationAbandoned(Exception):  # noqa: N818  (nobody catches it: it only unwinds a worker's call)
    """Raised inside a worker to unwind a call whose caller has been cancelled."""


def is_abandoned() -> bool:
    """Say, inside a blocking function, whether its caller has been cancelled.

    A long function asks now and then and raises :class:`OperationAbandoned` where it can stop with nothing half-done.
    """
    call: _Call[Any] | None = getattr(_worker, "call", None)
    return call is not None and call.abandoned


def call_soon(token: anyio.lowlevel.EventLoopToken, function: Callable[[], object]) -> None:
    """Have an event loop call a function, from any thread and without waiting for it.

    :param token: the loop's ``anyio.lowlevel.current_token()``. If that loop has ended, nothing is called.
    """
    loop: Any = token.native_token
    schedule = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
    with suppress(RuntimeError):  # what both kinds of loops raise when they have ended
        schedule(function)


class Offload(ABC):
    """Runs the blocking functions of a backend."""

    @abstractmethod
    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        wait: bool = True,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call a blocking function and return what it returns.

        :param function: called with ``args``; what it raises comes out.
        :param wait: whether a cancelled caller waits until the function has ended (it is what a write needs, and the
            function may give up early, see :func:`is_abandoned`) or leaves at once (a read).
        :param discard: called with the result, if there is one, when the caller is not there to take it.
        """

    @abstractmethod
    async def finish(self, function: Callable[[], object]) -> None:
        """Wait for the end of every call that its caller has left, then call a last function.

        Both happen in any case: a cancellation is held back until they are done.
        """


class Inline(Offload):
    """Runs blocking functions right where they are called, for callers without an event loop.

    A coroutine of a repository that runs ``Inline`` never suspends. No thread and no loop is started. Used inside
    an event loop it blocks that loop for as long as the disk takes.
    """

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        wait: bool = True,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call the function. There is no point at which it could be cancelled."""
        return function(*args)

    async def finish(self, function: Callable[[], object]) -> None:
        """Call the function: no other call outlives its caller here."""
        function()


class Threads(Offload):
    """Runs blocking functions on anyio's worker threads, a limited number at a time, on asyncio and trio.

    It belongs to no event loop: each loop that uses it gets a limiter of its own, so one object may serve several
    loops, one after the other or at the same time.

    :param limit: how many calls run at the same time for each loop; at least 1. A call that was abandoned counts
        until it has really ended.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, not {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        # Limiters bind to the loop that first uses them, and trio's do not work elsewhere: one pair for each loop.
        self._lanes: WeakKeyDictionary[Any, _Lane] = WeakKeyDictionary()
        self._left: set[_Call[Any]] = set()

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        wait: bool = True,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call the function on a worker thread.

        On cancellation, whether by anyio, trio or ``asyncio.Task.cancel``: a function that has not started does not
        start; one that runs is waited for with ``wait``, else left to itself; the cancellation then goes on.
        """
        lane = self._lane()
        call = _Call(function, args, discard)
        try:
            lane.limiter.acquire_on_behalf_of_nowait(call)
        except anyio.WouldBlock:
            await lane.limiter.acquire_on_behalf_of(call)
        try:
            result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=lane.unlimited)
        except BaseException:
            if call.abandon() and not wait:
                self._leave(call, lane)
                raise
            try:
                await self._ended(call)
            finally:
                lane.limiter.release_on_behalf_of(call)
            raise
        call.forget()
        lane.limiter.release_on_behalf_of(call)
        return result

    async def finish(self, function: Callable[[], object]) -> None:
        """Wait for the end of every call that its caller has left, then call the function on a worker thread."""
        finished = False
        cancelled: BaseException | None = None

        def last() -> None:
            nonlocal finished
            finished = True
            function()

        with anyio.CancelScope(shield=True):
            while not finished:
                try:
                    for call in tuple(self._left):
                        await self._ended(call)
                    await self.run(last)
                except anyio.get_cancelled_exc_class() as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled

    def _lane(self) -> _Lane:
        loop = anyio.lowlevel.current_token().native_token
        try:
            return self._lanes[loop]
        except KeyError:
            lane = self._lanes[loop] = _Lane(self.limit)
            return lane

    def _leave(self, call: _Call[Any], lane: _Lane) -> None:
        token = anyio.lowlevel.current_token()
        self._left.add(call)

        def give_back() -> None:
            call_soon(token, partial(lane.limiter.release_on_behalf_of, call))
            self._left.discard(call)

        if call.when_ended(give_back):
            self._left.discard(call)
            lane.limiter.release_on_behalf_of(call)

    async def _ended(self, call: _Call[Any]) -> None:
        token = anyio.lowlevel.current_token()
        event = anyio.Event()

        if call.when_ended(partial(call_soon, token, event.set)):
            return
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            # A shield keeps out the cancellation of anyio and trio, but not `asyncio.Task.cancel`: wait on, and pass
            # it on afterwards.
            while not event.is_set():
                try:
                    await event.wait()
                except anyio.get_cancelled_exc_class() as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled


class _Lane:
    """What one event loop needs: the limiter that counts, and one that does not, for anyio's own bookkeeping."""

    def __init__(self, limit: int) -> None:
        self.limiter = anyio.CapacityLimiter(limit)
        self.unlimited = anyio.CapacityLimiter(math.inf)


class _Call(Generic[T]):
    """A blocking call that either hands its result to its caller or, abandoned, gets rid of it."""

    def __init__(
        self, function: Callable[..., T], args: tuple[Any, ...], discard: Callable[[T], object] | None
    ) -> None:
        self._function = function
        self._args = args
        self._discard = discard
        self._lock = threading.Lock()
        self._started = False
        self._ended = False
        self._results: list[T] = []
        self._listeners: list[Callable[[], None]] = []
        self.abandoned = False

    def __call__(self) -> T:
        """Run the function, on the worker."""
        with self._lock:
            if self.abandoned:
                raise OperationAbandoned
            self._started = True
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
            if self._started and not self._ended and not self._results:
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
