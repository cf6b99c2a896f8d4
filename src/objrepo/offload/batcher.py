"""Batching of concurrent calls: the calls that wait while a batch is at work make up the next one."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from objrepo.offload.base import UNBATCHED
from objrepo.offload.pool import BlockingPool
from objrepo.offload.work_item import PendingResult, set_cancellable


class Request(PendingResult[Any]):
    """One item that waits to be part of a batch; its result is the item's outcome."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item


class _Members:
    """The requests of a batch, which is cancelled once all of them are."""

    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    @property
    def cancel_requested(self) -> bool:
        return all(request.cancel_requested for request in self._requests)


class Batcher:
    """Calls one function for batches of the items that were enqueued by any thread.

    A single item is dispatched at once. While as many batches as allowed are at work, items wait for the next one.

    :param function: returns an outcome for each of some items; see :meth:`Offload.batched`.
    :param pool: whose threads call it.
    :param max_active: how many batches are at work at the same time.
    :param max_items: how many items a batch has at the most.
    :ivar batches: how many batches there were.
    :ivar calls: how many items they had.
    """

    def __init__(
        self, function: Callable[[list[Any]], list[Any]], pool: BlockingPool, max_active: int, max_items: int
    ) -> None:
        self._function = function
        self._pool = pool
        self._max_active = max_active
        self._max_items = max_items
        self._reset()
        self.batches: int = 0
        self.calls: int = 0

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._active = 0

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    def enqueue(self, request: Request) -> None:
        """Have an item be part of a batch.

        :raises RuntimeError: if no thread can be started for it.
        """
        if self._process != os.getpid():  # the batches of the parent process are not at work here
            self._reset()
        with self._lock:
            self._waiting.append(request)
            if self._active >= self._max_active:
                return
            self._active += 1
        try:
            self._pool.start(self._work)
        except RuntimeError:
            with self._lock:
                self._active -= 1
                self._waiting.remove(request)
            raise

    def _work(self) -> Iterable[Callable[[], object]]:
        """Make one batch, in a thread, and have the next one made if more items wait."""
        batch = self._take_batch()
        outcomes: list[Any] = []
        if batch:
            try:
                with set_cancellable(_Members(batch)):
                    outcomes = self._function([request.item for request in batch])
                if len(outcomes) != len(batch):  # a fault of the backend, which would leave its callers waiting
                    wrong = f"{self._function} returned {len(outcomes)} outcomes for {len(batch)} items"
                    outcomes = [RuntimeError(wrong) for _ in batch]
            except BaseException:  # noqa: BLE001  (in calls of their own, all meet their own error)
                outcomes = [UNBATCHED] * len(batch)
        with self._lock:
            more = bool(self._waiting)
            self._active -= not more
        if more:
            self._pool.start(self._work)
        ended = zip(batch, outcomes, strict=True)
        listeners = [listener for request, outcome in ended for listener in request.end(outcome)]
        del batch, outcomes, ended  # the traceback of one item's error refers to this frame
        return listeners

    def _take_batch(self) -> list[Request]:
        batch: list[Request] = []
        with self._lock:
            while self._waiting and len(batch) < self._max_items:
                request = self._waiting.popleft()
                if request.begin():
                    batch.append(request)
            if batch:
                self.batches += 1
                self.calls += len(batch)
        return batch
