"""Objects as binary files, for `io`, `zipfile`, numpy and other code that reads files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from objrepo.errors import RepositoryClosedError

if TYPE_CHECKING:
    from objrepo.protocol import ObjectStream
    from objrepo.sync.runner import CoroutineRunner

WHOLE_BYTES: Final = 64 * 1024
"""Objects up to this size are read whole when they are opened."""


def object_reader(runner: CoroutineRunner, stream: ObjectStream) -> io.BufferedReader:
    """Return a stream as a file for callers without an event loop. Closing the file does not close the stream."""
    if stream.size <= WHOLE_BYTES:
        return whole_reader(stream.key, runner.call(stream.read))
    return io.BufferedReader(ObjectFile(runner.call, stream), WHOLE_BYTES)


def whole_reader(key: str, content: bytes) -> io.BufferedReader:
    """Return the content of an object as a file."""
    raw = _InMemory(content)
    raw.name = key
    return io.BufferedReader(raw, len(content) or 1)


class _InMemory(io.BytesIO):
    __slots__ = ("name",)
    readall = io.BytesIO.read  # `BufferedReader` looks for it
    mode = "rb"  # pyright: ignore[reportIncompatibleMethodOverride,reportAssignmentType]
    name: str


class ObjectFile(io.RawIOBase):
    """A stream, at its start, as an unbuffered file. Closing it does not close the stream."""

    mode = "rb"

    def __init__(self, call: Callable[..., Any], stream: ObjectStream) -> None:
        super().__init__()
        self._call = call
        self._stream = stream
        self._position = 0
        self.name: str = stream.key

    def readable(self) -> bool:
        """Return True.

        :raises RepositoryClosedError: if the file is closed.
        """
        if self.closed:
            raise RepositoryClosedError(f"the stream of object {self.name!r} is closed: read inside its `with`")
        return True

    seekable = readable

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes and return how many they are."""
        size: int = self._call(self._stream.readinto, buffer)
        self._position += size
        return size

    def readall(self) -> bytes:
        """Return the bytes from the position to the end."""
        content: bytes = self._call(self._stream.read)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another position and return it."""
        self._position = self._call(self._stream.seek, offset, whence)
        return self._position

    def tell(self) -> int:
        """Return the position, without a call: ``io.BufferedReader`` discards what an interrupted ``tell`` raises."""
        return self._position
