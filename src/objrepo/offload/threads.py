"""Blocking functions on worker threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

import anyio
import anyio.lowlevel

from objrepo.offload.base import UNBATCHED, Offload, OffloadStatistics, Submitted
from objrepo.offload.batcher import Batcher, Request
from objrepo.offload.pool import BlockingPool
from objrepo.offload.work_item import PendingResult, WorkItem, call_soon, schedule_in

T = TypeVar("T")

_READ_BATCHES: Final = 2, 256
"""How many batches of one kind are at work, and their items: while one reads, the next can gather and be dispatched."""

_WRITE_BATCHES: Final = 1, 1024
"""The same for writes, where a second batch would only wait for the lock that the first one holds. Each commit takes
milliseconds, so fewer and larger batches make 1,000 puts at the same time a fifth faster."""

DEFAULT_LIMIT: Final = 32
"""How many calls of one repository run at a time. Most of them wait: for a disk, or for a slow source."""

PROCESSORS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""How many processors this process may use."""


class Threads(Offload):
    """Runs blocking functions on worker threads, a limited number at a time, on asyncio and trio.

    The threads start on demand and end when the repository is left. It is bound to no event loop: several loops may
    use it, one after the other or at the same time. The threads are not those that anyio shares in the whole program:
    they take the next call from their queue without the event loop, and the results of calls that end while the loop is
    busy are delivered together, so 1,000 concurrent calls take about two thirds of the time.

    :param limit: how many calls run at the same time; at least 1. An abandoned call counts until it has ended.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit must be an int, not {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self._pool = BlockingPool(limit)
        self._notifiers: WeakKeyDictionary[Any, _LoopNotifier] = WeakKeyDictionary()
        self._process = os.getpid()
        self._abandoned_calls: set[PendingResult[Any]] = set()
        self._batchers: WeakSet[Batcher] = WeakSet()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit})"

    def __reduce__(self) -> tuple[type[Threads], tuple[int]]:
        return type(self), (self.limit,)

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        abandon_on_cancel: bool = False,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call the function on a worker thread; see :meth:`Offload.run`.

        On cancellation, by anyio, trio or ``asyncio.Task.cancel``: a function that has not started does not start.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        item = WorkItem(function, args, discard).cancellable()
        ended = self._notify_of(item)
        self._pool.start(item.run)
        try:
            await ended.wait()
        except BaseException:
            await self._leave(item, ended, abandon_on_cancel)
            raise
        return item.take()

    async def run_shielded(self, function: Callable[[], object]) -> None:
        """Call the function on a worker thread, shielded from cancellation; see :meth:`Offload.run_shielded`."""
        started = False
        cancelled: BaseException | None = None

        def call() -> None:
            nonlocal started
            started = True
            function()

        with anyio.CancelScope(shield=True):
            while not started:
                try:
                    await self.run(call)
                except anyio.get_cancelled_exc_class() as error:
                    cancelled = error
        try:
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled  # its own traceback would keep it alive

    async def submit(self, function: Callable[..., T], *args: Any) -> Submitted[T]:
        """Submit a blocking call to the worker threads; see :meth:`Offload.submit`."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        item = WorkItem(function, args).cancellable()
        submitted = _Submitted(item, self._notify_of(item))
        self._pool.start(item.run)
        return submitted

    def batched(
        self,
        function: Callable[[list[Any]], list[Any]],
        unbatched: Callable[[Any], T],
        *,
        abandon_on_cancel: bool = False,
    ) -> Callable[[Any], Awaitable[T]]:
        """Return an async function of one item that batches concurrent calls, of all event loops.

        A single call is dispatched at once. One batch is at work at a time, or two if calls can be abandoned, and only
        calls that come meanwhile wait for the next. On cancellation, a call whose batch has not started leaves at once;
        else as for :meth:`Offload.run`. The batch goes on for the others.
        """
        batcher = Batcher(function, self._pool, *(_READ_BATCHES if abandon_on_cancel else _WRITE_BATCHES))
        self._batchers.add(batcher)

        async def call(item: Any) -> T:
            if not abandon_on_cancel:  # a read that starts in vain does no harm, and this takes 2 µs
                await anyio.lowlevel.checkpoint_if_cancelled()
            request = Request(item)
            ended = self._notify_of(request)
            batcher.enqueue(request)
            try:
                await ended.wait()
            except BaseException:
                await self._leave(request, ended, abandon_on_cancel)
                raise
            outcome = request.take()
            if outcome is UNBATCHED:
                return await self.run(unbatched, item, abandon_on_cancel=abandon_on_cancel)
            if isinstance(outcome, Exception):
                try:
                    raise outcome
                finally:
                    del outcome  # its own traceback would keep it alive
            return outcome  # type: ignore[no-any-return]

        return call

    async def drain(self, function: Callable[[], object] | None = None) -> None:
        """Wait for every abandoned call, call the function on a worker thread, and end the threads if they are idle."""
        errors: list[BaseException] = []
        with anyio.CancelScope(shield=True):
            for item in tuple(self._abandoned):
                try:
                    await _shielded(self._notify_of(item))
                except anyio.get_cancelled_exc_class() as error:
                    errors.append(error)
            if function is not None:
                try:
                    await self.run_shielded(function)
                except BaseException as error:  # noqa: BLE001  (it is raised when the threads have ended)
                    errors.append(error)
                stopped = anyio.Event()
                self._pool.stop(partial(self._notifier().set_event, stopped))
                try:
                    await _shielded(stopped)
                except anyio.get_cancelled_exc_class() as error:
                    errors.append(error)
        try:
            if errors:
                raise errors[0]
        finally:
            errors.clear()  # their own tracebacks would keep them alive

    def statistics(self) -> OffloadStatistics:
        """Return how many calls run and wait, in all event loops, and how many were batched."""
        batchers = list(self._batchers)
        return OffloadStatistics(
            self._pool.busy,
            self._pool.waiting + sum(batcher.waiting for batcher in batchers),
            sum(batcher.batches for batcher in batchers),
            sum(batcher.calls for batcher in batchers),
        )

    @property
    def _abandoned(self) -> set[PendingResult[Any]]:
        if self._process != os.getpid():  # the threads of the parent process do not exist here
            self._process, self._abandoned_calls = os.getpid(), set()
        return self._abandoned_calls

    def _notifier(self) -> _LoopNotifier:
        loop = anyio.lowlevel.current_token().native_token
        notifier = self._notifiers.get(loop)
        if notifier is None:
            notifier = self._notifiers[loop] = _LoopNotifier(loop)
        return notifier

    def _notify_of(self, item: PendingResult[Any]) -> anyio.Event:
        """Return an event of this loop that is set when a result is there."""
        event = anyio.Event()
        if item.when_ended(partial(self._notifier().set_event, event)):
            event.set()
        return event

    async def _leave(self, item: PendingResult[Any], ended: anyio.Event, abandon_on_cancel: bool) -> None:
        """Give up a result: at once, or shielded until it has ended."""
        if item.abandon():
            if not abandon_on_cancel:
                await _shielded(ended)
            else:
                abandoned = self._abandoned
                abandoned.add(item)
                if item.when_ended(partial(abandoned.discard, item)):
                    abandoned.discard(item)


class _Submitted(Generic[T]):
    """See :class:`Submitted`."""

    def __init__(self, item: WorkItem[T], ended: anyio.Event) -> None:
        self._item = item
        self._ended = ended

    async def result(self) -> T:
        try:
            await self._ended.wait()
        except BaseException:
            await self.cancel()
            raise
        return self._item.take()

    def on_end(self, callback: Callable[[], object]) -> None:
        token = anyio.lowlevel.current_token()
        if self._item.when_ended(partial(call_soon, token, callback)):
            callback()

    async def cancel(self) -> None:
        if self._item.abandon():
            await _shielded(self._ended)


class _LoopNotifier:
    """Sets events of an event loop from other threads; those that come while the loop is busy reach it together."""

    def __init__(self, loop: Any) -> None:
        self._loop = ref(loop)  # the offload may outlive the loop, and does not keep it alive
        self._events: deque[anyio.Event] = deque()
        self._scheduled = False

    def set_event(self, event: anyio.Event) -> None:
        # Without a lock: `_deliver` clears the flag before it looks for events, so that none stays behind.
        self._events.append(event)
        if not self._scheduled:
            self._scheduled = True
            loop = self._loop()
            if loop is None or not schedule_in(loop, self._deliver):
                self._events.clear()  # they may refer to the loop, which has ended

    def _deliver(self) -> None:
        self._scheduled = False
        while self._events:
            self._events.popleft().set()


async def _shielded(event: anyio.Event) -> None:
    """Wait for an event, shielded from cancellation, which is raised afterwards.

    A shielded scope keeps out the cancellation of anyio and trio, but not ``asyncio.Task.cancel``.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
