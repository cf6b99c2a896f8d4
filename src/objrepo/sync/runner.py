"""Runs coroutines for callers without an event loop: in place, or in the event loop of another thread."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from weakref import WeakSet

from anyio import CancelScope, Event

from objrepo.errors import RepositoryClosedError, RepositoryError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


class CoroutineRunner(ABC):
    """Runs the coroutines and the async context managers of a repository."""

    @abstractmethod
    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function, wait for its end, and return its result."""

    @abstractmethod
    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> AbstractContextManager[T, Any]:
        """Return an ordinary context manager that enters and leaves an async one."""


class InPlace(CoroutineRunner):
    """For repositories with an ``Inline`` offload: their coroutines never suspend, so one ``send`` runs them whole."""

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function on this thread and return its result.

        :raises RuntimeError: if the coroutine suspends, as only an event loop could resume it.
        """
        coroutine: Any = function(*args)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return cast("T", stop.value)
        error = RuntimeError(f"{function} suspended: without an event loop, no source and no repository can be awaited")
        with suppress(StopIteration):
            coroutine.throw(error)  # the coroutine cleans up as if what it awaits had raised
        raise error

    @contextmanager
    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> Iterator[T]:
        """Return an ordinary context manager that enters and leaves an async one on this thread."""
        value = self.call(context.__aenter__)
        try:
            yield value
        except BaseException as error:
            if not self.call(context.__aexit__, type(error), error, error.__traceback__):
                raise
        else:
            self.call(context.__aexit__, None, None, None)


class ThroughPortal(CoroutineRunner):
    """For all other repositories: their coroutines run in the event loop of a portal's thread.

    An exception that interrupts the waiting thread, such as ``KeyboardInterrupt``, cancels the coroutine and is raised
    once the coroutine has ended. In a process that was forked, every method raises :class:`RepositoryError`.

    :param portal: the portal.
    :param subject: the repository, for error messages.
    """

    def __init__(self, portal: BlockingPortal, subject: object = "the repository") -> None:
        self._portal = portal
        self._subject = subject
        self._process = os.getpid()
        self._is_stopped = False
        _portals.add(portal)

    def stop(self) -> None:
        """Stop the portal. Contexts that are still entered are cancelled: the portal would wait for their end."""
        self._is_stopped = True
        if not self._is_forked:
            self._portal.call(self._portal.stop, True)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call a coroutine function in the portal's loop, wait for its end, and return its result."""
        with self._started(function, *args) as outcome:
            return outcome.result()

    @contextmanager
    def enter(self, context: AbstractAsyncContextManager[T, Any]) -> Iterator[T]:
        """Return an ordinary context manager; a single task of the portal's loop enters and leaves the async one."""
        entered: Future[tuple[T, Event]] = Future()
        failure: BaseException | None = None

        async def hold() -> Any:
            try:
                value = await context.__aenter__()
            except BaseException as error:
                entered.set_exception(error)
                raise
            left = Event()
            entered.set_result((value, left))
            try:
                await left.wait()
            except BaseException as error:
                await context.__aexit__(*_exc_info(error))
                raise
            return await context.__aexit__(*_exc_info(failure))

        def leave(error: BaseException | None) -> Any:
            nonlocal failure
            if self._is_forked:
                return None  # the parent process leaves the context
            if self._is_stopped:
                if error is None:
                    raise self._closed_error()
                return None
            failure = error
            try:
                self._portal.start_task_soon(left.set)
                return outcome.result()
            finally:
                failure = None  # no reference cycle of a traceback and its frames

        with self._started(hold) as outcome:
            value, left = entered.result()
            try:
                yield value
            except BaseException as error:
                if not leave(error):
                    raise
            else:
                leave(None)

    @contextmanager
    def _started(self, function: Callable[..., Awaitable[T]], *args: Any) -> Iterator[Future[T]]:
        """Start a coroutine as a task. If an exception leaves the ``with``, cancel the task and wait for its end.

        Cancelling the future of ``start_task_soon`` is not enough: an interrupt may come before that returns it.
        """
        if self._is_forked:
            raise RepositoryError(
                f"{self._subject} was open when this process was forked, and its event loop runs in the parent process "
                "only: open it after the fork, or create it with `offload=Inline()`"
            )
        if self._is_stopped:
            raise self._closed_error()
        scope: CancelScope | None = None
        abandoned = False
        ended = threading.Event()

        async def run() -> T:
            nonlocal scope
            with CancelScope() as scope:
                try:
                    if not abandoned:
                        return await function(*args)
                finally:
                    ended.set()
            return cast("T", None)  # the caller has left

        try:
            yield self._portal.start_task_soon(run)
        except BaseException:
            abandoned = True
            if scope is not None and not ended.is_set() and not self._is_forked:
                self._portal.start_task_soon(scope.cancel)
                ended.wait()
            raise

    def _closed_error(self) -> RepositoryClosedError:
        return RepositoryClosedError(f"{self._subject} was closed: use it, and what it opened, inside `with`")

    @property
    def _is_forked(self) -> bool:
        return os.getpid() != self._process


def _exc_info(error: BaseException | None) -> Any:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


_portals: Final[WeakSet[BlockingPortal]] = WeakSet()


def _stop_portals() -> None:
    """In a forked child, where the threads of the portals do not exist, have the portals refuse calls at once.

    Else the child would wait for ever when it leaves the ``with`` of a portal, or when it exits.
    """
    for portal in _portals:
        with suppress(Exception):  # a loop may refuse to be told from outside; the portal is marked before that
            InPlace().call(portal.stop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stop_portals)
