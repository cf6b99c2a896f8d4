"""What an offload is, and the one that needs nothing: blocking functions run right where they are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from objrepo.offload.ahead import Ahead, InTask, WhenAsked

__all__ = ("UNBATCHED", "Inline", "Offload", "OffloadStatistics")

T = TypeVar("T")


class OffloadStatistics(NamedTuple):
    """What goes through an offload: see :class:`~objrepo.reports.Statistics`."""

    workers_busy: int = 0
    calls_waiting: int = 0
    batches: int = 0
    batched_calls: int = 0


UNBATCHED: Final = object()
"""The outcome of a shared call that is to be done in a hop of its own."""


class Offload(ABC):
    """Runs the blocking functions of a backend."""

    @abstractmethod
    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        wait: bool = True,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call a blocking function and return what it returns.

        :param function: called with ``args``; what it raises comes out.
        :param wait: whether a cancelled caller waits until the function has ended (it is what a write needs, and the
            function may give up early, see :func:`cancel_requested`) or leaves at once (a read).
        :param discard: called with the result, if there is one, when the caller is not there to take it.
        """

    @abstractmethod
    async def finish(self, function: Callable[[], object]) -> None:
        """Wait for the end of every call that its caller has left, then call a last function.

        Both happen in any case: a cancellation is held back until they are done.
        """

    @abstractmethod
    async def share(
        self,
        function: Callable[[list[Any]], list[Any]],
        item: Any,
        alone: Callable[[Any], T],
        *,
        wait: bool = True,
    ) -> T:
        """Have a blocking function do one thing, together with what others have asked of it at the same moment.

        :param function: called with some items; it returns an outcome for each: a result, an exception to be raised, or
            :data:`UNBATCHED` for what would hold up the others. If it raises, each item is done alone.
        :param item: what this caller asks for.
        :param alone: called with the item, in a hop of its own, if that is its outcome.
        :param wait: as in :meth:`run`.
        """

    def statistics_of_calls(self) -> OffloadStatistics:
        """Return how much is going on, and how much went on."""
        return OffloadStatistics()

    def ahead(self) -> Ahead[Any]:
        """Return an async context manager for blocking calls that are at work while their caller goes on.

        What is under way when it is left is cancelled, and waited for as by :meth:`run`.
        """
        return InTask(self.run)


class Inline(Offload):
    """Runs blocking functions right where they are called, for callers without an event loop.

    A coroutine of a repository that runs ``Inline`` never suspends. No thread and no loop is started. Used inside
    an event loop it blocks that loop for as long as the disk takes.
    """

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        wait: bool = True,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call the function. There is no point at which it could be cancelled."""
        return function(*args)

    async def finish(self, function: Callable[[], object]) -> None:
        """Call the function: no other call outlives its caller here."""
        function()

    async def share(
        self,
        function: Callable[[list[Any]], list[Any]],
        item: Any,
        alone: Callable[[Any], T],
        *,
        wait: bool = True,
    ) -> T:
        """Do it alone: nobody else is there."""
        return alone(item)

    def ahead(self) -> Ahead[Any]:
        """Return what makes each call when its result is asked for: nothing happens beside the caller."""
        return WhenAsked()
