"""Blocking functions on threads that one repository has for itself: for calls that wait for a network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from objrepo.offload.base import OffloadStatistics
from objrepo.offload.threads import Threads
from objrepo.offload.work_item import Call, call_soon

__all__ = ("OwnThreads",)

T = TypeVar("T")


class OwnThreads(Threads):
    """Runs blocking functions on threads of its own, which end when :meth:`finish` has been awaited.

    Handing a call to them and back takes a part of what it takes with the threads that trio and asyncio share between
    all of a program: they take the next call from a queue without asking the loop, and calls that end while the loop is
    busy are told to it together. It pays where many calls wait at the same time.

    :param limit: how many threads there are at the most, for all event loops together.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._starting = threading.Lock()
        self._team: _Team | None = None
        self._inboxes: WeakKeyDictionary[Any, _Inbox] = WeakKeyDictionary()

    async def finish(self, function: Callable[[], object]) -> None:
        """Wait for the end of every call that its caller has left, then call the function, and end the threads."""
        try:
            await super().finish(function)
        finally:
            with self._starting:
                team, self._team = self._team, None
            if team is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(team.end)

    def statistics_of_calls(self) -> OffloadStatistics:
        """Return how much is going on in all loops, and how much went on."""
        unfinished = 0 if self._team is None else self._team.unfinished
        busy = min(unfinished, self.limit)
        return super().statistics_of_calls()._replace(workers_busy=busy, calls_waiting=unfinished - busy)

    async def _on_worker(self, call: Call[T], unlimited: anyio.CapacityLimiter) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        job = _Job(call, self._inbox())
        with self._starting:
            if self._team is None:
                self._team = _Team(self.limit)
            self._team.do(job)
        await job.ended.wait()
        error, job.error = job.error, None
        if error is None:
            return cast("T", job.result)
        try:
            raise error
        finally:
            del error  # its own traceback would keep it

    def _inbox(self) -> _Inbox:
        token = anyio.lowlevel.current_token()
        inbox = self._inboxes.get(token.native_token)
        if inbox is None:
            inbox = self._inboxes[token.native_token] = _Inbox(token)
        return inbox

    @property
    def _limit_of_loop(self) -> float:
        return float("inf")  # the threads are the limit


class _Job:
    """A call in the queue, and what came of it."""

    result: Any = None
    error: BaseException | None = None

    def __init__(self, call: Call[Any], inbox: _Inbox) -> None:
        self.call = call
        self.inbox = inbox
        self.context: Context = copy_context()
        self.ended = anyio.Event()

    def do(self) -> None:
        try:
            self.result = self.context.run(self.call)
        except BaseException as error:  # noqa: BLE001  (it is raised in its caller)
            self.error = error


class _Team:
    """Threads that take jobs from a queue.

    :param limit: how many threads are started, each when there is a job and nobody idle.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._counting = threading.Lock()
        self.unfinished = 0

    def do(self, job: _Job) -> None:
        """Have a thread do something."""
        with self._counting:
            self.unfinished += 1
            if len(self._threads) < min(self.unfinished, self._limit):
                # Who never ends the team does not want to wait for it when the interpreter ends.
                self._threads.append(threading.Thread(target=self._work, name="objrepo", daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)

    def end(self) -> None:
        """Wait until the threads have ended, after what there was to do."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.do()
            with self._counting:
                self.unfinished -= 1
            job.inbox.add(job.ended)
            del job  # it may hold much, and the next one may be long in coming


class _Inbox:
    """What workers tell an event loop: those that end while it is busy are told of together."""

    def __init__(self, token: anyio.lowlevel.EventLoopToken) -> None:
        self._token = token
        self._adding = threading.Lock()
        self._ended: list[anyio.Event] = []

    def add(self, ended: anyio.Event) -> None:
        """Have an event set."""
        with self._adding:
            self._ended.append(ended)
            first = len(self._ended) == 1
        if first:
            call_soon(self._token, self._deliver)

    def _deliver(self) -> None:
        with self._adding:
            ended, self._ended = self._ended, []
        for each in ended:
            each.set()
