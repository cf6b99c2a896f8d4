"""`create`: an object that is written piece by piece, and stored when the writer is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, NoReturn, Self, cast

from objrepo.errors import RepositoryClosedError, RepositoryError
from objrepo.offload import Offload, Submitted
from objrepo.pipe import Pipe
from objrepo.protocol import BinaryReader, ObjectWriter, Source
from objrepo.with_only import AsyncWithOnly

__all__ = ("Writer",)

_GATHERED_BYTES: Final = 64 * 1024
"""Shorter objects are stored as bytes are, in batches; longer ones are stored while they are written."""

_SPOOL_BYTES: Final = 1024 * 1024


class Writer(AsyncWithOnly):
    """An :class:`~objrepo.protocol.ObjectWriter`.

    :param put: the repository's method.
    :param put_reader: a blocking function that stores the bytes of a reader and returns the key.
    :param offload: where it runs; without concurrency a long object is gathered in a temporary file.
    """

    _usage = "repo.create() as writer"

    def __init__(
        self, put: Callable[[Source], Awaitable[str]], put_reader: Callable[[BinaryReader], str], offload: Offload
    ) -> None:
        self._put = put
        self._put_reader = put_reader
        self._offload = offload
        self._gathered: list[bytes] = []
        self._size = 0
        self._key: str | None = None
        self._entered = self._open = False
        self._pipe: Pipe | None = None
        self._submitted: Submitted[str] | None = None
        self._spool: IO[bytes] | None = None
        self._resources = ExitStack()
        self._error: Exception | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled or copied: give its repository to other processes")

    @property
    def key(self) -> str:
        """The key of the object; see :attr:`ObjectWriter.key`."""
        if self._key is None:
            raise ValueError(
                "there is no key before the object is stored, which happens when the `with` of the writer is left"
            )
        return self._key

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._size

    async def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Write some bytes; see :meth:`ObjectWriter.write`."""
        if not self._open:
            raise RepositoryClosedError("the writer is not open: use `async with repo.create() as writer`")
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
        if self._entered:
            raise RepositoryClosedError("a writer writes one object: create another one")
        self._entered = self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._open = False
        with self._resources:
            try:
                if exc_type is None:
                    await self._finish()
            finally:
                if self._pipe is not None:
                    self._pipe.break_off()
                if self._submitted is not None:
                    await self._submitted.cancel()

    async def _pass_on(self, data: bytes) -> None:
        if not self._offload.concurrent:
            if self._spool is None:
                self._spool = self._resources.enter_context(SpooledTemporaryFile(_SPOOL_BYTES))  # noqa: SIM115
            self._spool.write(data)
            return
        try:
            if self._pipe is None:
                self._pipe = Pipe(())
                self._submitted = await self._offload.submit(self._put_reader, self._pipe)
                self._submitted.on_end(self._pipe.break_off)
            sent = await self._pipe.send(data)
        except BaseException:
            self._error = RepositoryError("a write was cancelled, so nothing is stored")
            raise
        if not sent and self._submitted is not None:  # the backend has returned or failed
            await self._stored()

    async def _stored(self) -> None:
        assert self._submitted is not None, "the pipe was made with it"
        submitted, self._submitted = self._submitted, None
        try:
            self._key = await submitted.result()
        except Exception as error:
            self._error = error
            raise
        except BaseException:
            self._error = RepositoryError("a write was cancelled, and its object may not be stored")
            raise

    async def _finish(self) -> None:
        if self._error is not None:
            raise self._error
        if self._pipe is not None:
            self._pipe.finish()
            if self._submitted is not None:
                await self._stored()
        elif self._spool is not None:
            self._spool.seek(0)
            self._key = await self._put(cast("Source", self._spool))
        else:
            self._key = await self._put(b"".join(self._gathered))


if TYPE_CHECKING:
    _: type[ObjectWriter] = Writer
