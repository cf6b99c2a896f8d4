"""Entering and leaving: when a repository that several tasks use is open, and when it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from objrepo.errors import RepositoryClosedError
from objrepo.offload import Offload

__all__ = ("Lifetime",)


class Lifetime:
    """Counts who has entered; the last to leave closes, and who enters while that happens waits for it.

    :ivar users: how many have entered and not left.
    """

    def __init__(self) -> None:
        self.users: int = 0
        self._lock = threading.Lock()
        self._closing: threading.Event | None = None

    async def enter(self, offload: Offload) -> None:
        """Count a user. Cancelled, it counts none."""
        while True:
            with self._lock:
                closing = self._closing
                if closing is None:
                    self.users += 1
                    return
            # A thread is closing at this moment, so that waiting in another one never waits for itself.
            await offload.run(closing.wait, abandon_on_cancel=True)

    async def leave(self, offload: Offload, close: Callable[[], object]) -> None:
        """Count a user out; if it was the last, wait for abandoned calls and close. Shielded from cancellation.

        :param close: a blocking function; not called if another user has entered by then. It may be called twice.
        """
        with self._lock:
            self.users -= 1
            last = not self.users
        await offload.drain(partial(self._close, close) if last else None)

    def require_open(self, repository: object) -> None:
        """Raise an error outside of ``async with``.

        :raises RepositoryClosedError: if no user has entered.
        """
        if self.users < 1:
            raise RepositoryClosedError(f"{repository} is not open: use it inside `async with`")

    def _close(self, close: Callable[[], object]) -> None:
        while True:
            with self._lock:
                if self.users:
                    return
                other = self._closing
                if other is None:
                    mine = self._closing = threading.Event()
                    break
            other.wait()
        try:
            close()
        finally:
            with self._lock:
                self._closing = None
            mine.set()
