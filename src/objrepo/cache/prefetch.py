"""Having objects in the cache before they are read, several at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from objrepo.reports import CopyReport, DamagedObject, Progress, ProgressCallback

__all__ = ("Prefetch",)

_AT_ONCE: Final = 16
"""How many objects are under way at the same time."""


class Prefetch:
    """A prefetch, and what it has come to.

    :param fetch: brings one object; returns its size, None for what is there, or what is wrong with it.
    :param progress: told of each object.
    """

    def __init__(
        self, fetch: Callable[[str], Awaitable[int | DamagedObject | None]], progress: ProgressCallback | None
    ) -> None:
        self._fetch = fetch
        self._progress = progress
        self._done = self._fetched = self._size = 0
        self._damaged: list[DamagedObject] = []

    async def run(self, keys: list[str], concurrently: bool) -> CopyReport:
        """Fetch all of these objects; the first error ends it."""
        left = iter(keys)
        failures: list[Exception] = []

        async def fetch() -> None:
            for key in left:
                try:
                    self._note(await self._fetch(key), len(keys))
                except Exception as error:  # noqa: BLE001  (the first one is raised below, on its own)
                    failures.append(error)
                    return

        if concurrently:
            async with anyio.create_task_group() as group:

                async def one() -> None:
                    await fetch()
                    if failures:
                        group.cancel_scope.cancel()

                for _ in range(min(_AT_ONCE, len(keys))):
                    group.start_soon(one)
        else:
            await fetch()
        if failures:
            raise failures[0]
        damaged = tuple(self._damaged)
        return CopyReport(objects=self._done, copied=self._fetched, size=self._size, damaged=damaged)

    def _note(self, outcome: int | DamagedObject | None, total: int) -> None:
        self._done += 1
        if isinstance(outcome, DamagedObject):
            self._damaged.append(outcome)
        elif outcome is not None:
            self._fetched += 1
            self._size += outcome
        if self._progress is not None:
            self._progress(Progress("prefetch", self._done, total, "objects"))
