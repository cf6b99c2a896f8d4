"""The protocols that repositories, streams of objects and writers of objects implement."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from objrepo.reports import MaintenanceReport, ProgressCallback, RepositoryInfo, VerifyReport

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

__all__ = ("AsyncRepository", "BinaryReader", "ObjectStream", "ObjectWriter", "Source", "SyncSource")


class BinaryReader(Protocol):
    """An object with a blocking ``read`` that returns bytes: an open binary file, a pipe, a ``BytesIO``."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b''`` at the end."""
        ...


SyncSource: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | BinaryReader | Iterable[bytes]
"""A source that is read without an event loop: bytes, the path of a file, a binary file, an iterable of bytes."""

Source: TypeAlias = SyncSource | AsyncIterable[Any]
"""What ``put`` takes: bytes, the path of a file, a binary file (of ``open``, anyio or aiofiles), an anyio byte
stream, or a synchronous or asynchronous iterable of bytes. Files are read from their current position."""


@runtime_checkable
class ObjectStream(Protocol):
    """The bytes of one object, or of a range of it, as a stream for one task at a time.

    It is an :class:`anyio.abc.ByteReceiveStream` that also reads and seeks as a file does. Positions count from the
    start of the opened range. A cancelled read is abandoned: the position stays where it was, and the stream can be
    read on.
    """

    @property
    def key(self) -> str:
        """The key of the object."""
        ...

    @property
    def size(self) -> int:
        """The length of the opened range in bytes."""
        ...

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes.

        :param max_bytes: the maximum number of bytes; at least 1.
        :return: at least one byte.
        :raises anyio.EndOfStream: at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def read(self, n: int | None = -1) -> bytes:
        """Return exactly ``n`` bytes, or all that are left if these are fewer.

        :param n: how many bytes; None or a negative number reads to the end.
        :return: the bytes, ``b''`` at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a writable buffer.

        :param buffer: receives the bytes; it is unchanged if the call is cancelled.
        :return: how many bytes were written: the length of the buffer, or fewer at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position, as files do; reading at a position past the end returns ``b''``.

        :param offset: in bytes, relative to ``whence``.
        :param whence: ``os.SEEK_SET``, ``os.SEEK_CUR`` or ``os.SEEK_END``.
        :return: the new position from the start of the range.
        :raises ValueError: if ``whence`` is unknown.
        :raises io.UnsupportedOperation: (a ``ValueError`` and an ``OSError``) if the position would be negative.
        :raises RepositoryClosedError: if the stream is closed.
        """
        ...

    async def tell(self) -> int:
        """Return the position in bytes from the start of the range.

        :raises RepositoryClosedError: if the stream is closed.
        """
        ...

    async def aclose(self) -> None:
        """Close the stream and its file. It neither waits nor fails, and may be called again."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class ObjectWriter(Protocol):
    """A new object that is written piece by piece, by one task at a time.

    ``async with repo.create() as writer`` stores the object when the block is left; if the block raises or is
    cancelled, nothing is stored.
    """

    @property
    def key(self) -> str:
        """The key of the object, once ``async with`` was left.

        :raises ValueError: before that, and if nothing was stored.
        """
        ...

    @property
    def size(self) -> int:
        """How many bytes were written."""
        ...

    async def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Write some bytes; wait while too many earlier ones are not stored yet, so that memory is bounded.

        After a cancelled call it is unknown which bytes were written: further calls fail, and nothing is stored.

        :return: the number of bytes.
        :raises TypeError: if the chunk is not made of bytes.
        :raises OSError: if the repository cannot be written to.
        :raises RepositoryClosedError: outside of ``async with``.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class AsyncRepository(Protocol):
    """An object repository for async programs, on asyncio and trio.

    It is used inside ``async with``. Entering opens nothing; leaving closes every stream, file and connection. Several
    tasks and event loops may have entered it at the same time: it is closed when the last of them leaves, and can be
    entered again.

    **Cancellation.** Operations that change the repository are shielded: when a cancelled ``put`` or ``delete`` raises,
    it has ended, and either did not happen or is complete. Operations that only read are abandoned: the caller
    continues at once, and the worker thread releases its resources by itself. In a bucket, every cancelled operation
    ends within a second, and its last request may have been performed.

    **Errors.** Every method raises :class:`RepositoryClosedError` outside of ``async with``. All methods except
    ``initialise``, ``is_initialised``, ``uuid`` and ``erase`` raise :class:`NotInitialisedError` if the repository does
    not exist. A key that is not of the repository's format names a missing object; a key that is no ``str`` is a
    :class:`TypeError`, except in ``has`` and ``has_many``, which return False. Every method can raise ``OSError`` if
    the storage fails; in a bucket that is :class:`RepositoryUnavailableError` (no answer within the time limit) or
    :class:`AccessDeniedError`.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    async def initialise(self, *args: Any, **options: Any) -> None:
        """Create the repository, or do nothing if it exists. Shielded from cancellation.

        :param args: none; type checkers let each backend have named options of its own with it.
        :param options: the backend's own options.
        :raises ValueError: if an option is invalid or contradicts the existing repository.
        :raises TypeError: if the backend has no such option.
        :raises OSError: if the repository cannot be created.
        """
        ...

    async def is_initialised(self) -> bool:
        """Return whether the repository exists. Abandoned on cancellation.

        :raises OSError: if that cannot be found out.
        """
        ...

    async def uuid(self) -> str | None:
        """Return the unique identifier of the repository, None if it has none. Abandoned on cancellation.

        :raises OSError: if it cannot be read.
        """
        ...

    async def key_format(self) -> str:
        """Return the format of the keys: ``'sha256'``, ``'sha1'`` or ``'uuid4'``. Abandoned on cancellation.

        :raises NotInitialisedError: if the repository does not exist.
        """
        ...

    async def put(self, source: Source) -> str:
        """Store one object.

        Cancellation: shielded; reading the source ends between two reads, and then nothing is stored.

        :param source: the bytes: in memory, in a file (path or open file), or in an iterable or stream, sync or async.
            An open file is read from its current position and stays open.
        :return: the key.
        :raises TypeError: if the source is text or has no bytes to read.
        :raises OSError: if the source cannot be read or the repository cannot be written to.
        :raises RepositoryBusyError: if another process holds a lock that is needed for too long.
        :raises ReadOnlyError: if the repository is read-only.

        An exception of the source is raised unchanged, and nothing is stored.
        """
        ...

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        """Store many objects, in batches.

        Cancellation: shielded; it ends between two objects, and objects that were stored stay.

        :param sources: the objects, which are taken one by one as the work proceeds. Two batches are in memory at most.
        :param progress: called with the number of stored objects.
        :return: the keys in the order of the sources.
        :raises TypeError: as for :meth:`put`; likewise the other errors. The objects of earlier sources stay
            stored, and those of later sources may be stored.
        """
        ...

    def create(self) -> ObjectWriter:
        """Return a writer of a new object: ``async with repo.create() as writer: await writer.write(chunk)``.

        ``writer.key`` is the key afterwards. If the block raises or is cancelled, nothing is stored.

        :return: an async context manager.
        :raises RepositoryClosedError: outside of ``async with repo``.
        """
        ...

    def batch(self) -> AbstractAsyncContextManager[AsyncRepository]:
        """Return a batch: ``async with repo.batch() as batch: key = await batch.put(source)``.

        A batch is a repository whose small objects are stored together when its block is left: then all of them are
        durable and visible to all readers. Until then only the batch has them. If the block raises or is cancelled, or
        the process is killed, they are not stored, and nothing is half-written. Large objects, and those of a
        repository that gains nothing by waiting (memory, sandbox, archive), are stored at once and stay.

        Memory is bounded: a batch stores what it has whenever it has grown past a limit, which is 100,000 objects or
        a full pack on disk, and 4 MiB or 1,000 objects in a bucket. On disk it keeps other processes from rewriting
        the pack that it appends to. Several tasks may use one batch; several batches may be open. A batch in a batch
        is stored with the outer one.

        Cancellation: leaving is shielded while it stores.

        :return: an async context manager of a repository.
        :raises NotInitialisedError: on entering, if the repository does not exist.
        :raises RepositoryBusyError: on leaving, if another process holds a lock that is needed for too long; then
            nothing more is stored. Likewise the other errors of :meth:`put`.
        :raises RepositoryError: on leaving, if an object that the repository already had when it was put was deleted
            meanwhile, not through the batch; then nothing more is stored.
        """
        ...

    async def has(self, key: str) -> bool:
        """Return whether an object exists. Abandoned on cancellation.

        :param key: any value; False if it cannot be a key.
        :raises NotInitialisedError: if the repository does not exist.
        :raises OSError: if the storage fails.
        """
        ...

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        """Return for each key whether its object exists, in the order given. Abandoned on cancellation.

        :param keys: any values; False for each that cannot be a key.
        :raises NotInitialisedError: if the repository does not exist.
        :raises OSError: if the storage fails.
        """
        ...

    async def get(self, key: str, check: bool | None = None) -> bytes:
        """Return the whole content of an object. Abandoned on cancellation.

        :param key: the object.
        :param check: whether to compare the hash of the content with the key, where keys are hashes; None takes the
            default of the repository, which is False unless it was made with ``check=True``.
        :raises ObjectNotFoundError: if the object does not exist.
        :raises CorruptObjectError: if its stored bytes are damaged.
        :raises RepositoryBusyError: if another process locks the index for too long.
        :raises OSError: if it cannot be read.
        """
        ...

    async def size(self, key: str) -> int:
        """Return the length of an object in bytes. Abandoned on cancellation.

        :param key: the object.
        :raises ObjectNotFoundError: if the object does not exist.
        :raises OSError: if that cannot be found out.
        """
        ...

    async def hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits, for every key format. Abandoned on cancellation.

        :param key: the object.
        :raises ObjectNotFoundError: if the object does not exist.
        :raises CorruptObjectError: if the object had to be read and its stored bytes are damaged.
        :raises OSError: if it cannot be read.
        """
        ...

    def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> AbstractAsyncContextManager[ObjectStream]:
        """Open an object for reading: ``async with repo.open(key) as stream``. Abandoned on cancellation.

        :param key: the object.
        :param offset: where the range begins, in bytes; past the end, the stream is empty.
        :param length: the maximum length of the range in bytes; None reads to the end.
        :param check: whether to compare the hash of the content with the key, where keys are hashes; None as for
            :meth:`get`. A stream that is read in sequence raises :class:`CorruptObjectError` at its end at the latest
            if the bytes are not those of the key. A range cannot be compared: the default leaves it unchecked.
        :return: an async context manager, which opens the object and closes it.
        :raises ValueError: on entering, if the offset or length is negative, or if a range is given with
            ``check=True``.
        :raises TypeError: on entering, if one of these is of a wrong type.
        :raises ObjectNotFoundError: on entering, if the object does not exist.
        :raises CorruptObjectError: on entering or while reading, if its stored bytes are damaged.
        :raises RepositoryBusyError: on entering, if another process locks the index for too long.
        :raises OSError: on entering or while reading, if it cannot be read.
        """
        ...

    async def send_object(
        self,
        stream: ByteSendStream,
        key: str,
        offset: int = 0,
        length: int | None = None,
        check: bool | None = None,
    ) -> int:
        """Send an object, or a range of it, to a byte stream: a socket, a TLS stream, a pipe of a process.

        Where the system supports it, a file that is not checked is sent to the socket by ``sendfile``. On cancellation,
        the receiver has received a part.

        :param stream: receives the bytes; it is not closed.
        :param key: the object.
        :param offset: as for :meth:`open`.
        :param length: as for :meth:`open`.
        :param check: as for :meth:`open`. The last bytes of a damaged object are not sent, of a small one none.
        :return: the number of bytes that were sent.
        :raises ValueError: as for :meth:`open`.
        :raises ObjectNotFoundError: if the object does not exist; then nothing was sent.
        :raises CorruptObjectError: if its stored bytes are damaged; then a part may have been sent.
        :raises anyio.BrokenResourceError: if the receiver has closed the stream.
        """
        ...

    def stream(
        self, keys: Iterable[str], check: bool | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, ObjectStream]]]:
        """Read many objects in the order that is fastest: ``async with repo.stream(keys) as objects``.

        Abandoned on cancellation.

        :param keys: the objects; one that is given twice comes once.
        :param check: as for :meth:`open`. A small object is compared before its step returns it.
        :return: an async context manager of an async iterator over keys and streams. Each step closes the stream of the
            step before.
        :raises TypeError: on entering, if a key is no ``str``.
        :raises ObjectNotFoundError: on entering, naming every missing key; in a step, if an object was deleted since.
        :raises CorruptObjectError: in a step, or while reading, if stored bytes are damaged.
        :raises OSError: if an object cannot be read.
        """
        ...

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of all objects, each once, in bounded memory. Abandoned on cancellation.

        Objects that are stored or deleted during the iteration may be included. The iterator needs no closing.

        :raises NotInitialisedError: in a step, if the repository does not exist.
        :raises OSError: in a step, if the storage fails.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete an object. Shielded from cancellation.

        :param key: the object.
        :raises ObjectNotFoundError: if the object does not exist.
        :raises RepositoryBusyError: if another process holds the lock that is needed for too long.
        :raises ReadOnlyError: if the repository is read-only.
        :raises OSError: if the storage fails; the object may be deleted or not.
        """
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects. Shielded from cancellation.

        :param keys: the objects; one that is given twice is deleted once.
        :raises TypeError: if a key is no ``str``.
        :raises ObjectNotFoundError: naming every missing key; then nothing was deleted.
        :raises RepositoryBusyError: if another process holds the lock that is needed for too long; then nothing was
            deleted.
        :raises ReadOnlyError: if the repository is read-only.
        :raises OSError: if the storage fails; then some of the objects may be deleted and others not: ask
            :meth:`has_many` which remain.
        """
        ...

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        """Return the state of the repository. Abandoned on cancellation.

        :param detailed: whether to add up the sizes too, which takes longer.
        :raises NotInitialisedError: if the repository does not exist.
        :raises OSError: if the storage fails.
        """
        ...

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        """Do the work that keeps a repository fast and small.

        Cancellation: shielded; the work ends between two steps.

        :param dry_run: whether to report only what would be done.
        :param live: whether others may be using the repository; then only safe work is done.
        :param args: none, as for :meth:`initialise`.
        :param options: the backend's own options.
        :return: what was done, or with ``dry_run`` would be done.
        :raises ValueError: if work is requested that is not safe while the repository is live.
        :raises TypeError: if the backend has no such option.
        :raises RepositoryBusyError: if another process is maintaining the repository.
        :raises OSError: if the storage fails.
        """
        ...

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        """Read every object and compare its hash with its key, where keys are hashes. Abandoned on cancellation.

        :param progress: called after each batch of objects.
        :param quick: whether to check only that the bytes exist, without reading them.
        :return: what was read, what is damaged or unreadable, and what interrupted operations have left behind.
        :raises NotInitialisedError: if the repository does not exist.
        :raises OSError: if the storage fails as a whole. Damage to single objects is reported and not raised.
        """
        ...

    async def erase(self) -> None:
        """Delete the repository and every resource that it created. It need not exist. Shielded from cancellation.

        :raises OSError: if it cannot be deleted; calling this again continues.
        """
        ...
