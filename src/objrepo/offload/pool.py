"""One blocking function for several items at the same time: for backends whose time is spent waiting for a network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from objrepo.offload import work_item
from objrepo.offload.work_item import WorkCancelled, cancel_requested

__all__ = ("BlockingPool",)

S = TypeVar("S")
T = TypeVar("T")

_thread = threading.local()
"""Which pool the present thread belongs to."""


class PoolItem(Generic[T]):
    """A submitted call."""

    def __init__(self, future: Future[T], pool: BlockingPool, call: Callable[[], T]) -> None:
        self._future = future
        self._pool = pool
        self._call = call

    def result(self) -> T:
        """Wait for the call and return its result; a thread of the pool makes the call itself if none has begun it."""
        if getattr(_thread, "pool", None) is self._pool and self._future.cancel():
            return self._call()
        return self._future.result()

    def abandon(self) -> bool:
        """Have the call not made; return whether it had not begun."""
        return self._future.cancel()

    def wait(self) -> None:
        """Wait until the call has ended."""
        self._future.exception()


class BlockingPool:
    """Calls blocking functions on threads of its own, for a blocking function that cannot go on without all of them.

    The threads start when they are needed and end with :meth:`close`; another use starts new ones. What is called
    must not come back here itself.

    :param limit: how many calls run at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._starting = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., T], *args: Any) -> PoolItem[T]:
        """Submit a call, which sees whether the caller of this function is cancelled.

        A function that runs in this pool may submit others and wait for them: the waiting thread makes the call if no
        thread has begun it. So the pool never waits for a thread that only it could provide.
        """
        call = partial(_in_call, getattr(work_item._worker, "call", None), function, *args)  # noqa: SLF001
        with self._starting:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._limit, "objrepo", lambda: setattr(_thread, "pool", self))
            return PoolItem(self._threads.submit(call), self, call)

    def each(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Call a function with each item, several at the same time, and give the results in the order of the items.

        Items are taken as the work goes on, few of them in advance. Leaving the iteration, be it by an error of the
        function or because the caller was cancelled, waits for the calls that have begun.

        :raises WorkCancelled: if the caller of the blocking function has been cancelled.
        """
        left = iter(items)
        first = list(islice(left, max(self._limit, 2)))
        if len(first) < 2:  # no company: no thread is needed
            yield from map(function, first)
            return
        under_way = deque(self.submit(function, item) for item in first)
        try:
            while under_way:
                if cancel_requested():
                    raise WorkCancelled
                result = under_way[0].result()
                under_way.popleft()
                under_way.extend(self.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for item in [item for item in under_way if not item.abandon()]:
                item.wait()

    def close(self) -> None:
        """End the threads, once what they do is done."""
        with self._starting:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)


def _in_call(call: Any, function: Callable[..., T], *args: Any) -> T:
    """Call a function that sees whether the caller of another call is cancelled."""
    worker = work_item._worker  # noqa: SLF001
    before, worker.call = getattr(worker, "call", None), call
    try:
        return function(*args)
    finally:
        worker.call = before
