"""Storing request bodies: an object is stored whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from objrepo.protocol import AsyncRepository

_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([^:]*):")


class Uploads:
    """Stores the bodies of requests, a limited number at the same time.

    :param max_bytes: the maximum length of a body; None for no limit.
    :param max_uploads: the maximum number of concurrent uploads.
    :param seconds: the maximum duration of an upload.
    """

    def __init__(self, max_bytes: int | None, max_uploads: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._free = max_uploads
        self._seconds = seconds

    def check_headers(self, headers: Headers) -> None:
        """Refuse a body that its headers show to be unacceptable.

        :raises HTTPException: 400 for a partial body, 413 for one that is too large, 415 for one with a content coding:
            the key is the hash of the stored bytes, so they must be the content itself (RFC 9110, 8.4 and 15.5.16).
        """
        if "content-range" in headers:
            raise HTTPException(400, "Content-Range is not supported: upload the whole object")
        codings = ",".join(headers.getlist("content-encoding")).lower().split(",")
        if {coding.strip() for coding in codings} - {"", "identity"}:
            reason = "Content-Encoding is not supported, as the key is the hash of the content: upload it decoded"
            raise HTTPException(415, reason, {"accept-encoding": "identity"})
        length = headers.get("content-length", "0")
        self._check_size(int(length[:20]) if length.isascii() and length.isdigit() else 0)

    def sent_digest(self, headers: Headers) -> str | None:
        """Return the SHA-256 of a body that its ``Content-Digest`` promises (RFC 9530), None if it promises none.

        :raises HTTPException: 400 if it is malformed.
        """
        found = _SHA256.search(headers.get("content-digest", ""))
        try:
            digest = None if found is None else base64.b64decode(found[1], validate=True)
        except ValueError:
            digest = b""
        if digest is not None and len(digest) != hashlib.sha256().digest_size:
            raise HTTPException(400, "Content-Digest must be sha-256=:BASE64: with the 32 bytes of a SHA-256")
        return None if digest is None else digest.hex()

    async def store(self, repository: AsyncRepository, request: Request, expected: str | None) -> tuple[str, int]:
        """Store the body of a request.

        :param expected: the SHA-256 that the body must have; None for any.
        :return: its key and its length in bytes.
        :raises HTTPException: 408, 413, 422 or 503 if the upload takes too long, is too large, has another hash, or
            too many uploads are running; nothing is stored then.
        :raises ClientDisconnect: if the client disconnects; nothing is stored then.
        """
        if not self._free:
            raise HTTPException(503, "too many concurrent uploads: try again later", {"retry-after": "1"})
        size = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal size
            hasher = hashlib.sha256()
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    self._check_size(size)
                    if expected is not None:
                        hasher.update(chunk)
                    yield chunk
            if expected not in (None, hasher.hexdigest()):
                raise HTTPException(422, f"the SHA-256 of the content is {hasher.hexdigest()}, not {expected}")

        self._free -= 1
        try:
            with anyio.move_on_after(self._seconds):
                return await repository.put(body()), size
        finally:
            self._free += 1
        raise HTTPException(408, f"the upload took longer than {self._seconds:g} seconds")

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise HTTPException(413, f"the upload has {size} bytes, and the limit is {self._max_bytes} bytes")
