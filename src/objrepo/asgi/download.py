"""Answers to GET and HEAD of an object."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import quote

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from objrepo.asgi.ranges import Part, entity_tag, parse_ranges, precondition_status
from objrepo.errors import ObjectNotFoundError
from objrepo.protocol import AsyncRepository, ObjectStream

__all__ = ("Download",)

_CHUNK_BYTES: Final = 256 * 1024
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(; ?charset=[\w-]{1,32})?", re.ASCII)
_HARMLESS: Final = re.compile(r"image/(png|jpeg|gif|webp|avif|bmp)|(audio|video)/.*|text/plain.*")
"""What a browser may show. HTML, SVG and the like would run with the rights of the site that they are on."""


class Download:
    """The answer to a GET or HEAD of one object; an ASGI application.

    :raises HTTPException: if what the request asks for makes no sense.
    """

    def __init__(self, repository: AsyncRepository, request: Request) -> None:
        self._repository = repository
        self._key = request.path_params["key"]
        self._request_headers = request.headers
        self._tag = entity_tag(self._key)
        self._headers = {
            "etag": self._tag,
            "accept-ranges": "bytes",
            "cache-control": "public, max-age=31536000, immutable",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox",
        } | _presentation(request.query_params)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        status = precondition_status(self._request_headers, self._tag)
        if status is not None:
            if not await self._repository.has(self._key):
                raise ObjectNotFoundError([self._key], self._repository)
            kept = ("etag", "cache-control")
            answer = Response(status_code=status, headers={name: self._headers[name] for name in kept})
            await answer(scope, receive, send)
        elif scope["method"] == "HEAD":
            size = await self._repository.size(self._key)
            await self._start(send, 200, size)
            await send({"type": "http.response.body"})
        elif "range" in self._request_headers:
            await self._send_parts(receive, send)
        else:
            await self._send_one(200, 0, None, receive, send)

    async def _send_one(self, status: int, start: int, length: int | None, receive: Receive, send: Send) -> None:
        async with self._repository.open(self._key, start, length) as stream:
            await self._start(send, status, stream.size)
            await _unless_left(receive, stream.size, partial(_send_all, stream, send))

    async def _send_parts(self, receive: Receive, send: Send) -> None:
        size = await self._repository.size(self._key)
        parts = parse_ranges(self._request_headers, self._tag, size)
        if parts is None:
            await self._send_one(200, 0, None, receive, send)
        elif not parts:
            raise HTTPException(416, headers={"content-range": f"bytes */{size}"})
        elif len(parts) == 1:
            [part] = parts
            self._headers["content-range"] = part.content_range(size)
            await self._send_one(206, part.start, part.end - part.start, receive, send)
        else:
            await self._send_several(parts, size, receive, send)

    async def _send_several(self, parts: list[Part], size: int, receive: Receive, send: Send) -> None:
        boundary = secrets.token_hex(16)
        media_type = self._headers["content-type"]
        heads = [
            f"--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: {part.content_range(size)}\r\n\r\n".encode()
            for part in parts
        ]
        last = f"--{boundary}--\r\n".encode()
        length = sum(len(head) + end - start + 2 for head, (start, end) in zip(heads, parts, strict=True)) + len(last)
        self._headers["content-type"] = f"multipart/byteranges; boundary={boundary}"
        await self._start(send, 206, length)

        async def send_them() -> None:
            for head, (start, end) in zip(heads, parts, strict=True):
                await send({"type": "http.response.body", "body": head, "more_body": True})
                async with self._repository.open(self._key, start, end - start) as stream:
                    await _send_all(stream, send, after=b"\r\n")
            await send({"type": "http.response.body", "body": last})

        await _unless_left(receive, length, send_them)

    async def _start(self, send: Send, status: int, length: int) -> None:
        headers = self._headers | {"content-length": str(length)}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _send_all(stream: ObjectStream, send: Send, after: bytes = b"") -> None:
    """Send what a stream gives; nothing after it means that it is all there is to send."""
    left = stream.size
    while left > _CHUNK_BYTES:
        chunk = await stream.read(_CHUNK_BYTES)
        left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    body = await stream.read(left) + after
    await send({"type": "http.response.body", "body": body, "more_body": bool(after)})


async def _unless_left(receive: Receive, size: int, work: Callable[[], Awaitable[None]]) -> None:
    """Do something until the client leaves; a short answer is sent before one could know."""
    if size <= _CHUNK_BYTES:
        await work()
        return

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await work()
        group.cancel_scope.cancel()


def _presentation(query: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that say what an object is, as the link to it asks for."""
    media_type = query.get("type", "application/octet-stream")
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise HTTPException(400, "type must be a media type, such as image/png")
    inline = query.get("inline", "") in ("1", "true") and _HARMLESS.fullmatch(media_type) is not None
    disposition = "inline" if inline else "attachment"
    name = query.get("filename", "")
    if len(name) > 255:
        raise HTTPException(400, "filename is longer than 255 characters")
    if name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"content-type": media_type, "content-disposition": disposition}
