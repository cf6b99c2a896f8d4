"""Storing request bodies: an object is stored whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from objrepo.asgi.multipart import read_parts
from objrepo.protocol import AsyncRepository

_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256\b=?([^,;]*)")
_PLAIN: Final = {"", "identity", "binary", "8bit", "7bit"}


class Uploads:
    """Stores the bodies of requests, a limited number at the same time.

    :param max_bytes: the maximum size of an object; None for no limit.
    :param max_uploads: the maximum number of concurrent uploads.
    :param seconds: the maximum duration of an upload.
    """

    def __init__(self, max_bytes: int | None, max_uploads: int, seconds: float) -> None:
        self.max_bytes = max_bytes
        self.max_uploads = self._free = max_uploads
        self._seconds = seconds

    def check_headers(self, headers: Headers) -> None:
        """Refuse a body that its headers show to be unacceptable.

        :raises HTTPException: 400 for a partial body, 413 for one that is too large, 415 for one with a content coding:
            the key is the hash of the stored bytes, so they must be the content itself (RFC 9110, 8.4 and 15.5.16).
        """
        self.check_coding(headers)
        length = headers.get("content-length", "0")
        self.check_size(int(length[:20]) if length.isascii() and length.isdigit() else 0)

    def check_coding(self, headers: Headers) -> None:
        """Refuse a body or a part that is not the content itself; see :meth:`check_headers`.

        :raises HTTPException: 400 or 415.
        """
        if "content-range" in headers:
            raise HTTPException(400, "Content-Range is not supported: upload the whole object")
        for name in ("content-encoding", "content-transfer-encoding"):
            if {coding.strip() for coding in ",".join(headers.getlist(name)).lower().split(",")} - _PLAIN:
                reason = f"{name.title()} is not supported, as the key is the hash of the content: upload it decoded"
                raise HTTPException(415, reason, {"accept-encoding": "identity"})

    async def store(self, repository: AsyncRepository, request: Request, expected: str | None) -> tuple[str, int]:
        """Store the body of a request.

        :param expected: the SHA-256 that the body must have; None for that of its ``Content-Digest``, or for any.
        :return: its key and its length in bytes.
        :raises HTTPException: 400, 408, 413, 422 or 503 if its digest is malformed, the upload takes too long, is too
            large, has another hash, or too many uploads are running; nothing is stored then.
        :raises ClientDisconnect: if the client disconnects; nothing is stored then.
        """
        content = _Content(expected or _sent_digest(request.headers))
        async with self.limited():
            return await repository.put(self._checked(request.stream(), content)), content.size

    async def store_parts(
        self, repository: AsyncRepository, request: Request, boundary: bytes
    ) -> list[dict[str, str | int]]:
        """Store each file of a form. If one is refused, or the client disconnects, no small one is stored.

        :return: the key, the size, the name of the field and the name of the file, for each file.
        :raises HTTPException: as :meth:`store`; 400 if there is no file; 415 if a file is encoded.
        :raises ClientDisconnect: if the client disconnects.
        """
        stored: list[dict[str, str | int]] = []
        async with (
            self.limited(),
            aclosing(request.stream()) as chunks,
            repository.batch() as batch,
            aclosing(read_parts(boundary, chunks)) as parts,
        ):
            async for part in parts:
                if part.filename is None:
                    continue
                self.check_coding(part.headers)
                content = _Content(_sent_digest(part.headers))
                key = await batch.put(self._checked(part.chunks, content))
                stored.append({"key": key, "size": content.size, "name": part.name, "filename": part.filename})
            if not stored:
                raise HTTPException(400, "the form has no file: a part with a file has a filename")
        return stored

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Count an upload, and limit its duration.

        :raises HTTPException: 503 if too many uploads are running, 408 if it takes too long.
        """
        if not self._free:
            raise HTTPException(503, "too many concurrent uploads: try again later", {"retry-after": "1"})
        self._free -= 1
        try:
            with anyio.move_on_after(self._seconds) as scope:
                yield
        finally:
            self._free += 1
        if scope.cancelled_caught:
            raise HTTPException(408, f"the upload took longer than {self._seconds:g} seconds")

    async def _checked(self, chunks: AsyncGenerator[bytes, None], content: _Content) -> AsyncIterator[bytes]:
        async with aclosing(chunks):
            async for chunk in chunks:
                content.add(chunk)
                self.check_size(content.size)
                yield chunk
        content.check_digest()

    def check_size(self, size: int) -> None:
        """Refuse an object that is too large.

        :raises HTTPException: 413.
        """
        if self.max_bytes is not None and size > self.max_bytes:
            raise HTTPException(413, f"the upload has {size} bytes, and the limit is {self.max_bytes} bytes")


class _Content:
    """What has arrived of an object.

    :param expected: the SHA-256 that it must have; None for any.
    :ivar size: its length in bytes.
    """

    def __init__(self, expected: str | None) -> None:
        self.size = 0
        self._expected = expected
        self._hasher: Any = None if expected is None else hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Add what has arrived."""
        self.size += len(chunk)
        if self._hasher is not None:
            self._hasher.update(chunk)

    def check_digest(self) -> None:
        """Compare the SHA-256 of all of it with the expected one.

        :raises HTTPException: 422 if they differ.
        """
        if self._hasher is not None and self._hasher.hexdigest() != self._expected:
            raise HTTPException(422, f"the SHA-256 of the content is {self._hasher.hexdigest()}, not {self._expected}")


def _sent_digest(headers: Headers) -> str | None:
    """Return the SHA-256 that ``Content-Digest`` promises (RFC 9530), None if it promises none.

    :raises HTTPException: 400 if it is malformed.
    """
    found = _SHA256.findall(",".join(headers.getlist("content-digest")))
    if not found:
        return None
    match = re.fullmatch(r":([^:]*):\s*", found[-1])  # the last one counts (RFC 9651, 4.2.2)
    try:
        digest = b"" if match is None else base64.b64decode(match[1], validate=True)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise HTTPException(400, "Content-Digest must be sha-256=:BASE64: with the 32 bytes of a SHA-256")
    return digest.hex()
