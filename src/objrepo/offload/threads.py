"""Blocking functions on anyio's worker threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from objrepo.offload.base import UNBATCHED, Offload, OffloadStatistics
from objrepo.offload.batcher import Crowd, Member, wait_through
from objrepo.offload.work_item import Call, call_soon

__all__ = ("PROCESSORS", "Threads")

T = TypeVar("T")

_READ_FLIGHTS: Final = 2
"""How many shared hops of one kind are under way: while one is at work, the next can gather and depart."""

_WRITE_FLIGHTS: Final = 1
"""The same for what writes, where a second one would only wait for the first one's lock."""

DEFAULT_LIMIT: Final = 32
"""How many calls of one repository run at a time. Most of them wait: for a disk, or for a source that is slow."""

PROCESSORS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""How many processors this process may use."""


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
        self._left: set[Call[Any]] = set()
        self._shared_hops = self._shared_calls = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit})"

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
        return await self._run(Call(function, args, discard), self._lane(), wait)

    async def share(
        self,
        function: Callable[[list[Any]], list[Any]],
        item: Any,
        alone: Callable[[Any], T],
        *,
        wait: bool = True,
    ) -> T:
        """Call the function for all callers that are waiting at this moment, in one hop.

        A call that finds no company does not wait for it: one hop, or two of what only reads, are under way at a
        time, and only who comes meanwhile waits for the next. On cancellation: whose hop has not started leaves at
        once; else as in :meth:`run`. The hop goes on for the others.
        """
        lane = self._lane()
        crowd = lane.crowds.get(function)
        if crowd is None:
            when_idle = partial(lane.crowds.pop, function, None)
            crowd = lane.crowds[function] = Crowd(_WRITE_FLIGHTS if wait else _READ_FLIGHTS, when_idle)
        member = Member(item)
        if not crowd.may_depart():
            await crowd.join(member, wait)
        if not member.served:
            await self._carry(crowd, member, function, lane, wait)
        if member.outcome is UNBATCHED:
            return await self.run(alone, item, wait=wait)
        if isinstance(member.outcome, Exception):
            raise member.outcome
        return cast("T", member.outcome)

    async def _carry(
        self, crowd: Crowd, member: Member, function: Callable[[list[Any]], list[Any]], lane: _Lane, wait: bool
    ) -> None:
        """Make the hop for a member and for those who wait; the worker itself tells them their outcomes."""
        batch = crowd.board(member)
        self._shared_hops += 1
        self._shared_calls += len(batch)
        token = anyio.lowlevel.current_token()

        def work() -> list[Any]:
            try:
                outcomes = function([each.item for each in batch])
            except Exception:  # noqa: BLE001  (done alone, each meets its own error)
                outcomes = [UNBATCHED] * len(batch)
            if len(batch) > 1:
                call_soon(token, partial(crowd.arrive, batch, outcomes))
            return outcomes

        call = Call(work, (), None)
        try:
            outcomes = await self._run(call, lane, wait)
        except BaseException:
            if not call.started:
                crowd.turn_back(batch[1:])
            elif len(batch) == 1 and call.when_ended(partial(call_soon, token, crowd.end_flight)):
                crowd.end_flight()
            raise
        if len(batch) == 1:
            crowd.arrive(batch, outcomes)
        else:
            await member.told(wait)

    async def _run(self, call: Call[T], lane: _Lane, wait: bool) -> T:
        try:
            lane.limiter.acquire_on_behalf_of_nowait(call)
        except anyio.WouldBlock:
            await lane.limiter.acquire_on_behalf_of(call)
        try:
            result = await self._on_worker(call, lane.unlimited)
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

    async def _on_worker(self, call: Call[T], unlimited: anyio.CapacityLimiter) -> T:
        """Have a worker make a call. A caller that is cancelled leaves at once."""
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=unlimited)

    @property
    def _limit_of_loop(self) -> float:
        return self.limit

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

    def statistics_of_calls(self) -> OffloadStatistics:
        """Return how much is going on in all loops, and how much went on."""
        lanes = list(self._lanes.values())
        limiters = [lane.limiter.statistics() for lane in lanes]
        crowded = sum(crowd.waiting for lane in lanes for crowd in list(lane.crowds.values()))
        return OffloadStatistics(
            sum(limiter.borrowed_tokens for limiter in limiters),
            sum(limiter.tasks_waiting for limiter in limiters) + crowded,
            self._shared_hops,
            self._shared_calls,
        )

    def _lane(self) -> _Lane:
        loop = anyio.lowlevel.current_token().native_token
        try:
            return self._lanes[loop]
        except KeyError:
            lane = self._lanes[loop] = _Lane(self._limit_of_loop)
            return lane

    def _leave(self, call: Call[Any], lane: _Lane) -> None:
        token = anyio.lowlevel.current_token()
        self._left.add(call)

        def give_back() -> None:
            call_soon(token, partial(lane.limiter.release_on_behalf_of, call))
            self._left.discard(call)

        if call.when_ended(give_back):
            self._left.discard(call)
            lane.limiter.release_on_behalf_of(call)

    async def _ended(self, call: Call[Any]) -> None:
        token = anyio.lowlevel.current_token()
        event = anyio.Event()

        if call.when_ended(partial(call_soon, token, event.set)):
            return
        await wait_through(event)


class _Lane:
    """What one event loop needs: the limiter that counts, one that does not, for anyio itself, and who shares hops."""

    def __init__(self, limit: float) -> None:
        self.limiter = anyio.CapacityLimiter(limit)
        self.unlimited = anyio.CapacityLimiter(math.inf)
        self.crowds: dict[Callable[[list[Any]], list[Any]], Crowd] = {}
