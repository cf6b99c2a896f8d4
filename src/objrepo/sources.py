"""What `put` takes in: every kind of source becomes one blocking reader, opened and read on the worker."""

from __future__ import annotations

import inspect
import io
import os
import sys
import tempfile
import threading
from collections import deque
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
from typing import Any, BinaryIO, Final, TypeVar, cast

import anyio
import anyio.lowlevel

from objrepo.offload import Inline, Offload, WorkCancelled, call_soon, cancel_requested
from objrepo.protocol import BinaryReader, Source

__all__ = (
    "ChainedReader",
    "as_seekable",
    "checked_source",
    "closing_generator",
    "feed",
    "is_async_source",
    "open_source",
    "read_up_to",
    "size_in_memory",
    "write_all",
)

T = TypeVar("T")

PIPE_BYTES: Final = 1024 * 1024
"""How much of an async source may wait for the worker; a source that is smaller still travels in one hop."""

_EXPECTED: Final = (
    "pass bytes, a path (pathlib.Path), a file that is open in binary mode, an anyio or aiofiles handle, "
    "a byte stream, or an iterable or async iterable of bytes"
)


async def feed(
    offload: Offload,
    source: Source,
    function: Callable[[BinaryReader], T],
    put_short: Callable[[memoryview], Awaitable[T]] | None = None,
    short_bytes: int = 0,
) -> T:
    """Have a blocking function read a source.

    What lies in files and in memory is read on the worker, in one hop. An async source is read here, in the
    caller's task, and piped to the worker through a bounded buffer.

    :param function: called once with a reader that gives the bytes of the source; if reading raises, it must leave
        nothing behind and let the error out.
    :param put_short: awaited instead, with all of it, if an async source ends within ``short_bytes``.
    :return: what the function returns.
    :raises TypeError: if the source is nothing that bytes can be read from.
    """
    source = checked_source(source)
    if not is_async_source(source):
        return await offload.run(_consume, source, function)
    async with closing_generator(source), aclosing(_async_chunks(source)) as chunks:
        if isinstance(offload, Inline):
            return await _spool(chunks, function)
        head, ended = await _gather(chunks)
        if not ended:
            return await _pipe(offload, head, chunks, function)
    content = b"".join(head)
    if put_short is not None and len(content) <= short_bytes:
        return await put_short(memoryview(content))
    return await offload.run(function, io.BytesIO(content))


def checked_source(source: Source) -> Source:
    """Return the source with what is wrapped around a plain file taken off.

    :raises TypeError: if it is text or nothing that bytes can be read from; the message says what to pass.
    """
    if type(source) is bytes:  # nothing else to find out, and the most common
        return memoryview(source)
    plain = _unwrapped(source)
    if isinstance(plain, str):
        raise TypeError(f"a source of bytes cannot be a str: encode it, or make a path of it; {_EXPECTED}")
    if isinstance(plain, io.TextIOBase) or hasattr(plain, "encoding"):
        raise TypeError(f"a source of bytes cannot be a text file: open it in binary mode; {_EXPECTED}")
    if hasattr(plain, "read") or isinstance(plain, os.PathLike | AsyncIterable):
        return cast("Source", plain)
    with suppress(TypeError):
        return memoryview(cast("bytes", plain))
    if not isinstance(plain, Iterable) or isinstance(plain, Mapping):
        raise TypeError(f"cannot read bytes from {type(source).__name__}: {_EXPECTED}")
    return plain


def is_async_source(source: Source) -> bool:
    """Say whether reading a checked source needs an event loop."""
    return isinstance(source, AsyncIterable) or inspect.iscoroutinefunction(getattr(source, "read", None))


def size_in_memory(source: Source) -> int:
    """Return how many bytes a checked source holds in memory already."""
    return source.nbytes if isinstance(source, memoryview) else 0


def open_source(source: Source) -> AbstractContextManager[BinaryReader]:
    """Open a checked source that needs no loop, on the worker.

    :return: a context manager for a reader; leaving it closes what it opened and leaves the caller's handles open.
    """
    if isinstance(source, memoryview):
        whole = isinstance(source.obj, bytes) and source.c_contiguous and source.nbytes == len(source.obj)
        return nullcontext(io.BytesIO(source.obj if whole else source.tobytes()))  # `BytesIO` does not copy bytes
    if isinstance(source, os.PathLike):
        return _opened_path(source)
    if hasattr(source, "read"):
        return nullcontext(_Checked(cast("BinaryReader", source).read))
    return nullcontext(_Checked(IterableReader(cast("Iterable[bytes]", source)).read))


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
    return reader.file if isinstance(reader, _Path) else None


def write_all(file: Any, data: bytes | memoryview) -> None:
    """Write bytes to an unbuffered file, which may take only some of them at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class ChainedReader:
    """A reader that gives some bytes, which were read from another one before, and then what that one gives."""

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


def _consume(source: Source, function: Callable[[BinaryReader], T]) -> T:
    with open_source(source) as reader:
        return function(reader)


@contextmanager
def _opened_path(path: os.PathLike[str]) -> Iterator[BinaryReader]:
    with open(path, "rb", buffering=0) as file:
        yield _Path(file)


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
        return bytes(chunk)  # whoever made it may write to it again
    raise TypeError(f"the source is not binary: {origin} gave {type(chunk).__name__}, not bytes")


class _Checked:
    """A reader that passes on bytes only, and stops between two reads when the caller has been cancelled."""

    def __init__(self, read: Callable[[int], object]) -> None:
        self._read = read

    def read(self, size: int = -1, /) -> bytes:
        if cancel_requested():
            raise WorkCancelled
        return _as_bytes(self._read(size), "read()")


class _Path(_Checked):
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
    """Without a worker there is nobody to pipe to: gather first, on disk when it is much, and read then."""
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
    pipe = _Pipe(head, sum(map(len, head)))
    results: list[T] = []
    errors: list[Exception] = []

    async def consume() -> None:
        try:
            results.append(await offload.run(function, pipe))
        except Exception as error:  # noqa: BLE001  (it is raised below, on its own)
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            pipe.break_off()

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        try:
            async for chunk in chunks:
                await pipe.send(chunk)
            pipe.finish()
        except Exception as error:  # noqa: BLE001  (likewise)
            errors.insert(0, error)
        finally:
            pipe.break_off()
    if errors:
        raise errors[0]
    return results[0]


class _Pipe:
    """Chunks on their way from a task to a worker; the task waits while too much of it is under way."""

    def __init__(self, chunks: Iterable[bytes], size: int) -> None:
        self._chunks = deque(memoryview(chunk) for chunk in chunks)
        self._size = size
        self._changed = threading.Condition()
        self._finished = False
        self._broken = False
        self._token = anyio.lowlevel.current_token()
        self._space: anyio.Event | None = None

    async def send(self, chunk: bytes) -> None:
        """Hand a chunk to the worker, once there is space for it."""
        while True:
            with self._changed:
                if self._size < PIPE_BYTES or self._broken:
                    self._chunks.append(memoryview(chunk))
                    self._size += len(chunk)
                    self._changed.notify()
                    return
                space = self._space = anyio.Event()
            await space.wait()

    def finish(self) -> None:
        """Say that all is sent."""
        with self._changed:
            self._finished = True
            self._changed.notify()

    def break_off(self) -> None:
        """Say that no more is coming; unless it was finished before, the worker's read fails."""
        with self._changed:
            self._broken = True
            self._changed.notify()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, on the worker; a negative size returns what has arrived."""
        with self._changed:
            while not self._chunks and not self._finished and not self._broken:
                self._changed.wait()
            if self._broken and not self._finished:
                raise WorkCancelled
            data = b"".join(self._take(self._size if size < 0 else size))
            self._size -= len(data)
            space = None
            if self._size <= PIPE_BYTES // 2:
                space, self._space = self._space, None
        if space is not None:
            call_soon(self._token, space.set)
        return data

    def _take(self, size: int) -> Iterator[memoryview]:
        while size > 0 and self._chunks:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            size -= len(chunk)
            yield chunk
