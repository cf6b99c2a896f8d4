"""`create`: an object that is written piece by piece, and stored when the writer is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from objrepo.errors import RepositoryClosedError, RepositoryError
from objrepo.protocol import ObjectWriter, Source

__all__ = ("Writer",)

_GATHERED_BYTES: Final = 64 * 1024
"""What is shorter is stored as bytes are, together with others; what is longer is stored while it is written."""

_SPOOL_BYTES: Final = 1024 * 1024


class Writer:
    """An :class:`~objrepo.protocol.ObjectWriter` for any repository.

    :param put: the repository's.
    :param inline: whether there is no event loop, so that nothing happens beside the caller: what is long is gathered
        in a temporary file then.
    """

    def __init__(self, put: Callable[[Source], Awaitable[str]], inline: bool) -> None:
        self._put = put
        self._inline = inline
        self._gathered: list[bytes] = []
        self._size = 0
        self._key: str | None = None
        self._open = False
        self._group: TaskGroup | None = None
        self._pipe: MemoryObjectSendStream[bytes] | None = None
        self._spool: Any = None
        self._error: Exception | None = None

    @property
    def key(self) -> str:
        """The key of the object; see :attr:`ObjectWriter.key`."""
        if self._key is None:
            raise ValueError("there is no key before the object is stored, which it is when `async with` is left")
        return self._key

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._size

    async def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Write some bytes; see :meth:`ObjectWriter.write`."""
        if not self._open:
            raise RepositoryClosedError("the writer is not open: use it inside `async with`")
        if self._error is not None:
            raise self._error
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise TypeError(f"an object is made of bytes, not {type(chunk).__name__}")
        data = bytes(chunk)
        self._size += len(data)
        self._gathered.append(data)
        if self._size > _GATHERED_BYTES:
            data, self._gathered = b"".join(self._gathered), []
            await self._pass_on(data)
        return len(chunk)

    async def __aenter__(self) -> Self:
        if self._open or self._key is not None:
            raise RepositoryClosedError("a writer writes one object: create another one")
        self._open = True
        if not self._inline:
            # Entered here and not when it is needed: cancel scopes of the body end before it does.
            self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._open = False
        try:
            if exc_type is None:
                await self._finish()
        finally:
            try:
                if self._group is not None:
                    self._group.cancel_scope.cancel()  # what is still being stored is not to be
                    # The group is not told of the exception, as it would wrap it into a group of exceptions.
                    await self._group.__aexit__(None, None, None)
            finally:
                for each in (self._pipe, self._spool):
                    if each is not None:
                        each.close()

    async def _pass_on(self, data: bytes) -> None:
        if self._inline:
            if self._spool is None:
                self._spool = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115  (closed when the writer is left)
            self._spool.write(data)
            return
        if self._pipe is None:
            assert self._group is not None, "it was entered"
            self._pipe, chunks = anyio.create_memory_object_stream[bytes]()
            self._stored = anyio.Event()
            self._group.start_soon(self._store, chunks)
        try:
            await self._pipe.send(data)
        except anyio.BrokenResourceError:
            await self._stored.wait()
            assert self._error is not None, "who stores goes on to the end, or fails"
            raise self._error from None
        except BaseException:
            self._error = RepositoryError("a write was cancelled, so that nothing is stored")
            raise

    async def _finish(self) -> None:
        if self._pipe is not None:
            if self._error is None:
                self._pipe.close()
                await self._stored.wait()
            if self._error is not None:
                raise self._error
        elif self._spool is not None:
            self._spool.seek(0)
            self._key = await self._put(cast("Source", self._spool))
        else:
            self._key = await self._put(b"".join(self._gathered))

    async def _store(self, chunks: MemoryObjectReceiveStream[bytes]) -> None:
        try:
            with chunks:
                self._key = await self._put(chunks)
        except Exception as error:  # noqa: BLE001  (it is raised where the writer waits)
            self._error = error
        finally:
            self._stored.set()


if TYPE_CHECKING:
    _: type[ObjectWriter] = Writer
