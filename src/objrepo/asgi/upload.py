"""What comes in: bytes on their way into a repository, which stores them whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from objrepo.protocol import AsyncRepository

__all__ = ("Uploads",)


class Uploads:
    """Stores the bodies of requests, some at the same time.

    :param max_bytes: how long a body may be; None for any length.
    :param max_uploads: how many may be under way.
    :param seconds: how long one may take.
    """

    def __init__(self, max_bytes: int | None, max_uploads: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._free = max_uploads
        self._seconds = seconds

    async def store(self, repository: AsyncRepository, request: Request, wanted: str | None) -> tuple[str, int]:
        """Store the body of a request.

        :param wanted: the key that it must have, a SHA-256; None for any.
        :return: its key and its length in bytes.
        :raises HTTPException: if it is too large, takes too long, has another key, or too many are under way; then
            nothing is stored.
        :raises ClientDisconnect: if the client has left; likewise.
        """
        declared = request.headers.get("content-length", "0")
        self._check(int(declared) if declared.isascii() and declared.isdigit() else 0)
        if not self._free:
            raise HTTPException(503, "too many uploads are under way", {"retry-after": "1"})
        body = _Body(request, self._check, wanted)
        self._free -= 1
        try:
            with anyio.move_on_after(self._seconds):
                return await repository.put(body.chunks()), body.size
        finally:
            self._free += 1
        raise HTTPException(408, f"an upload may take {self._seconds:g} seconds")

    def _check(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise HTTPException(413, f"an object may have {self._max_bytes} bytes")


class _Body:
    """The body of a request, which ends in an error if it is not what it must be."""

    def __init__(self, request: Request, check: Callable[[int], None], wanted: str | None) -> None:
        self._request = request
        self._check = check
        self._wanted = wanted
        self.size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over it."""
        hasher = hashlib.sha256()
        async with aclosing(self._request.stream()) as chunks:
            async for chunk in chunks:
                self.size += len(chunk)
                self._check(self.size)
                if self._wanted is not None:
                    hasher.update(chunk)
                yield chunk
        if self._wanted not in (None, hasher.hexdigest()):
            raise HTTPException(422, f"the content hashes to {hasher.hexdigest()}")
