"""Responses to GET and HEAD requests for an object."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from objrepo.asgi.ranges import ByteRange, entity_tag, parse_ranges, precondition_status
from objrepo.asgi.verified import VerifiedObjects
from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.offload import Inline
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.streams import CHUNK_BYTES, BackendStream, OpenedObject

_log: Final = logging.getLogger("objrepo.asgi")
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(; ?charset=[\w-]{1,32})?", re.ASCII)
_INLINE_TYPES: Final = re.compile(r"image/(png|jpeg|gif|webp|avif|bmp)|(audio|video)/.*|text/plain.*")
"""Media types that a browser may display. HTML, SVG and the like would run with the rights of the site."""


class Download:
    """The response to a GET or HEAD request for one object; an ASGI application.

    :param verified: compares objects with their keys.
    :param cache_control: the value of ``Cache-Control`` for an object that was compared.
    :raises HTTPException: if the query parameters are invalid.
    """

    def __init__(
        self, repository: AsyncRepository, request: Request, verified: VerifiedObjects, cache_control: str
    ) -> None:
        self._repository = repository
        self._verified = verified
        self._key = request.path_params["key"]
        self._request_headers = request.headers
        self._tag = entity_tag(self._key)
        self._has_begun = False
        self._headers = {
            "etag": self._tag,
            "accept-ranges": "bytes",
            "cache-control": cache_control,
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox",
        } | _content_headers(request.query_params)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if scope["method"] == "GET":
            await self._verified.refuse_damaged(self._key)
        intact = await self._verified.is_intact(self._key)
        status = precondition_status(scope["method"], self._request_headers, self._tag)
        if status is not None:
            if not await self._repository.has(self._key):
                raise ObjectNotFoundError([self._key], self._repository)
            headers = {name: self._headers[name] for name in ("etag", "cache-control")}
            await Response(status_code=status, headers=headers)(scope, receive, send)
        elif scope["method"] == "HEAD":
            size = await self._repository.size(self._key)
            if not intact:  # then only GET finds out whether the object may be kept
                del self._headers["cache-control"]
            if self._verified.is_damaged(self._key):
                self._headers["objrepo-error"] = CorruptObjectError.__name__
            await self._send_head(send, 200, size, True)
            await send({"type": "http.response.body"})
        else:
            try:
                if "range" in self._request_headers:
                    await self._send_ranges(receive, send, intact)
                else:
                    await self._send_whole(200, receive, send, intact)
            except Exception:
                if self._has_begun and scope.get("http_version") == "2":
                    # A body shorter than announced is an error for the client at once. Without an end it would wait:
                    # Hypercorn does not reset the stream of an application that fails.
                    await send({"type": "http.response.body"})
                raise

    async def _send_whole(self, status: int, receive: Receive, send: Send, intact: bool) -> None:
        """Send the object; if it is not known to be intact, raise :class:`CorruptObjectError` instead of its end."""
        opening = self._repository.open(self._key, check=False) if intact else self._verified.open(self._key)
        async with opening as stream:
            await self._send_head(send, status, stream.size, intact or stream.size <= CHUNK_BYTES)
            try:
                await _cancel_on_disconnect(receive, stream.size, partial(_send_stream, stream, send))
            except CorruptObjectError as error:
                _log.warning("broke off the download of a damaged object: %s", error)
                raise

    async def _send_ranges(self, receive: Receive, send: Send, intact: bool) -> None:
        size = await self._repository.size(self._key)
        ranges = parse_ranges(self._request_headers, self._tag, size)
        if ranges is None:
            await self._send_whole(200, receive, send, intact)
        elif not ranges:
            raise HTTPException(416, headers={"content-range": f"bytes */{size}"})
        elif len(ranges) == 1:
            self._headers["content-range"] = ranges[0].content_range(size)
            if ranges[0] == (0, size):
                await self._send_whole(206, receive, send, intact)
                return
            content = await self._content(size)
            async with self._open_range(ranges[0], content) as stream:
                await self._send_head(send, 206, stream.size, intact or content is not None)
                await _cancel_on_disconnect(receive, stream.size, partial(_send_stream, stream, send))
        else:
            await self._send_multipart(ranges, size, receive, send, intact)

    async def _send_multipart(
        self, ranges: list[ByteRange], size: int, receive: Receive, send: Send, intact: bool
    ) -> None:
        content = await self._content(size)
        boundary = secrets.token_hex(16)
        media_type = self._headers["content-type"]
        heads = [
            f"--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {each.content_range(size)}\r\n\r\n".encode()
            for each in ranges
        ]
        last = f"--{boundary}--\r\n".encode()
        length = sum(len(head) + end - start + 2 for head, (start, end) in zip(heads, ranges, strict=True)) + len(last)
        self._headers["content-type"] = f"multipart/byteranges; boundary={boundary}"
        await self._send_head(send, 206, length, intact or content is not None)

        async def send_parts() -> None:
            for head, each in zip(heads, ranges, strict=True):
                await send({"type": "http.response.body", "body": head, "more_body": True})
                async with self._open_range(each, content) as stream:
                    await _send_stream(stream, send, after=b"\r\n")
            await send({"type": "http.response.body", "body": last})

        await _cancel_on_disconnect(receive, length, send_parts)

    async def _content(self, size: int) -> bytes | None:
        """Return the content of a small object, which is compared with its key; None for a large one."""
        return await self._repository.get(self._key, check=True) if size <= CHUNK_BYTES else None

    @asynccontextmanager
    async def _open_range(self, part: ByteRange, content: bytes | None) -> AsyncIterator[ObjectStream]:
        start, end = part
        if content is not None:
            yield BackendStream(OpenedObject(self._key, end - start, content[start:end], None), Inline())
        else:
            async with self._repository.open(self._key, start, end - start) as stream:
                yield stream

    async def _send_head(self, send: Send, status: int, length: int, intact: bool) -> None:
        # What is not known to be intact yet may not be kept without asking again; the answer 304 then permits it.
        if not intact:
            kept = self._headers["cache-control"]
            restrictions = (each for each in ("private", "no-store") if each in kept)
            self._headers["cache-control"] = ", ".join((*restrictions, "no-cache"))
        headers = self._headers | {"content-length": str(length)}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._has_begun = True
        await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _send_stream(stream: ObjectStream, send: Send, after: bytes = b"") -> None:
    """Send the bytes of a stream and those after it; the body ends here if there are none after it."""
    left = stream.size
    while left > CHUNK_BYTES:
        chunk = await stream.read(CHUNK_BYTES)
        left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    body = await stream.read(left) + after
    await send({"type": "http.response.body", "body": body, "more_body": bool(after)})


async def _cancel_on_disconnect(receive: Receive, size: int, send_body: Callable[[], Awaitable[None]]) -> None:
    """Send a body until the client disconnects; a body of one chunk is sent without listening for that."""
    if size <= CHUNK_BYTES:
        await send_body()
        return

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await send_body()
            group.cancel_scope.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _content_headers(query: Mapping[str, str]) -> dict[str, str]:
    """Return ``Content-Type`` and ``Content-Disposition`` as the query parameters ask for them."""
    media_type = query.get("type", "application/octet-stream")
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise HTTPException(400, "type must be a media type, such as image/png")
    inline = query.get("inline", "") in ("1", "true") and _INLINE_TYPES.fullmatch(media_type) is not None
    disposition = "inline" if inline else "attachment"
    name = query.get("filename", "")
    if len(name) > 255:
        raise HTTPException(400, "filename is longer than 255 characters")
    if name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"content-type": media_type, "content-disposition": disposition}
