"""One blocking function for several items at the same time: for backends whose time is spent waiting for a network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from objrepo.offload.work_item import WorkCancelled, cancel_requested

__all__ = ("BlockingPool",)

S = TypeVar("S")
T = TypeVar("T")


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

    def start(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Have a function called, and return what to ask for its result."""
        with self._starting:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._limit, thread_name_prefix="objrepo")
            return self._threads.submit(function, *args)

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
        under_way = deque(self.start(function, item) for item in first)
        try:
            while under_way:
                if cancel_requested():
                    raise WorkCancelled
                result = under_way[0].result()
                under_way.popleft()
                under_way.extend(self.start(function, item) for item in islice(left, 1))
                yield result
        finally:
            for future in under_way:
                future.cancel()
            for future in under_way:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """End the threads, once what they do is done."""
        with self._starting:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
