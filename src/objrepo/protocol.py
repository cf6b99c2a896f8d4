"""The vocabulary that users and backends share: what a repository can do, and what a stream of an object can do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from objrepo.reports import MaintenanceReport, ProgressCallback, RepositoryInfo, VerifyReport

if TYPE_CHECKING:
    from anyio.abc import ByteSendStream

__all__ = ("AsyncRepository", "BinaryReader", "ObjectStream", "ObjectWriter", "Source")


class BinaryReader(Protocol):
    """Anything with a blocking ``read`` that returns bytes: an open binary file, a pipe, a ``BytesIO``."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b''`` at the end."""
        ...


Source: TypeAlias = (
    bytes | bytearray | memoryview | os.PathLike[str] | BinaryReader | AsyncIterable[Any] | Iterable[bytes]
)
"""What ``put`` takes: bytes, the path of a file, a binary file (of ``open``, anyio or aiofiles), an anyio byte
stream, or a synchronous or asynchronous iterable of bytes. Files are read from their current position."""


@runtime_checkable
class ObjectStream(Protocol):
    """The bytes of one object, or of a range of it, as a stream for one task at a time.

    It is an :class:`anyio.abc.ByteReceiveStream` that also reads and seeks as a file does. Positions count from the
    start of the range that was opened. Reading is abandoned when it is cancelled: the position stays where it was,
    and reading may go on.
    """

    @property
    def key(self) -> str:
        """The key of the object."""
        ...

    @property
    def size(self) -> int:
        """The length of the stream in bytes: the object's, or that of the range that was opened."""
        ...

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes.

        :param max_bytes: how many at the most; at least 1.
        :return: at least one byte.
        :raises anyio.EndOfStream: at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def read(self, n: int | None = -1) -> bytes:
        """Return exactly ``n`` bytes, or what is left if that is less.

        :param n: how many bytes; None or a negative number reads to the end.
        :return: the bytes, ``b''`` at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a writable buffer.

        :param buffer: where the bytes go; it is not touched if the call is cancelled.
        :return: how many bytes were written to it: its length, or what is left if that is less; 0 at the end.
        :raises RepositoryClosedError: if the stream is closed.
        :raises CorruptObjectError: if the stored bytes are damaged.
        """
        ...

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another position, as files do; a position past the end reads as the end.

        :param offset: bytes relative to ``whence``.
        :param whence: ``os.SEEK_SET``, ``os.SEEK_CUR`` or ``os.SEEK_END``.
        :return: the new position from the start of the stream.
        :raises ValueError: if ``whence`` is unknown.
        :raises io.UnsupportedOperation: (a ``ValueError`` and an ``OSError``) if the position would be negative.
        """
        ...

    async def tell(self) -> int:
        """Return the position in bytes from the start of the stream."""
        ...

    async def aclose(self) -> None:
        """Close the stream and the file behind it. It neither waits nor fails, and may be called again."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class ObjectWriter(Protocol):
    """An object that is written piece by piece, for one task at a time.

    It is entered by ``async with``, and stored when that is left; if the body raises or is cancelled, it is not.
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
        """Write some bytes, and wait while what was written before is still on its way. Memory is bounded.

        After one that was cancelled, it is not known what was written: nothing more can be, and nothing is stored.

        :return: how many bytes there were.
        :raises TypeError: if these are no bytes.
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
    """An object repository for async programs.

    It is used inside ``async with``; entering touches nothing, leaving closes everything that was opened. It may be
    entered by several tasks and loops at a time and is closed when the last of them leaves; it can be entered again.

    **Cancellation.** What changes the repository is waited for: a cancelled ``put`` or ``delete`` has ended when it
    raises, and either did not happen or is complete. What only reads is abandoned: the caller goes on at once, and
    the worker gives back what it holds by itself.

    Every method raises :class:`RepositoryClosedError` outside of ``async with``, and all but ``initialise``,
    ``is_initialised``, ``uuid`` and ``erase`` raise :class:`NotInitialisedError` where there is no repository yet.
    Keys that are not of the repository's format are those of missing objects; keys that are not ``str`` raise
    :class:`TypeError`, except in ``has`` and ``has_many``, which say False.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    async def initialise(self, *args: Any, **options: Any) -> None:
        """Make the repository, or do nothing where it is made already.

        :param args: none: with them a type checker lets each backend name its own options.
        :param options: the backend's own, by name.
        :raises ValueError: if an option is bad or contradicts the repository that is there.
        :raises TypeError: if the backend has no such option.
        """
        ...

    async def is_initialised(self) -> bool:
        """Say whether the repository exists."""
        ...

    async def uuid(self) -> str | None:
        """Return the unique identifier of the repository, None where it has none."""
        ...

    async def key_format(self) -> str:
        """Return what the keys look like: ``'sha256'``, ``'sha1'`` or ``'uuid4'``."""
        ...

    async def put(self, source: Source) -> str:
        """Store one object.

        :param source: where the bytes come from. Only what the source itself opens is closed.
        :return: the key.
        :raises TypeError: if the source is text or nothing that bytes can be read from.
        :raises OSError: if the source cannot be read or the repository cannot be written.

        Whatever the source raises comes out as it is, and nothing is stored. Cancellation is waited for; a source
        that is being copied is given up between two reads.
        """
        ...

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        """Store many objects.

        :param sources: where each object comes from, asked for one after the other as the work goes on.
        :param progress: told now and then how many objects are stored.
        :return: the keys in the order of the sources.
        :raises: what ``put`` raises; objects of the sources before stay stored.
        """
        ...

    def create(self) -> ObjectWriter:
        """Return a writer of a new object: ``async with repo.create() as writer: await writer.write(chunk)``.

        ``writer.key`` is its key afterwards. Nothing is stored when the body raises.
        """
        ...

    async def has(self, key: str) -> bool:
        """Say whether an object is there."""
        ...

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        """Say of each key whether its object is there, in the order given."""
        ...

    async def get(self, key: str, check: bool = False) -> bytes:
        """Return the whole content of an object.

        :param check: whether to compare the content with the key, where keys are hashes.
        :raises ObjectNotFoundError: if there is no such object.
        :raises CorruptObjectError: if its stored bytes are damaged.
        """
        ...

    async def size(self, key: str) -> int:
        """Return the length of an object in bytes.

        :raises ObjectNotFoundError: if there is no such object.
        """
        ...

    async def hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits, whatever the key format.

        :raises ObjectNotFoundError: if there is no such object.
        """
        ...

    def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool = False
    ) -> AbstractAsyncContextManager[ObjectStream]:
        """Open an object for reading.

        :param key: the object.
        :param offset: how many bytes to leave out at the start; past the end, the stream is empty.
        :param length: how many bytes to give at the most; None gives all.
        :param check: whether to compare the content with the key, where keys are hashes, by the time that it was read
            straight to its end: whoever got all of it got the right bytes, or :class:`CorruptObjectError`.
        :return: an async context manager that opens the object and closes it.
        :raises ValueError: if the offset or the length is negative, or if only a range is to be checked.
        :raises ObjectNotFoundError: if there is no such object.
        """
        ...

    async def send_object(self, stream: ByteSendStream, key: str, offset: int = 0, length: int | None = None) -> int:
        """Send an object, or a range of it, into a stream of bytes: a socket, a TLS stream, a pipe of a process.

        Where the system can send a file into a socket by itself, it does. Cancellation leaves the receiver with a part.

        :param stream: where the bytes go; it is not closed.
        :param offset: as for :meth:`open`.
        :param length: likewise.
        :return: how many bytes were sent.
        :raises ObjectNotFoundError: if there is no such object; then nothing was sent.
        :raises anyio.BrokenResourceError: if the receiver is gone.
        """
        ...

    def stream(self, keys: Iterable[str]) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, ObjectStream]]]:
        """Read many objects in the order that is fastest.

        :param keys: the objects; one that is given twice comes once.
        :return: an async context manager for an iterator over keys and streams. A stream lives until the next step.
        :raises ObjectNotFoundError: naming every missing key, on entering.
        """
        ...

    def keys(self) -> AsyncIterator[str]:
        """Iterate over the keys of all objects, each once, in bounded memory.

        Objects that come or go meanwhile may or may not be among them.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete an object.

        :raises ObjectNotFoundError: if there is no such object.
        """
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is given twice is deleted once.

        :raises ObjectNotFoundError: naming every missing key; then nothing was deleted.
        """
        ...

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        """Return the state of the repository.

        :param detailed: whether to sum up the sizes too, which takes longer.
        """
        ...

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        """Do the work that keeps a repository fast and small.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only what is safe is done.
        :param args: none, as in ``initialise``.
        :param options: the backend's own, by name.
        :raises ValueError: if something is asked for that is not safe while the repository is live.
        :raises RepositoryBusyError: if somebody else is at it.
        """
        ...

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        """Read every object back and compare it with its key, where the key is a hash; find what was left behind.

        :param progress: told of each stretch of objects.
        :param quick: whether to look only at whether the bytes are there, and not at what they are.
        :return: what was read and what is damaged. Damage is reported, not raised.
        """
        ...

    async def erase(self) -> None:
        """Delete the repository with every resource that it made. What is not there is no error."""
        ...
