"""Single-flight: concurrent misses of the same object share one download."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel


class Download:
    """A download that is running.

    :ivar recheck: whether another download has ended since the caller looked into the cache, which may have the object
        now.
    :ivar content: the downloaded bytes, once they are complete; None if the object went only into the cache.
    :ivar ended: set when the download has succeeded, failed or been cancelled.
    """

    def __init__(self, recheck: bool, content: bytes | None = None) -> None:
        self.recheck = recheck
        self.content = content
        self.ended: anyio.Event = anyio.Event()


class SingleFlight:
    """The downloads that are running, by event loop and key. Without an event loop, no task can wait for another.

    :ivar completed: how many downloads have ended.
    """

    def __init__(self) -> None:
        self.completed: int = 0
        self._running: dict[Any, Download] = {}

    @asynccontextmanager
    async def join(self, key: str, completed: int) -> AsyncIterator[Download]:
        """Wait for a download of the object that is running, or register one that the caller is to make.

        If a download fails or is cancelled, the next waiting task makes its own and gets its own error.

        :param completed: the value of :attr:`completed` before the caller looked for the object in the cache.
        :return: a download; the caller makes it unless it has a ``content``.
        """
        loop = _current_loop()
        while loop is not None and (running := self._running.get((loop, key))) is not None:
            if running.content is None:
                await running.ended.wait()
            if running.content is not None:
                yield Download(False, running.content)
                return
        download = self._running[loop, key] = Download(self.completed != completed)
        try:
            yield download
        finally:
            self.completed += 1
            if self._running.get((loop, key)) is download:
                del self._running[loop, key]
            download.ended.set()


def _current_loop() -> Any:
    try:
        return anyio.lowlevel.current_token().native_token
    except anyio.NoEventLoopError:
        return None
