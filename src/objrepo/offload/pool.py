"""A pool of threads for blocking calls."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from objrepo.offload.interrupts import call_shielded
from objrepo.offload.work_item import WorkCancelled, WorkItem, cancel_requested

S = TypeVar("S")
T = TypeVar("T")

_thread = threading.local()
"""Which pool the present thread belongs to."""

Listeners: TypeAlias = Iterable[Callable[[], object]]


class BlockingPool:
    """Runs calls on up to ``limit`` threads, in the order in which they were submitted.

    A thread starts when a call is submitted and every thread is busy, and ends with :meth:`close` or :meth:`stop`; a
    later use starts new threads. In a forked child the pool is empty.

    :param limit: how many calls run at the same time; at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._queue: _Queue = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    @property
    def busy(self) -> int:
        """How many calls are running."""
        return min(self._unfinished, self._limit)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread."""
        return self._unfinished - self.busy

    def submit(self, function: Callable[..., T], *args: Any) -> WorkItem[T]:
        """Submit a call; ``.result()`` of what this returns waits for it.

        A call that runs in this pool may submit others and wait for them: where no thread has begun one by then, the
        waiting thread makes it. So the pool never waits for a thread that only it could provide.

        :raises RuntimeError: if the pool has no thread and the system starts none.
        """
        item = _PoolItem(self, function, args)
        self.start(item.run)
        return item

    def start(self, run: Callable[[], Listeners]) -> None:
        """Have a thread call a function, which returns what to call once the thread counts as idle.

        :raises RuntimeError: if the pool has no thread and the system starts none; the function is not called then.
        """
        call_shielded(self._start, run)  # a thread that an interrupt kept from being listed would never end

    def _start(self, run: Callable[[], Listeners]) -> None:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if len(self._threads) < min(self._unfinished + 1, self._limit):
                # A daemon, so that a program that never leaves its repository can end.
                thread = threading.Thread(target=self._work, args=(self._queue,), name="objrepo", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    if not self._threads:
                        raise
                else:
                    self._threads.append(thread)
            self._unfinished += 1
            self._queue.put(run)

    def map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Call a function with each item, several at the same time; give the results in the order of the items.

        Items are taken as the work proceeds, at most ``limit`` in advance. Leaving the iteration, by an error of the
        function or otherwise, waits for the calls that have begun.

        :raises WorkCancelled: if the caller of the blocking function that iterates has been cancelled.
        """
        left = iter(items)
        first = list(islice(left, max(self._limit, 2)))
        if len(first) < 2:  # a single call needs no thread
            yield from map(function, first)
            return
        submitted = deque(self.submit(function, item) for item in first)
        try:
            while submitted:
                if cancel_requested():
                    raise WorkCancelled
                result = submitted.popleft().result()
                submitted.extend(self.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for item in submitted:
                ended = threading.Event()
                if item.abandon() and not item.when_ended(ended.set):
                    ended.wait()

    def close(self) -> None:
        """End the threads, after the calls that were submitted, and wait for that."""
        with self._lock:
            threads, self._threads = self._threads, []
            self._end(len(threads), lambda: None)
        for thread in threads:
            thread.join()

    def stop(self, stopped: Callable[[], object]) -> None:
        """End the threads if no call is left, without waiting for that.

        :param stopped: called by the last of them, or at once if there is none or a call is left.
        """
        with self._lock:
            count = 0 if self._unfinished else len(self._threads)
            if count:
                self._threads = []
                self._end(count, stopped)
        if not count:
            stopped()

    def _end(self, count: int, stopped: Callable[[], object]) -> None:
        """Have threads end once they have done what is in the queue; the caller holds the lock."""
        end = _End(count, stopped)
        for _ in range(count):
            self._queue.put(end)
        self._queue = SimpleQueue()

    def _work(self, queue: _Queue) -> None:
        _thread.pool = self
        while not isinstance(run := queue.get(), _End):
            listeners = run()
            del run  # it may hold much, and the next one may be long in coming
            with self._lock:
                self._unfinished -= 1
            _call_all(listeners)
            del listeners
        run.thread_ended()


class _PoolItem(WorkItem[T]):
    def __init__(self, pool: BlockingPool, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        super().__init__(function, args)
        self._pool = pool

    def result(self) -> T:
        if getattr(_thread, "pool", None) is self._pool:
            _call_all(self.run())
        return super().result()


def _call_all(listeners: Listeners) -> None:
    for listener in listeners:  # in a function of its own, as the variable would keep the last one alive
        listener()


class _End:
    """What tells each of some threads to end."""

    def __init__(self, count: int, stopped: Callable[[], object]) -> None:
        self._left = count
        self._lock = threading.Lock()
        self._stopped = stopped

    def thread_ended(self) -> None:
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self._stopped()


_Queue: TypeAlias = "SimpleQueue[Callable[[], Listeners] | _End]"
