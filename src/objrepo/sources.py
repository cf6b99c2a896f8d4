"""What `put` accepts: every kind of source becomes one blocking reader, opened and read on the worker."""

from __future__ import annotations

import inspect
import io
import os
import sys
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar, cast

import anyio

from objrepo.offload import Offload, WorkCancelled, cancel_requested, interruptible
from objrepo.pipe import PIPE_BYTES, Pipe
from objrepo.protocol import BinaryReader, Source

__all__ = (
    "ChainedReader",
    "as_seekable",
    "closing_generator",
    "is_async_source",
    "open_source",
    "plain_source",
    "read_source",
    "read_up_to",
    "require_many",
    "run_with_reader",
    "size_in_memory",
    "write_all",
)

T = TypeVar("T")

_SYNC_EXPECTED: Final = "pass bytes, a path (pathlib.Path), a file that is open in binary mode, or an iterable of bytes"
_BLOCKING: Final = (memoryview, io.IOBase, os.PathLike)
"""Sources that need no event loop; a tuple, as to make a union of types takes longer than to look for it."""

_EXPECTED: Final = (
    "pass bytes, a path (pathlib.Path), a file that is open in binary mode, an anyio or aiofiles handle, "
    "a byte stream, or an iterable or async iterable of bytes"
)


def read_source(source: Source, function: Callable[[BinaryReader], T]) -> T:
    """Call a function with a reader of a source that needs no event loop; blocking."""
    with open_source(source) as reader:
        return function(reader)


async def run_with_reader(
    offload: Offload,
    source: Source,
    function: Callable[[BinaryReader], T],
    put_whole: Callable[[memoryview], Awaitable[T]] | None = None,
) -> T:
    """Have a blocking function read an async source.

    The source is read here, in the caller's task, and piped to the worker through a bounded buffer. When the function
    returns or raises before the source has ended, no more is read from the source.

    :param function: called once with a reader of the bytes; if reading raises, it leaves nothing behind and propagates.
    :param put_whole: awaited instead, with all of the bytes, if these are no more than ``PIPE_BYTES``.
    :return: what the function returns.
    """
    async with closing_generator(source), aclosing(_async_chunks(source)) as chunks:
        if not offload.concurrent:
            return await _spool(chunks, function)
        head, ended = await _gather(chunks)
        if not ended:
            return await _pipe(offload, head, chunks, function)
    content = b"".join(head)
    if put_whole is not None:
        return await put_whole(memoryview(content))
    return await offload.run(function, io.BytesIO(content))


def plain_source(source: Source, is_sync: bool = False) -> Source:
    """Return the source, or the file that an anyio, trio or aiofiles handle wraps.

    :param is_sync: whether the caller has no event loop, for the message.
    :raises TypeError: if it is text or nothing that bytes can be read from; the message says what to pass.
    """
    if type(source) is bytes:  # nothing else to find out, and the most common
        return memoryview(source)
    plain = _unwrapped(source)
    expected = _SYNC_EXPECTED if is_sync else _EXPECTED
    if isinstance(plain, str):
        raise TypeError(f"a source of bytes cannot be a str: encode it, or make a path of it; {expected}")
    if isinstance(plain, io.TextIOBase) or hasattr(plain, "encoding"):
        raise TypeError(f"a source of bytes cannot be a text file: open it in binary mode; {expected}")
    if hasattr(plain, "read") or isinstance(plain, os.PathLike | AsyncIterable):
        return cast("Source", plain)
    with suppress(TypeError):
        return memoryview(cast("bytes", plain))
    if not isinstance(plain, Iterable) or isinstance(plain, Mapping):
        raise TypeError(f"cannot read bytes from {type(source).__name__}: {expected}")
    return plain


def require_many(sources: object) -> None:
    """Refuse what is one source where several are expected.

    :raises TypeError: if it is one.
    """
    if isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike):
        raise TypeError(f"put_many takes an iterable of sources, not one {type(sources).__name__}: use put for it")


def is_async_source(source: Source) -> bool:
    """Say whether reading a plain source needs an event loop."""
    if isinstance(source, _BLOCKING):  # the most common, and what follows takes 3 µs
        return False
    return isinstance(source, AsyncIterable) or inspect.iscoroutinefunction(getattr(source, "read", None))


def size_in_memory(source: Source) -> int:
    """Return how many bytes a plain source holds in memory already."""
    return source.nbytes if isinstance(source, memoryview) else 0


def open_source(source: Source) -> AbstractContextManager[BinaryReader]:
    """Open a plain source that needs no loop, on the worker.

    :return: a context manager for a reader; leaving it closes what it opened and leaves the caller's handles open.
    """
    if isinstance(source, memoryview):
        whole = isinstance(source.obj, bytes) and source.c_contiguous and source.nbytes == len(source.obj)
        return nullcontext(io.BytesIO(source.obj if whole else source.tobytes()))  # `BytesIO` does not copy bytes
    if isinstance(source, os.PathLike):
        return _opened_path(source)
    if hasattr(source, "read"):
        return nullcontext(_BytesReader(cast("BinaryReader", source).read))
    return nullcontext(_BytesReader(IterableReader(cast("Iterable[bytes]", source)).read))


def read_up_to(reader: BinaryReader, size: int) -> bytes:
    """Return the next bytes of a reader: as many as asked for, or all that are left."""
    data = reader.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := reader.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def as_seekable(reader: BinaryReader) -> BinaryIO | None:
    """Return the file behind a reader that begins where the file does and can be read twice, None if it cannot."""
    if isinstance(reader, io.BytesIO):
        return reader
    return reader.file if isinstance(reader, _PathReader) else None


def write_all(file: Any, data: bytes | memoryview) -> None:
    """Write bytes to an unbuffered file, which may take only some of them at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class ChainedReader:
    """A reader of some bytes that were read from another reader, followed by the rest of that one."""

    def __init__(self, head: bytes, reader: BinaryReader) -> None:
        self._head = head
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        if not self._head:
            return self._reader.read(size)
        wanted = len(self._head) if size < 0 else size
        data, self._head = self._head[:wanted], self._head[wanted:]
        return data


@contextmanager
def _opened_path(path: os.PathLike[str]) -> Iterator[BinaryReader]:
    opening = cast("Callable[[], io.FileIO]", partial(open, path, "rb", buffering=0))
    with interruptible(opening) as file:  # a named pipe waits for its writer
        yield _PathReader(file)


def _unwrapped(source: object) -> object:
    """Take the plain file out of an anyio, trio or aiofiles handle: it is read on the worker in one go."""
    if isinstance(source, anyio.AsyncFile):
        return source.wrapped
    wrapped = getattr(source, "wrapped", None)
    if isinstance(wrapped, io.IOBase):
        return wrapped
    aiofiles_base = sys.modules.get("aiofiles.base")
    if aiofiles_base is not None and isinstance(source, aiofiles_base.AsyncBase):
        return cast("Any", source)._file  # noqa: SLF001  (aiofiles has no public name for it)
    return source


def _as_bytes(chunk: object, origin: str) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)  # its owner may write to it again
    raise TypeError(f"the source is not binary: {origin} gave {type(chunk).__name__}, not bytes")


class _BytesReader:
    """A reader that passes on bytes only, and stops between two reads when the caller has been cancelled."""

    def __init__(self, read: Callable[[int], object]) -> None:
        self._read = read

    def read(self, size: int = -1, /) -> bytes:
        if cancel_requested():
            raise WorkCancelled
        return _as_bytes(interruptible(self._read, size), "read()")


class _PathReader(_BytesReader):
    """A reader of a file that was opened for it."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file.read)
        self.file = file


class IterableReader:
    """The chunks of an iterable, read as a file."""

    def __init__(self, chunks: Iterable[object]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            try:
                self._rest = memoryview(_as_bytes(next(self._chunks), "the iterable"))
            except StopIteration:
                return b""
        wanted = len(self._rest) if size < 0 else size
        chunk, self._rest = self._rest[:wanted], self._rest[wanted:]
        return bytes(chunk)


@asynccontextmanager
async def closing_generator(source: object) -> AsyncIterator[None]:
    """Close an async generator that was not read to its end; other sources are their owner's to close."""
    try:
        yield
    finally:
        if inspect.isasyncgen(source):
            await source.aclose()


async def _async_chunks(source: Any) -> AsyncGenerator[bytes, None]:
    if isinstance(source, AsyncIterable):
        async for chunk in source:
            yield _as_bytes(chunk, "the async iterable")
    else:
        while chunk := _as_bytes(await source.read(PIPE_BYTES), "read()"):
            yield chunk


async def _spool(chunks: AsyncIterator[bytes], function: Callable[[BinaryReader], T]) -> T:
    """Gather the bytes, on disk when they are many, and read them then: without threads nothing reads beside."""
    with tempfile.SpooledTemporaryFile(max_size=PIPE_BYTES) as spool:
        async for chunk in chunks:
            spool.write(chunk)
        spool.seek(0)
        return function(spool)


async def _gather(chunks: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
    """Return what comes first, and whether it is all."""
    head: list[bytes] = []
    size = 0
    async for chunk in chunks:
        head.append(chunk)
        size += len(chunk)
        if size > PIPE_BYTES:
            return head, False
    return head, True


async def _pipe(
    offload: Offload, head: list[bytes], chunks: AsyncIterator[bytes], function: Callable[[BinaryReader], T]
) -> T:
    pipe = Pipe(head)
    submitted = await offload.submit(function, pipe)
    reading = True

    def stop_reading() -> None:
        if reading:
            scope.cancel()

    try:
        with anyio.CancelScope() as scope:
            submitted.on_end(stop_reading)  # a source may be slow, or endless
            async for chunk in chunks:
                await pipe.send(chunk)
            pipe.finish()
        reading = False
        return await submitted.result()
    except BaseException:
        pipe.break_off()
        await submitted.cancel()
        raise
