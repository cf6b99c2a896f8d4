"""What an offload is, and the one without threads: `Inline`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

from objrepo.offload.interrupts import call_shielded

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

UNBATCHED: Final = object()
"""The outcome, for one item of a batch, that asks for a call of its own: the item would delay the others."""


class OffloadStatistics(NamedTuple):
    """The calls of an offload: see :class:`~objrepo.reports.Statistics`."""

    workers_busy: int = 0
    calls_waiting: int = 0
    batches: int = 0
    batched_calls: int = 0


class Submitted(Protocol[T_co]):
    """A blocking call that was submitted and not yet waited for."""

    async def result(self) -> T_co:
        """Wait for the call; return its result or raise its error. Cancellation waits as for :meth:`Offload.run`."""
        ...

    def on_end(self, callback: Callable[[], object]) -> None:
        """Have the event loop call a function when the call has ended."""
        ...

    async def cancel(self) -> None:
        """Ask the call to stop, wait until it has ended, shielded from cancellation, and drop its result."""
        ...


class Offload(ABC):
    """Runs the blocking functions of a backend.

    :cvar concurrent: whether a function runs while its caller does something else.
    """

    concurrent: ClassVar[bool] = True

    @abstractmethod
    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        abandon_on_cancel: bool = False,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call a blocking function and return what it returns.

        :param function: called with ``args``; its exceptions propagate.
        :param abandon_on_cancel: whether a cancelled caller leaves at once (for reads). If not, it is shielded until
            the function has ended (for writes); the function may stop early, see :func:`cancel_requested`.
        :param discard: called once with the result if the caller was cancelled and does not receive it.
        """

    @abstractmethod
    async def run_shielded(self, function: Callable[[], object]) -> None:
        """Call a blocking function to its end, also if the caller is cancelled, which is raised afterwards."""

    @abstractmethod
    async def submit(self, function: Callable[..., T], *args: Any) -> Submitted[T]:
        """Submit a blocking call without waiting for it. Each must be awaited: its result, or its cancellation."""

    @abstractmethod
    def batched(
        self,
        function: Callable[[list[Any]], list[Any]],
        unbatched: Callable[[Any], T],
        *,
        abandon_on_cancel: bool = False,
    ) -> Callable[[Any], Awaitable[T]]:
        """Return an async function of one item that batches concurrent calls.

        :param function: called with up to 256 items, or 1,024 unless ``abandon_on_cancel``; returns for each a result,
            an exception to raise, or :data:`UNBATCHED`. If it raises, each item gets a call of its own.
        :param unbatched: called with one item, where that is its outcome.
        :param abandon_on_cancel: as for :meth:`run`.
        """

    @abstractmethod
    async def drain(self, function: Callable[[], object] | None = None) -> None:
        """Wait for every call that its caller has abandoned, then call a last function.

        Shielded from cancellation, which is raised afterwards.
        """

    def statistics(self) -> OffloadStatistics:
        """Return how many calls run and wait, and how many were batched."""
        return OffloadStatistics()


class Inline(Offload):
    """Runs blocking functions in the calling thread, for callers without an event loop.

    A coroutine of a repository that runs ``Inline`` never suspends. No thread and no event loop is started. In a
    running event loop it blocks that loop for the duration of each call.
    """

    concurrent: ClassVar[bool] = False

    def __repr__(self) -> str:
        return "Inline()"

    async def run(
        self,
        function: Callable[..., T],
        *args: Any,
        abandon_on_cancel: bool = False,
        discard: Callable[[T], object] | None = None,
    ) -> T:
        """Call the function. Ctrl-C interrupts it at once, or unless ``abandon_on_cancel`` where it can stop."""
        return function(*args) if abandon_on_cancel else call_shielded(function, *args)

    async def run_shielded(self, function: Callable[[], object]) -> None:
        """Call the function."""
        call_shielded(function)

    async def submit(self, function: Callable[..., T], *args: Any) -> Submitted[T]:
        """Return a call that is made when its result is awaited."""
        return _Deferred(partial(function, *args))

    def batched(
        self,
        function: Callable[[list[Any]], list[Any]],
        unbatched: Callable[[Any], T],
        *,
        abandon_on_cancel: bool = False,
    ) -> Callable[[Any], Awaitable[T]]:
        """Return an async function that calls ``unbatched``: no two calls run at the same time."""

        async def call(item: Any) -> T:
            return unbatched(item) if abandon_on_cancel else call_shielded(unbatched, item)

        return call

    async def drain(self, function: Callable[[], object] | None = None) -> None:
        """Call the function: no call outlives its caller."""
        if function is not None:
            call_shielded(function)


def runs_in_place(repository: object) -> bool:
    """Return whether the coroutines of a repository never suspend: they need no event loop."""
    return not getattr(getattr(repository, "offload", None), "concurrent", True)


class _Deferred(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call

    async def result(self) -> T:
        return call_shielded(self._call)

    def on_end(self, callback: Callable[[], object]) -> None:
        raise NotImplementedError("without threads, a call is made when its result is awaited")

    async def cancel(self) -> None:
        pass
