"""What `open` returns: the bytes of an object as a stream, over a blocking file."""

from __future__ import annotations

import io
import operator
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self
from weakref import ref

import anyio
from anyio.abc import ByteReceiveStream

from objrepo.errors import CorruptObjectError, RepositoryClosedError, RepositoryError, with_path
from objrepo.offload import cancel_requested
from objrepo.protocol import ObjectStream
from objrepo.reports import note_read
from objrepo.sources import read_up_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from objrepo.offload import Offload

__all__ = (
    "BATCH_BYTES",
    "BATCH_OBJECTS",
    "CHUNK_BYTES",
    "MAX_BATCHED_OBJECT_BYTES",
    "BackendStream",
    "DecompressingFile",
    "ObjectIterator",
    "OpenStreams",
    "OpenedObject",
    "RangeHandle",
    "checked_range",
    "close_all",
    "fill_batch",
    "next_objects",
    "open_range",
)

CHUNK_BYTES: Final = 256 * 1024
"""An object of up to this size is opened, read and closed in one thread call."""

BATCH_OBJECTS: Final = 256
"""How many objects one thread call handles at the most."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""After how many bytes no more objects are added to a batch."""

MAX_BATCHED_OBJECT_BYTES: Final = 64 * 1024
"""Objects of up to this size may be stored in batches."""

_AHEAD_AT_LEAST: Final = 64 * 1024
_AHEAD_AT_MOST: Final = 1024 * 1024


class RangeHandle:
    """The open file of an object, or a range of it; worker threads read it, any thread may close it at any time.

    :param key: the object, for messages.
    :param file: a seekable binary file; the handle closes it.
    :param start: where in the file the range begins, in bytes.
    :param size: the length of the range in bytes.
    """

    def __init__(self, key: str, file: BinaryIO, start: int, size: int) -> None:
        self._key = key
        self._file = file
        self._start = start
        self._size = size
        self._reading = threading.Lock()
        self.closed: bool = False

    def read_at(self, position: int, size: int) -> bytes:
        """Return exactly ``size`` bytes from a position in the range; blocking.

        :raises RepositoryClosedError: if the handle was closed.
        :raises CorruptObjectError: if the file has less than that.
        """
        with self._in_use():
            return self._read(position, size)

    def close(self) -> None:
        """Close the file, at once or, if a worker thread is using it, as soon as that has ended. Never blocks."""
        self.closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._file.close()
            finally:
                self._reading.release()

    def descriptor(self) -> tuple[int, int] | None:
        """Return a descriptor of the file for the caller, who closes it, and where the range begins in it; blocking.

        :return: None if the object is stored in another form, such as compressed.
        """
        with self._in_use():
            try:
                return os.dup(self._file.fileno()), self._start
            except (AttributeError, io.UnsupportedOperation):
                return None

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            with self._reading:
                if self.closed:
                    raise stream_closed(self._key)
                yield
        finally:
            if self.closed:  # checked after the lock is free, so that one of the two threads always closes
                self.close()

    def _read(self, position: int, size: int) -> bytes:
        with with_path(getattr(self._file, "name", None), self._key):
            self._file.seek(self._start + position)
            data = read_up_to(self._file, size)
        if len(data) < size:
            raise CorruptObjectError(self._key, f"its bytes end after {position + len(data)} of {self._size}")
        return data


class DecompressingFile:
    """A file that is decompressed as it is read, and raises errors that name the damaged object.

    :param file: the decompressing file; it can ``seek`` and ``read``.
    :param errors: the exceptions that it raises for bytes that it cannot decompress.
    :param close: closes the compressed file.
    """

    def __init__(self, key: str, file: Any, errors: tuple[type[Exception], ...], close: Callable[[], object]) -> None:
        self._key = key
        self._file = file
        self._errors = errors
        self._close = close

    def seek(self, position: int) -> int:
        """Change the position."""
        return int(self._translated(self._file.seek, position))

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        return bytes(self._translated(self._file.read, size))

    def close(self) -> None:
        """Close the compressed file."""
        self._close()

    def _translated(self, function: Any, argument: int) -> Any:
        try:
            return function(argument)
        except self._errors as error:
            raise CorruptObjectError(self._key, f"it cannot be decompressed: {error}") from error


def checked_range(offset: int, length: int | None) -> tuple[int, int | None]:
    """Return a range of bytes as integers.

    :raises TypeError: if one of the two is no integer.
    :raises ValueError: if one is negative.
    """
    return _not_negative("offset", offset), None if length is None else _not_negative("length", length)


def _not_negative(name: str, value: int) -> int:
    value = operator.index(value)
    if value < 0:
        raise ValueError(f"{name} must not be negative: {value}")
    return value


class OpenedObject(NamedTuple):
    """An object as a backend opens it: all bytes of a small one, else the first ones and an open handle.

    :ivar key: its key.
    :ivar size: the length of the opened range in bytes.
    :ivar head: all bytes of the range, or the first ones.
    :ivar handle: reads the rest; None if the head is all.
    """

    key: str
    size: int
    head: bytes
    handle: RangeHandle | None

    def close(self) -> None:
        """Close the handle, if there is one."""
        if self.handle is not None:
            self.handle.close()


def open_range(
    key: str, file: BinaryIO, size: int, offset: int = 0, length: int | None = None, *, start: int = 0
) -> OpenedObject:
    """Return an opened object for an open file, with its first chunk; blocking.

    :param file: a seekable binary file; it is closed here if the range is small or if reading fails.
    :param size: the length of the object in bytes.
    :param offset: where the range begins in the object.
    :param length: how long the range is at the most; None reaches to the end.
    :param start: where the object begins in the file.
    """
    offset = min(offset, size)
    length = size - offset if length is None else min(length, size - offset)
    handle = RangeHandle(key, file, start + offset, length)
    try:
        head = handle.read_at(0, min(length, CHUNK_BYTES)) if length else b""
    except BaseException:
        handle.close()
        raise
    if len(head) == length:
        handle.close()
        return OpenedObject(key, length, head, None)
    return OpenedObject(key, length, head, handle)


class OpenStreams:
    """The streams of a repository that are open, so that leaving the repository closes them.

    It does not keep them alive: one that an interrupt kept from being handed over is closed with its file.
    """

    def __init__(self) -> None:
        self._open: set[ref[BackendStream | ObjectIterator]] = set()  # `copy` is atomic, unlike that of a `WeakSet`

    def __len__(self) -> int:
        """Return how many of them hold a file."""
        return sum(stream.holds_file for stream in self._alive())

    def add(self, stream: BackendStream | ObjectIterator) -> None:
        """Add a stream."""
        self._open.add(ref(stream, self._open.discard))

    def discard(self, stream: BackendStream | ObjectIterator) -> None:
        """Remove a stream, if it is one of them."""
        self._open.discard(ref(stream))

    def close(self) -> None:
        """Close them all."""
        for stream in self._alive():
            stream.close()

    def _alive(self) -> list[BackendStream | ObjectIterator]:
        return [stream for each in self._open.copy() if (stream := each()) is not None]


class BackendStream(ByteReceiveStream):
    """An :class:`~objrepo.protocol.ObjectStream` that fetches a chunk with each call to a worker thread.

    Bytes that are in memory already are returned without suspending.
    """

    _chunk_start = 0
    _position = 0
    _ahead = CHUNK_BYTES
    _guard: anyio.ResourceGuard | None = None  # made when it is needed, which for small objects is never
    _closed = False

    def __init__(self, opened: OpenedObject, offload: Offload, open_streams: OpenStreams | None = None) -> None:
        self._key, self._size, self._chunk, self._handle = opened
        self._offload = offload
        self._open_streams = open_streams
        if open_streams is not None:
            open_streams.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self._position}"
        return f"<{type(self).__name__} of {self._key}, {self._size} bytes, {state}>"

    @property
    def key(self) -> str:
        """The key of the object."""
        return self._key

    @property
    def size(self) -> int:
        """The length of the stream in bytes."""
        return self._size

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes, at least one; see :meth:`ObjectStream.receive`."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        self._check_open()
        if self._position >= self._size:
            raise anyio.EndOfStream
        if not self._in_chunk():
            await self._fetch(1)
        return self._take(min(max_bytes, self._in_chunk()))

    async def read(self, n: int | None = -1) -> bytes:
        """Return exactly ``n`` bytes, or what is left; see :meth:`ObjectStream.read`."""
        self._check_open()
        left = max(self._size - self._position, 0)
        wanted = left if n is None or (n := operator.index(n)) < 0 else min(n, left)
        if wanted > self._in_chunk():
            await self._fetch(wanted)
        return self._take(wanted)

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a writable buffer; see :meth:`ObjectStream.readinto`."""
        with memoryview(buffer).cast("B") as view:
            if view.readonly:
                raise TypeError(f"cannot read into a read-only {type(buffer).__name__}: pass a bytearray")
            data = await self.read(len(view))
            view[: len(data)] = data
        return len(data)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position; see :meth:`ObjectStream.seek`."""
        self._check_open()
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in origins:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        position = origins[whence] + operator.index(offset)
        if position < 0:
            raise io.UnsupportedOperation(f"negative seek position {position}")
        self._position = position
        return position

    async def tell(self) -> int:
        """Return the position in bytes from the start of the stream."""
        self._check_open()
        return self._position

    async def aclose(self) -> None:
        """Close the stream and its file; see :meth:`ObjectStream.aclose`."""
        self.close()

    def close(self) -> None:
        """Close the stream and its file, from any thread and without an event loop."""
        self._closed = True
        self._chunk = b""
        if self._handle is not None:
            self._handle.close()
        if self._open_streams is not None:
            self._open_streams.discard(self)

    @property
    def holds_file(self) -> bool:
        """Whether a file is open for the stream."""
        return self._handle is not None and not self._closed

    def descriptor(self) -> tuple[int, int] | None:
        """Return a descriptor of its file, and where it begins there; see :meth:`RangeHandle.descriptor`."""
        return None if self._handle is None else self._handle.descriptor()

    def _check_open(self) -> None:
        if self._closed:
            raise stream_closed(self._key)

    def _in_chunk(self) -> int:
        """Return how many of the bytes from here on are in memory."""
        inside = self._position - self._chunk_start
        return max(len(self._chunk) - inside, 0) if inside >= 0 else 0

    def _take(self, size: int) -> bytes:
        inside = self._position - self._chunk_start
        data = self._chunk[inside : inside + size]
        self._position += size
        if self._handle is not None and inside + size >= len(self._chunk):
            self._chunk, self._chunk_start = b"", self._position  # bytes that were returned are not kept
        return data

    async def _fetch(self, wanted: int) -> None:
        """Fetch at least ``wanted`` bytes from the position on; more, the longer reading is sequential."""
        assert self._handle is not None, "the chunk of a stream without a handle is the whole object"
        if self._guard is None:
            self._guard = anyio.ResourceGuard("reading from")
        with self._guard:
            kept = self._chunk[self._position - self._chunk_start :] if self._in_chunk() else b""
            sequential = bool(kept) or self._position == self._chunk_start + len(self._chunk)
            self._ahead = min(self._ahead * 2, _AHEAD_AT_MOST) if sequential else _AHEAD_AT_LEAST
            start = self._position + len(kept)
            # A caller that reads large pieces gets no read-ahead, which would only take memory.
            ahead = self._ahead if wanted < CHUNK_BYTES else 0
            size = min(max(wanted, ahead) - len(kept), self._size - start)
            data = await self._offload.run(self._handle.read_at, start, size, abandon_on_cancel=True)
            self._check_open()  # it may have been closed meanwhile
            self._chunk, self._chunk_start = kept + data, self._position
            note_read(self._key, start + size, self._size)


class ObjectIterator:
    """The objects of ``stream``, a batch with each thread call; each step closes the stream of the step before.

    :param items: the objects, in the form that ``open_batch`` takes.
    :param open_batch: a blocking function that opens some of the items it is given, from the first on.
    """

    def __init__(
        self,
        items: Sequence[Any],
        open_batch: Callable[[Sequence[Any]], list[OpenedObject]],
        offload: Offload,
        open_streams: OpenStreams,
    ) -> None:
        self._items = items
        self._next = 0
        self._open_batch = open_batch
        self._offload = offload
        self._batch: list[OpenedObject] = []
        self._stream: BackendStream | None = None
        self._closed = False
        self._guard = anyio.ResourceGuard("reading from")
        self._open_streams = open_streams
        open_streams.add(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, ObjectStream]:
        await self._fill()
        if not self._batch:
            raise StopAsyncIteration
        opened = self._batch.pop()
        self._stream = BackendStream(opened, self._offload)
        return opened.key, self._stream

    async def small_objects(self) -> list[OpenedObject]:
        """Return the next objects as far as they are in memory; none if the next one is not."""
        await self._fill()
        batch = self._batch[::-1]
        handles = [opened.handle is not None for opened in batch]
        end = handles.index(True) if True in handles else len(batch)
        self._batch = self._batch[: len(batch) - end]
        return batch[:end]

    async def _fill(self) -> None:
        self._require_open()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if not self._batch and self._next < len(self._items):
            wanted = self._items[self._next : self._next + BATCH_OBJECTS]
            with self._guard:
                batch = await self._offload.run(self._open_batch, wanted, abandon_on_cancel=True, discard=close_all)
            if self._closed:  # meanwhile
                close_all(batch)
                self._require_open()
            self._next += len(batch)
            self._batch = batch[::-1]

    def _require_open(self) -> None:
        if self._closed:
            raise RepositoryClosedError("the stream of objects is closed: read inside its `with`")

    @property
    def holds_file(self) -> bool:
        """Whether a file is open for one of the objects."""
        return bool(self._batch and self._batch[0].handle) or (self._stream is not None and self._stream.holds_file)

    def close(self) -> None:
        """Close everything that is open, from any thread."""
        self._closed = True
        batch, self._batch = self._batch, []
        close_all(batch)
        if self._stream is not None:
            self._stream.close()
        self._open_streams.discard(self)


async def next_objects(
    objects: AsyncIterator[tuple[str, ObjectStream]], whole_bytes: int
) -> tuple[list[OpenedObject], ObjectStream | None, Exception | None]:
    """Return the next small objects of a ``stream``, and the large object or the error that follows them.

    :param whole_bytes: objects of up to this size are small, and larger ones that are in memory already.
    """
    if isinstance(objects, ObjectIterator) and (whole := await objects.small_objects()):
        return whole, None, None
    small: list[OpenedObject] = []
    size = 0
    try:
        async for key, stream in objects:
            if stream.size > whole_bytes:
                return small, stream, None
            small.append(OpenedObject(key, stream.size, await stream.read(), None))
            size += stream.size
            if len(small) == BATCH_OBJECTS or size >= BATCH_BYTES:
                break
    except Exception as error:  # noqa: BLE001  (raised after the objects before it)
        return small, None, error
    return small, None, None


def fill_batch(opening: Iterable[list[OpenedObject]]) -> list[OpenedObject]:
    """Return opened objects, from the first on, until there are enough or one is too large to be held as a whole.

    An error ends the batch and is dropped, unless the batch is empty: it recurs when its object is the first one.

    :param opening: opens some more objects with each step.
    """
    batch: list[OpenedObject] = []
    size = 0
    try:
        for opened in opening:
            batch += opened
            size += sum(len(each.head) for each in opened)
            if batch[-1].handle is not None or size >= BATCH_BYTES or cancel_requested():
                break
    except (RepositoryError, OSError):
        if not batch:
            raise
    except BaseException:
        close_all(batch)
        raise
    return batch


def close_all(batch: Iterable[OpenedObject]) -> None:
    """Close opened objects."""
    for opened in batch:
        opened.close()


def stream_closed(key: str) -> RepositoryClosedError:
    """Return the error of using a closed stream."""
    return RepositoryClosedError(f"the stream of object {key!r} is closed: read inside its `with`")


if TYPE_CHECKING:
    _: type[ObjectStream] = BackendStream
