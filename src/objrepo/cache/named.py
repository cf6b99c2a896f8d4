"""The stream of a copy that the cache knows by another name, under the key of the object."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anyio.abc import ByteReceiveStream

from objrepo.protocol import ObjectStream

__all__ = ("NamedStream",)


class NamedStream(ByteReceiveStream):
    """An :class:`~objrepo.protocol.ObjectStream` that says another key than the one that it reads from."""

    def __init__(self, key: str, stream: ObjectStream) -> None:
        self._key = key
        self._stream = stream

    @property
    def key(self) -> str:
        """The key of the object."""
        return self._key

    @property
    def size(self) -> int:
        """The length of the stream in bytes."""
        return self._stream.size

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes, at least one; see :meth:`ObjectStream.receive`."""
        return await self._stream.receive(max_bytes)

    async def read(self, n: int | None = -1) -> bytes:
        """Return exactly ``n`` bytes, or what is left; see :meth:`ObjectStream.read`."""
        return await self._stream.read(n)

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a writable buffer; see :meth:`ObjectStream.readinto`."""
        return await self._stream.readinto(buffer)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to another position; see :meth:`ObjectStream.seek`."""
        return await self._stream.seek(offset, whence)

    async def tell(self) -> int:
        """Return the position in bytes from the start of the stream."""
        return await self._stream.tell()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


if TYPE_CHECKING:
    _: type[ObjectStream] = NamedStream
