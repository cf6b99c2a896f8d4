"""One download for all who want the same object at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

__all__ = ("Flight", "Flights")


class Flight:
    """A download under way.

    :ivar content: what was downloaded, once it is there; None where it went into the cache only.
    :ivar outdated: whether a download has ended since the cache was looked at, which may have put the object there.
    """

    def __init__(self, outdated: bool, content: bytes | None = None) -> None:
        self.content = content
        self.outdated = outdated
        self._landed: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until the download has ended, however it did."""
        if self._landed is None:
            self._landed = anyio.Event()
        await self._landed.wait()

    def land(self) -> None:
        """Let those go on who wait for it."""
        if self._landed is not None:
            self._landed.set()


class Flights:
    """The downloads under way, each loop's by itself. Without a loop nobody can wait, and each downloads alone.

    :ivar landed: how many have ended.
    """

    def __init__(self) -> None:
        self.landed = 0
        self._under_way: dict[Any, Flight] = {}

    @asynccontextmanager
    async def of(self, key: str, since: int) -> AsyncIterator[Flight]:
        """Give a flight to who is to download an object, or, once somebody else has, what came of that.

        A download that failed, or was cancelled, is the next one's to try: everybody gets an error of their own.

        :param since: what ``landed`` was before the caller looked for the object in the cache.
        """
        place = (_loop(), key)
        while place[0] is not None and (flight := self._under_way.get(place)) is not None:
            if flight.content is None:
                await flight.wait()
            if flight.content is not None:
                yield Flight(False, flight.content)
                return
        flight = self._under_way[place] = Flight(self.landed != since)
        try:
            yield flight
        finally:
            self.landed += 1
            if self._under_way.get(place) is flight:
                del self._under_way[place]
            flight.land()


def _loop() -> Any:
    try:
        return anyio.lowlevel.current_token().native_token
    except (RuntimeError, LookupError):
        return None
