"""A blocking call and its result, which is either taken by its caller or discarded, exactly once."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import anyio.lowlevel

T = TypeVar("T")

_log: Final = logging.getLogger("objrepo")

_sniffio: Final[Any] = sys.modules.get("sniffio")
"""Where anyio notes which loop runs; anyio has imported it if it is installed."""


class WorkCancelled(Exception):  # noqa: N818  (no caller catches it: it only unwinds a worker's call)
    """Raised in a worker thread to unwind a call whose caller has been cancelled."""


_PENDING, _RUNNING, _ENDED = range(3)


class PendingResult(Generic[T]):
    """A result that one thread produces and that a caller takes or abandons.

    :param discard: called once with the result if the caller has abandoned it.
    :ivar cancel_requested: whether the caller has abandoned it.
    """

    def __init__(self, discard: Callable[[T], object] | None = None) -> None:
        self._discard = discard
        self._lock = threading.Lock()
        self._state = _PENDING
        self._result: T | None = None
        self._error: BaseException | None = None
        self._listeners: list[Callable[[], object]] = []
        self.cancel_requested: bool = False

    def begin(self) -> bool:
        """Note that a thread begins to produce it; return False if that is not to be done, or done already."""
        with self._lock:
            if self._state is not _PENDING:
                return False
            self._state = _RUNNING
            return True

    def end(self, result: T | None, error: BaseException | None = None) -> list[Callable[[], object]]:
        """Store the result, or discard it; return the listeners, which the caller of this is to call."""
        with self._lock:
            self._state = _ENDED
            abandoned = self.cancel_requested
            if not abandoned:
                self._result, self._error = result, error
            listeners, self._listeners = self._listeners, []
        if abandoned and error is None:
            self._discard_result(cast("T", result))
        return listeners

    def abandon(self) -> bool:
        """Give up the result, and ask for an early stop; return whether it is being produced at this moment."""
        with self._lock:
            self.cancel_requested = True
            if self._state is _RUNNING:
                return True
            unused = self._state is _ENDED and self._error is None
            self._state = _ENDED
            result, self._result = self._result, None
        if unused:
            self._discard_result(cast("T", result))
        return False

    def take(self) -> T:
        """Return the result, or raise the error; once, after it has ended."""
        error, self._error = self._error, None
        result, self._result = self._result, None
        if error is None:
            return cast("T", result)
        try:
            raise error
        finally:
            del error  # its own traceback would keep it alive

    def when_ended(self, listener: Callable[[], object]) -> bool:
        """Have a function called, in any thread, when it has ended; return True if it has ended already."""
        with self._lock:
            if self._state is _ENDED:
                return True
            self._listeners.append(listener)
            return False

    def _discard_result(self, result: T) -> None:
        if self._discard is not None:
            try:
                self._discard(result)
            except Exception:  # noqa: BLE001  (the thread goes on to its next call)
                _log.exception("the result of a cancelled call could not be discarded")


class WorkItem(PendingResult[T]):
    """A blocking call, in a copy of its caller's context."""

    def __init__(
        self, function: Callable[..., T], args: tuple[Any, ...], discard: Callable[[T], object] | None = None
    ) -> None:
        super().__init__(discard)
        self._call = (function, args, copy_context())

    def run(self) -> list[Callable[[], object]]:
        """Call the function unless that was done or the caller has left; return the listeners to be called."""
        if not self.begin():
            return []
        function, args, context = self._call
        del self._call  # nothing is kept alive longer than necessary: a thread keeps its last item until the next
        try:
            result = context.run(function, *args)
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is taken)
            return self.end(None, error)
        finally:
            del function, args, context
        return self.end(result)

    def result(self) -> T:
        """Wait for the call, blocking; return its result or raise its error."""
        ended = threading.Event()
        if not self.when_ended(ended.set):
            ended.wait()
        return self.take()

    def cancellable(self) -> WorkItem[T]:
        """Have the function see, by :func:`cancel_requested`, whether this item was abandoned."""
        _, _, context = self._call
        context.run(_enter_worker, self)
        return self


class Cancellable(Protocol):
    """What :func:`cancel_requested` asks."""

    @property
    def cancel_requested(self) -> bool:
        """Whether the caller has been cancelled."""
        ...


@contextmanager
def set_cancellable(cancellable: Cancellable) -> Iterator[None]:
    """Have :func:`cancel_requested` ask an object."""
    token = _current.set(cancellable)
    try:
        yield
    finally:
        _current.reset(token)


def _enter_worker(item: WorkItem[Any]) -> None:
    _current.set(item)
    if _sniffio is not None:
        _sniffio.current_async_library_cvar.set(None)  # no loop runs in a worker: a source may start its own


_current: Final[ContextVar[Cancellable | None]] = ContextVar("objrepo_work_item", default=None)


def cancel_requested() -> bool:
    """Say, inside a blocking function, whether its caller has been cancelled.

    A long function asks regularly and raises :class:`WorkCancelled` where it can stop with nothing half-done. In the
    threads of a :class:`~objrepo.offload.BlockingPool` it says what it says in the function that submitted the call.
    """
    item = _current.get()
    return item is not None and item.cancel_requested


def is_cancellable() -> bool:
    """Say, inside a blocking function, whether its caller can be cancelled while it runs."""
    return _current.get() is not None


def call_soon(token: anyio.lowlevel.EventLoopToken, function: Callable[[], object]) -> None:
    """Have an event loop call a function, from any thread and without waiting for it.

    :param token: the loop's ``anyio.lowlevel.current_token()``. If that loop has ended, nothing is called.
    """
    schedule_in(token.native_token, function)


def schedule_in(loop: Any, function: Callable[[], object]) -> bool:
    """Have an event loop, as asyncio or trio has it, call a function; return False if that loop has ended."""
    schedule = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
    try:
        schedule(function)
    except RuntimeError:  # what both kinds of loops raise when they have ended
        return False
    return True
