"""The functions of obstore, each of which ends as soon as its caller is cancelled or interrupted.

obstore's blocking functions cannot be interrupted while they wait for a server. Its async ones can, but need an event
loop in their thread, which worker threads do not have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from objrepo.offload import WorkCancelled, WorkItem, cancel_requested, is_cancellable, set_cancellable
from objrepo.range_reader import Buffer
from objrepo.retry import CANCEL_CHECK_INTERVAL

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class CancellableObstore:
    """Those functions of the module obstore that are used here.

    :param obstore: the module.
    """

    def __init__(self, obstore: Any) -> None:
        self._obstore = obstore
        self.exceptions: Any = obstore.exceptions

    def put(self, store: Any, name: str, content: bytes, **options: Any) -> Any:
        """Store an object by one request."""
        return _wait(lambda: self._obstore.put_async(store, name, content, use_multipart=False, **options))

    def upload(self, store: Any, name: str, chunks: Iterable[Buffer], part: int) -> None:
        """Store an object in parts. Those of an upload that is cancelled stay in the store.

        :param chunks: the content. It is read in this thread, and no longer when this has ended.
        :param part: the size of the parts in bytes.
        """
        loop = _Loop()
        content = _Chunks(loop, chunks)
        loop.wait(lambda: self._obstore.put_async(store, name, content, use_multipart=True, chunk_size=part))

    def get(self, store: Any, name: str, **options: Any) -> CancellableResult:
        """Request an object."""
        return CancellableResult(_wait(lambda: self._obstore.get_async(store, name, **options)))

    def head(self, store: Any, name: str) -> Any:
        """Return the size of an object, and when it was stored."""
        return _wait(lambda: self._obstore.head_async(store, name))

    def delete(self, store: Any, names: Any) -> None:
        """Delete objects."""
        _wait(lambda: self._obstore.delete_async(store, names))

    def list(self, store: Any, folder: str | None = None, **options: Any) -> Iterator[Any]:
        """Yield the objects in a folder, page by page."""
        stream = self._obstore.list(store, folder, **options)
        with suppress(StopAsyncIteration):
            while True:
                yield _wait(stream.__anext__)


class CancellableResult:
    """The answer to a request for an object, whose body may not have been received yet.

    :ivar meta: the size of the object, and when it was stored.
    :ivar range: where its first and last byte are in the object.
    """

    def __init__(self, result: Any) -> None:
        self._result = result
        self.meta: Any = result.meta
        self.range: Any = result.range

    def bytes(self) -> Any:
        """Receive the body."""
        return _wait(self._result.bytes_async)


def call_abandonable(function: Callable[[], T]) -> T:
    """Call a function that cannot be cancelled; if its caller is, its thread goes on and its result is dropped.

    :raises WorkCancelled: if the caller is cancelled.
    """
    if not is_cancellable():
        return function()
    item = WorkItem(function, ())
    ended = threading.Event()
    item.when_ended(ended.set)
    threading.Thread(
        target=lambda: [listener() for listener in item.run()], name="objrepo request", daemon=True
    ).start()
    while not ended.wait(CANCEL_CHECK_INTERVAL):
        if cancel_requested():
            item.abandon()
            raise WorkCancelled
    return item.take()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Have what is called count as cancelled after some seconds, and not before, although its caller is."""
    with set_cancellable(_TimeLimit(time.monotonic() + seconds)):
        yield


class _TimeLimit:
    def __init__(self, end: float) -> None:
        self._end = end

    @property
    def cancel_requested(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._end


def _wait(start: Callable[[], Any]) -> Any:
    """Return the result of a future of obstore, as :meth:`_Loop.wait` does."""
    return _Loop().wait(start)


class _Loop:
    """An event loop with only what obstore's futures need.

    It needs no files and no thread, and works where another event loop is running. asyncio's takes twice as long.

    :ivar has_ended: whether nothing waits for it any longer.
    """

    def __init__(self) -> None:
        self._calls: _Calls | None = SimpleQueue()
        self.has_ended: bool = False

    def wait(self, start: Callable[[], asyncio.Future[Any]]) -> Any:
        """Return the result of a future of obstore.

        :param start: starts the request, and returns its future.
        :raises WorkCancelled: if the caller is cancelled; the connection is closed.
        """
        future = self._start(start)
        try:
            while not future.done():
                self._run_next(CANCEL_CHECK_INTERVAL)
                if cancel_requested() and not future.done():
                    raise WorkCancelled
        finally:
            self.has_ended = True
            future.cancel()  # unless it has ended
            while self._run_next(0):
                pass
            self._calls = None
        try:
            return future.result()
        finally:
            del future  # the traceback of its error would keep it, and the content that was sent, until the next gc

    def _start(self, start: Callable[[], asyncio.Future[Any]]) -> asyncio.Future[Any]:
        """Call a function that returns a future of the running loop."""
        import asyncio  # not before it is used: it takes as long as all of this package

        running = asyncio._get_running_loop()  # noqa: SLF001  (for event loops)
        try:  # around both: an interrupt may be raised as soon as it is set
            asyncio._set_running_loop(self)  # type: ignore[arg-type]  # noqa: SLF001
            return start()
        finally:
            asyncio._set_running_loop(running)  # noqa: SLF001

    def _run_next(self, timeout: float) -> bool:
        """Make the next call; return False if there was none in time."""
        assert self._calls is not None, "it waits for one future"
        try:
            function, arguments = self._calls.get(timeout > 0, timeout)
        except Empty:
            return False
        function(*arguments)
        return True

    def create_future(self) -> asyncio.Future[Any]:
        """See :meth:`asyncio.loop.create_future`."""
        import asyncio

        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_soon(self, function: Callable[..., object], *arguments: Any, context: object = None) -> None:
        """See :meth:`asyncio.loop.call_soon`; dropped, with the result that it has, when nothing waits any longer."""
        calls = self._calls
        if calls is not None:
            calls.put((function, arguments))

    call_soon_threadsafe = call_soon

    def get_debug(self) -> bool:
        """See :meth:`asyncio.loop.get_debug`."""
        return False


_Calls = SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]]


class _Chunks:
    """An async iterator over the items of another one, which is advanced by the loop and not in obstore's threads."""

    def __init__(self, loop: _Loop, chunks: Iterable[Buffer]) -> None:
        self._loop = loop
        self._chunks = iter(chunks)

    def __aiter__(self) -> _Chunks:
        return self

    def __anext__(self) -> asyncio.Future[Any]:
        """Return the future of the next item; called by obstore, in its threads."""
        future = self._loop.create_future()
        self._loop.call_soon(self._advance, future)
        return future

    def _advance(self, future: asyncio.Future[Any]) -> None:
        if self._loop.has_ended:
            return
        try:
            future.set_result(next(self._chunks))
        except StopIteration:
            future.set_exception(StopAsyncIteration())
        except Exception as error:  # noqa: BLE001  (obstore aborts the upload, and raises it)
            future.set_exception(error)
