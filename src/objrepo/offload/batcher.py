"""Callers who share hops to a worker: who waits, who makes the hop for the others, and how all learn the outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

__all__ = ("Crowd", "Member", "wait_through")

_AT_ONCE: Final = 256


class Member:
    """One caller, with what it asks for and, once it is served, the outcome."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.outcome: Any = None
        self.served = False
        self.boarded = False
        self.left = False
        self._event: anyio.Event | None = None

    def tell(self) -> None:
        """Wake the caller: it is served, or it is to make the next hop."""
        if self._event is not None:
            self._event.set()

    async def told(self, wait: bool) -> None:
        """Wait until told.

        :param wait: whether a caller that is cancelled while its hop is under way waits on.
        """
        if self.served:
            return
        self._event = anyio.Event()
        try:
            await self._event.wait()
        except BaseException:
            if wait and self.boarded and not self.served:
                await wait_through(self._event)
            raise


class Crowd:
    """The callers of one shared function in one loop. Everything here happens in that loop's thread.

    :param flights: how many hops are under way at a time.
    :param when_idle: called when nobody waits any longer and no hop is under way.
    """

    def __init__(self, flights: int, when_idle: Callable[[], object]) -> None:
        self._most = flights
        self._when_idle = when_idle
        self._waiting: deque[Member] = deque()
        self._flights = 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits and no hop is under way."""
        return not self._waiting and not self._flights

    @property
    def waiting(self) -> int:
        """How many wait for a hop."""
        return len(self._waiting)

    def may_depart(self) -> bool:
        """Take a hop, if there is one to be had."""
        if self._flights >= self._most:
            return False
        self._flights += 1
        return True

    async def join(self, member: Member, wait: bool) -> None:
        """Wait until somebody's hop has served the member, or the member is to make the next one itself."""
        self._waiting.append(member)
        try:
            await member.told(wait)
        except BaseException:
            if member in self._waiting:
                self._waiting.remove(member)
            elif member.boarded:
                member.left = True
            else:
                self.end_flight()  # it was to make the next hop: another takes it over
            raise

    def board(self, member: Member) -> list[Member]:
        """Return who travels with a member that makes a hop; the member is the first."""
        batch = [member]
        while self._waiting and len(batch) < _AT_ONCE:
            batch.append(self._waiting.popleft())
        for each in batch:
            each.boarded = True
        return batch

    def arrive(self, batch: Sequence[Member], outcomes: Sequence[Any]) -> None:
        """Tell those who have travelled their outcomes, and let the next hop start."""
        for member, outcome in zip(batch, outcomes, strict=True):
            member.outcome = outcome
            member.served = True
            member.tell()
        self.end_flight()

    def turn_back(self, batch: Sequence[Member]) -> None:
        """Put back those whose hop did not start, as who was to make it is gone; they may be gone, too."""
        for member in reversed(batch):
            if not member.left:
                member.boarded = False
                self._waiting.appendleft(member)
        self.end_flight()

    def end_flight(self) -> None:
        """Give up a hop, or hand it to the first who waits."""
        if self._waiting:
            self._waiting.popleft().tell()
        else:
            self._flights -= 1
            if self.idle:
                self._when_idle()


async def wait_through(event: anyio.Event) -> None:
    """Wait for an event, whatever cancels the caller meanwhile; that comes out afterwards.

    A shield keeps out the cancellation of anyio and trio, but not ``asyncio.Task.cancel``.
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
