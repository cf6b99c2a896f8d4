"""An object as a file: what `io`, `zipfile`, numpy and the like expect to be given."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Final, cast

from objrepo.errors import RepositoryClosedError

if TYPE_CHECKING:
    from objrepo.protocol import ObjectStream
    from objrepo.sync.runner import Caller, Driver

__all__ = ("WHOLE_BYTES", "ObjectFile", "object_reader", "whole_reader")

WHOLE_BYTES: Final = 64 * 1024
"""Objects of up to this size are read at once when they are opened."""


def object_reader(driver: Driver, stream: ObjectStream) -> io.BufferedReader:
    """Return a stream as a file for callers without a loop. Closing the one does not close the other."""
    if stream.size <= WHOLE_BYTES:
        return whole_reader(stream.key, driver.call(stream.read))
    return io.BufferedReader(ObjectFile(driver, stream), WHOLE_BYTES)


def whole_reader(key: str, content: bytes) -> io.BufferedReader:
    """Return the content of an object as a file."""
    raw = _InMemory(content)
    raw.name = key
    return io.BufferedReader(cast("io.RawIOBase", raw), len(content) or 1)


class _InMemory(io.BytesIO):
    __slots__ = ("name",)
    mode = "rb"  # pyright: ignore[reportIncompatibleMethodOverride,reportAssignmentType]
    name: str


class ObjectFile(io.RawIOBase):
    """A stream as an unbuffered file. Closing it does not close the stream."""

    mode = "rb"

    def __init__(self, driver: Caller, stream: ObjectStream) -> None:
        super().__init__()
        self._call = driver.call
        self._stream = stream
        self.name = stream.key

    def readable(self) -> bool:
        """Say that it can be read."""
        return not self._closed_already()

    def seekable(self) -> bool:
        """Say that positions can be moved to."""
        return not self._closed_already()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes."""
        return self._call(self._stream.readinto, buffer)

    def readall(self) -> bytes:
        """Return all that is left."""
        return self._call(self._stream.read)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another position."""
        return self._call(self._stream.seek, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._call(self._stream.tell)

    def _closed_already(self) -> bool:
        if self.closed:
            raise RepositoryClosedError(f"the stream of object {self.name!r} is closed: read inside its `with`")
        return False
