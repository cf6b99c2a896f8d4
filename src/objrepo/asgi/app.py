"""`ObjectApp`: the requests that it answers."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from objrepo.asgi.download import Download
from objrepo.asgi.html import object_page, overview_page
from objrepo.asgi.ranges import entity_tag, precondition_status
from objrepo.asgi.upload import Uploads
from objrepo.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryBusyError,
    RepositoryUnavailableError,
)
from objrepo.keys import is_key
from objrepo.protocol import AsyncRepository

__all__ = ("ObjectApp",)

_log: Final = logging.getLogger("objrepo.asgi")
_LIMIT: Final = 1000
_HTML_LIMIT: Final = 100
_MAX_LIMIT: Final = 10_000
_PREVIEW_BYTES: Final = 16 * 1024


class ObjectApp:
    """An ASGI application that serves the objects of a repository; clients with a token may store and delete some.

    =========== ========== ==========================================================================================
    ``GET``     ``/KEY``   Returns the object or ranges of it. Parameters: ``type``, its media type; ``filename``, the
                           name under which a browser saves it; ``inline=1`` to display it, if its type is safe.
    ``HEAD``    ``/KEY``   Returns the headers, among them the size.
    ``GET``     ``/``      Lists keys as JSON, ``?after=KEY&limit=1000``; browsers get an HTML page.
    ``POST``    ``/``      Stores the body: 201 with the key and its ``Location``.
    ``PUT``     ``/KEY``   Stores the body if its SHA-256 is the key: 201, or 200 if the object existed.
    ``DELETE``  ``/KEY``   Deletes the object: 204.
    =========== ========== ==========================================================================================

    ``If-Match``, ``If-None-Match`` and ``If-Range`` work as RFC 9110 defines them; the ``ETag`` is the key. Objects
    never change, so responses may be cached forever. If a client disconnects, its request is cancelled, and an
    incomplete upload is not stored. A slow client occupies no worker thread.

    A server that runs this application opens and closes the repository; if it is mounted in another application,
    that application has to do so.

    :param repository: an initialised repository.
    :param token: the value that ``Authorization: Bearer TOKEN`` must have in requests that store or delete; None for a
        read-only server.
    :param max_bytes: the maximum size of an upload; None for no limit.
    :param max_uploads: the maximum number of concurrent uploads.
    :param upload_seconds: the maximum duration of an upload.
    :raises ValueError: if the token is empty or a limit is not positive.
    """

    def __init__(
        self,
        repository: AsyncRepository,
        *,
        token: str | None = None,
        max_bytes: int | None = None,
        max_uploads: int = 64,
        upload_seconds: float = 3600.0,
    ) -> None:
        if token is not None and not token.strip():
            raise ValueError("the token is empty: pass one, or None for a read-only server")
        limits = {"max_uploads": max_uploads, "upload_seconds": upload_seconds, "max_bytes": max_bytes}
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, not {limit}")
        self._repository = repository
        self._token = token
        self._uploads = Uploads(max_bytes, max_uploads, upload_seconds)
        self._app: ASGIApp = Starlette(
            routes=[
                Route("/", self._root, methods=["GET", "POST"]),
                Route("/{key}", self._object, methods=["GET", "PUT", "DELETE"]),
            ],
            exception_handlers={
                ObjectNotFoundError: _error_response(404, "the object does not exist"),
                ReadOnlyError: _error_response(403, "the repository is read-only"),
                RepositoryBusyError: _error_response(503, "the repository is busy: try again later"),
                RepositoryUnavailableError: _error_response(503, "the repository is unavailable: try again later"),
                AccessDeniedError: _error_response(503, "the server has no access to the repository"),
                ClientDisconnect: _error_response(400, "the client disconnected"),
            },
            lifespan=self._lifespan,
        )

    def __repr__(self) -> str:
        return f"<ObjectApp of {self._repository}{'' if self._token is None else ', writable'}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, as ASGI defines it."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        async with self._repository:
            yield

    async def _root(self, request: Request) -> Response:
        if request.method == "POST":
            self._require_token(request)
            self._uploads.check_headers(request.headers)
            return await self._store(request, None, 201)
        if "key" in request.query_params:
            return await self._show_object(request, request.query_params["key"].strip())
        return await self._list(request)

    async def _object(self, request: Request) -> Any:
        key = request.path_params["key"]
        if request.method in ("GET", "HEAD"):
            return Download(self._repository, request)
        self._require_token(request)
        if request.method == "PUT":
            return await self._put(request, key)
        if not await self._repository.has(key):
            raise ObjectNotFoundError([key], self._repository)
        self._check_preconditions(request, key, exists=True)
        await self._repository.delete(key)
        _log.info("deleted %s", key)
        return Response(status_code=204)

    async def _put(self, request: Request, key: str) -> Response:
        if await self._repository.key_format() != "sha256":
            raise HTTPException(409, "the keys of this repository are not SHA-256 hashes: use POST")
        if not is_key(key, "sha256"):
            raise HTTPException(422, "the key must be a SHA-256 hash of 64 lower case hexadecimal digits")
        self._uploads.check_headers(request.headers)
        exists = await self._repository.has(key)
        self._check_preconditions(request, key, exists)
        return await self._store(request, key, 200 if exists else 201)

    async def _store(self, request: Request, expected: str | None, status: int) -> Response:
        key, size = await self._uploads.store(self._repository, request, expected)
        _log.info("stored %s, %d bytes", key, size)
        headers = {"location": f"{_root_path(request)}/{key}", "etag": entity_tag(key)}
        return JSONResponse({"key": key, "size": size}, status, headers)

    def _check_preconditions(self, request: Request, key: str, exists: bool) -> None:
        status = precondition_status(request.method, request.headers, entity_tag(key), exists)
        if status is not None:
            raise HTTPException(status, f"a precondition failed: the object {'exists' if exists else 'does not exist'}")

    def _require_token(self, request: Request) -> None:
        if self._token is None:
            raise HTTPException(403, "this server is read-only")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})

    async def _list(self, request: Request) -> Response:
        html = "text/html" in request.headers.get("accept", "")
        after = request.query_params.get("after", "")
        limit = request.query_params.get("limit", str(_HTML_LIMIT if html else _LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 0 < int(limit) <= _MAX_LIMIT):
            raise HTTPException(400, f"limit must be a number from 1 to {_MAX_LIMIT}")
        keys, more = await _page_of_keys(self._repository, after, int(limit))
        root = _root_path(request)
        next_page = f"{root}/?{urlencode({'after': keys[-1], 'limit': limit})}" if more else None
        headers = {"vary": "accept", "cache-control": "no-cache"}
        if html:
            return _html_response(overview_page(root, keys, next_page, self._token is not None), headers)
        return JSONResponse({"keys": keys, "next": next_page}, headers=headers)

    async def _show_object(self, request: Request, key: str) -> Response:
        async with self._repository.open(key) as stream:
            head = await stream.read(_PREVIEW_BYTES)
            return _html_response(
                object_page(_root_path(request), key, stream.size, head), {"cache-control": "no-cache"}
            )


def _html_response(content: tuple[str, str], headers: dict[str, str]) -> Response:
    text, nonce = content
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    policy += "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(
        text, headers=headers | {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    )


def _root_path(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


async def _page_of_keys(repository: AsyncRepository, after: str, limit: int) -> tuple[list[str], bool]:
    """Return the first keys after a given one in sorted order, and whether there are more.

    A repository lists its keys in no order: all of them are read, and a page of them is held in memory.
    """
    first: list[str] = []
    async for key in repository.keys():
        if key > after:
            first.append(key)
            if len(first) > 4 * limit + 1000:
                first = sorted(first)[: limit + 1]
    first.sort()
    return first[:limit], len(first) > limit


def _error_response(status: int, text: str) -> Any:
    async def respond(request: Request, error: Exception) -> Response:
        level = logging.WARNING if status >= 500 else logging.DEBUG
        _log.log(level, "%s %s: %s", request.method, request.url.path, error)
        return PlainTextResponse(f"{text}\n", status)

    return respond
