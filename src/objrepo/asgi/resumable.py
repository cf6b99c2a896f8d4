"""Uploads that go on after an interruption: tus 1.0 with creation, expiration, checksum and termination."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from email.utils import formatdate
from typing import Any, Final

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from objrepo.asgi.collection import root_path
from objrepo.asgi.ranges import entity_tag
from objrepo.asgi.upload import Uploads
from objrepo.protocol import AsyncRepository

_log: Final = logging.getLogger("objrepo.asgi")
_ALLOWED: Final = {"allow": "POST, HEAD, PATCH, DELETE, OPTIONS"}
_MEDIA_TYPE: Final = "application/offset+octet-stream"
_CHECKSUMS: Final = ("sha1", "sha256")
_WRITTEN_BYTES: Final = 1024 * 1024
_MAX_METADATA: Final = 4096
_MAX_FINISHED: Final = 1000


class WithVersion:
    """Adds the version of the protocol to every response, as the protocol requires it.

    :param app: responds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond."""

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"tus-resumable", b"1.0.0")]
            await send(message)

        await self._app(scope, receive, send_with_version)


class _Upload:
    """An upload, of which some bytes have arrived.

    :ivar offset: how many.
    :ivar key: of the stored object; None before.
    """

    def __init__(self, length: int, metadata: str | None, expires: float) -> None:
        self.length = length
        self.metadata = metadata
        self.offset = 0
        self.key: str | None = None
        self.expires = expires
        self.file: Any = tempfile.TemporaryFile()  # noqa: SIM115  (the system deletes it with this process)
        self._lock = anyio.Lock()
        self._scope: anyio.CancelScope | None = None

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """End the request that is writing: its client has begun another one, so the connection of that one is lost."""
        if self._scope is not None:
            self._scope.cancel()
        async with self._lock:
            with anyio.CancelScope() as self._scope:
                yield
            if self._scope.cancelled_caught:
                raise HTTPException(409, "another request continues this upload")

    def write(self, position: int, content: bytes) -> None:
        """Write bytes at a position; blocking."""
        self.file.seek(position)
        self.file.write(content)
        self.file.flush()


class ResumableUploads:
    """The uploads in progress. Their bytes are in temporary files, which end with this process.

    :param limits: of each upload, and of their number.
    :param seconds: after how many seconds without a request an upload is dropped.
    """

    def __init__(self, repository: AsyncRepository, limits: Uploads, seconds: float) -> None:
        self._repository = repository
        self._limits = limits
        self._seconds = seconds
        self._uploads: dict[str, _Upload] = {}

    def options(self) -> Response:
        """Describe what is supported."""
        headers = {
            "tus-version": "1.0.0",
            "tus-extension": "creation,expiration,checksum,termination",
            "tus-checksum-algorithm": ",".join(_CHECKSUMS),
            **({} if self._limits.max_bytes is None else {"tus-max-size": str(self._limits.max_bytes)}),
        }
        return Response(status_code=204, headers=_ALLOWED | headers)

    async def create(self, request: Request) -> Response:
        """Begin an upload: 201 with its ``Location``.

        :raises HTTPException: 400 without a valid length, 412 for another version, 413 if it is too large, 503 if
            there are too many.
        """
        self._check_version(request)
        length = _number(request, "upload-length")
        self._limits.check_size(length)
        metadata = request.headers.get("upload-metadata")
        if metadata is not None and len(metadata) > _MAX_METADATA:
            raise HTTPException(413, f"Upload-Metadata is longer than {_MAX_METADATA} characters")
        self._drop_expired()
        if sum(upload.key is None for upload in self._uploads.values()) >= self._limits.max_uploads:
            raise HTTPException(503, "too many unfinished uploads: try again later", {"retry-after": "60"})
        number = secrets.token_urlsafe(16)
        upload = self._uploads[number] = _Upload(length, metadata, time.time() + self._seconds)
        if not length:
            await self._finish(upload)
        location = {"location": f"{root_path(request)}/uploads/{number}"}
        return Response(status_code=201, headers=self._headers(upload, request) | location)

    async def respond(self, request: Request) -> Response:
        """Respond to HEAD, PATCH and DELETE, or to POST with one of them as ``X-HTTP-Method-Override``.

        :raises HTTPException: 404 if there is no such upload, or it has expired.
        """
        method = request.headers.get("x-http-method-override", request.method)
        if method not in ("HEAD", "PATCH", "DELETE"):
            raise HTTPException(405, "POST to an upload needs X-HTTP-Method-Override", _ALLOWED)
        self._check_version(request)
        self._drop_expired()
        number = request.path_params["number"]
        upload = self._find(number)
        async with upload.exclusive():
            self._find(number)  # the request before may have dropped it
            upload.expires = math.inf
            try:
                if method == "PATCH":
                    await self._append(request, upload)
                    return Response(status_code=204, headers=self._headers(upload, request))
                if method == "DELETE":
                    self._drop(number)
                    return Response(status_code=204)
                headers = {"upload-length": str(upload.length), "cache-control": "no-store"}
                if upload.metadata is not None:
                    headers["upload-metadata"] = upload.metadata
                return Response(headers=self._headers(upload, request) | headers)
            finally:
                upload.expires = time.time() + self._seconds

    def _find(self, number: str) -> _Upload:
        upload = self._uploads.get(number)
        if upload is None:
            raise HTTPException(404, "there is no such upload, or it has expired: begin another one")
        return upload

    def close(self) -> None:
        """Drop all uploads."""
        for number in list(self._uploads):
            self._drop(number)

    async def _append(self, request: Request, upload: _Upload) -> None:
        """Write a body at the end of an upload, also what has arrived when the client disconnects; store the whole."""
        if request.headers.get("content-type", "").lower() != _MEDIA_TYPE:
            raise HTTPException(415, f"the Content-Type of an upload's part must be {_MEDIA_TYPE}")
        self._limits.check_coding(request.headers)
        start = _number(request, "upload-offset")
        if start != upload.offset:
            raise HTTPException(409, f"the upload continues at {upload.offset}, not {start}")
        hasher, expected = _checksum(request)
        end = start
        buffer = bytearray()

        async def write() -> None:
            nonlocal end
            content = bytes(buffer)
            buffer.clear()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(upload.write, end, content)
            end += len(content)
            if hasher is None:
                upload.offset = end

        async with self._limits.limited():
            try:
                async with aclosing(request.stream()) as chunks:
                    async for chunk in chunks:
                        if end + len(buffer) + len(chunk) > upload.length:
                            raise HTTPException(413, f"the upload is longer than its {upload.length} bytes")
                        if hasher is not None:
                            hasher.update(chunk)
                        buffer += chunk
                        if len(buffer) >= _WRITTEN_BYTES:
                            await write()
            finally:
                await write()
            if hasher is not None and hasher.digest() != expected:
                raise HTTPException(460, "the checksum of the part differs: send it again")
            upload.offset = end
            if upload.offset == upload.length and upload.key is None:
                await self._finish(upload)

    async def _finish(self, upload: _Upload) -> None:
        with anyio.CancelScope(shield=True):  # so that a client that does not wait for it finds the key afterwards
            upload.file.seek(0)
            upload.key = await self._repository.put(upload.file)
        upload.file.close()
        _log.info("stored %s, %d bytes", upload.key, upload.length)

    def _headers(self, upload: _Upload, request: Request) -> dict[str, str]:
        headers = {
            "upload-offset": str(upload.offset),
            "upload-expires": formatdate(time.time() + self._seconds, usegmt=True),
        }
        if upload.key is not None:
            headers |= {"content-location": f"{root_path(request)}/{upload.key}", "etag": entity_tag(upload.key)}
        return headers

    def _check_version(self, request: Request) -> None:
        if request.headers.get("tus-resumable") != "1.0.0":
            raise HTTPException(412, "Tus-Resumable must be 1.0.0", {"tus-version": "1.0.0"})

    def _drop_expired(self) -> None:
        now = time.time()
        finished = [number for number, upload in self._uploads.items() if upload.key is not None]
        expired = [number for number, upload in self._uploads.items() if upload.expires < now]
        for number in {*expired, *finished[:-_MAX_FINISHED]}:
            self._drop(number)

    def _drop(self, number: str) -> None:
        self._uploads.pop(number).file.close()


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise HTTPException(400, f"{name.title()} must be a number of bytes")
    return int(text)


def _checksum(request: Request) -> tuple[Any, bytes]:
    """Return the hasher for the body, None if its checksum was not sent, and the checksum."""
    if "upload-checksum" not in request.headers:
        return None, b""
    algorithm, _, encoded = request.headers["upload-checksum"].partition(" ")
    try:
        expected = base64.b64decode(encoded, validate=True)
    except ValueError:
        expected = b""
    if algorithm not in _CHECKSUMS or not expected:
        raise HTTPException(400, f"Upload-Checksum must be one of {', '.join(_CHECKSUMS)}, and base64")
    return hashlib.new(algorithm), expected
