"""`ObjectApp`: what each request to a repository does."""

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
from objrepo.asgi.listing import page_of_keys
from objrepo.asgi.ranges import entity_tag
from objrepo.asgi.upload import Uploads
from objrepo.errors import AccessDeniedError, ObjectNotFoundError, RepositoryUnavailableError
from objrepo.keys import is_key
from objrepo.protocol import AsyncRepository

__all__ = ("ObjectApp",)

_log: Final = logging.getLogger("objrepo.asgi")
_PAGE_KEYS: Final = 1000
_SHOWN_KEYS: Final = 100
_PREVIEW_BYTES: Final = 16 * 1024


class ObjectApp:
    """An ASGI application that gives out objects, and takes some in from who has the token.

    =========== ========== ==========================================================================================
    ``GET``     ``/KEY``   The object, as a whole or in ranges. ``?type=image/png`` says what it is, ``?filename=`` how
                           a browser calls it, and ``?inline=1`` that it is to be shown, where that is harmless.
    ``HEAD``    ``/KEY``   Whether it is there, and how large it is.
    ``GET``     ``/``      Keys in pages, as JSON: ``?after=KEY&limit=1000``; or a page to look at, for a browser.
    ``POST``    ``/``      Stores the body: 201, with the key and its ``Location``.
    ``PUT``     ``/KEY``   Stores the body if that is its key: 201, or 200 if it was there already.
    ``DELETE``  ``/KEY``   Deletes the object: 204.
    =========== ========== ==========================================================================================

    What is stored never changes, so that answers may be cached for ever. A client that leaves ends what it asked for:
    an upload that is not complete is not stored. No request holds a worker thread while its client is slow.

    Run on its own it opens the repository when it starts; mounted in another application, that has to do so.

    :param repository: an open repository; it must have been initialised.
    :param token: what ``Authorization: Bearer TOKEN`` has to say in requests that change something; without a token
        there are none of these.
    :param max_bytes: how large an upload may be; None for any size.
    :param max_uploads: how many uploads may be under way at the same time.
    :param upload_seconds: how long an upload may take.
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
            raise ValueError("the token is empty: give one, or None for a server that nobody can write to")
        for name, limit in {
            "max_uploads": max_uploads,
            "upload_seconds": upload_seconds,
            "max_bytes": max_bytes,
        }.items():
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
                ObjectNotFoundError: _answer(404, "there is no such object"),
                RepositoryUnavailableError: _answer(503, "the objects are not to be had at the moment"),
                AccessDeniedError: _answer(503, "the objects are not to be had"),
                ClientDisconnect: _answer(400, "the client has left"),
            },
            lifespan=self._lifespan,
        )

    def __repr__(self) -> str:
        return f"<ObjectApp of {self._repository}{'' if self._token is None else ', writable'}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        async with self._repository:
            yield

    async def _root(self, request: Request) -> Response:
        if request.method == "POST":
            self._require_token(request)
            return await self._stored(request, None)
        if "key" in request.query_params:
            return await self._shown(request, request.query_params["key"].strip())
        return await self._listed(request)

    async def _object(self, request: Request) -> Any:
        key = request.path_params["key"]
        if request.method in ("GET", "HEAD"):
            return Download(self._repository, request)
        self._require_token(request)
        if request.method == "PUT":
            return await self._put(request, key)
        await self._repository.delete(key)
        _log.info("deleted %s", key)
        return Response(status_code=204)

    async def _put(self, request: Request, key: str) -> Response:
        if await self._repository.key_format() != "sha256":
            raise HTTPException(409, "the keys of this repository are not hashes: POST the object")
        if not is_key(key, "sha256"):
            raise HTTPException(422, "a key here is a SHA-256 in 64 lower case hexadecimal digits")
        there = await self._repository.has(key)
        if there and "if-none-match" in request.headers:
            raise HTTPException(412, "the object is there")
        return await self._stored(request, key, 200 if there else 201)

    async def _stored(self, request: Request, wanted: str | None, status: int = 201) -> Response:
        key, size = await self._uploads.store(self._repository, request, wanted)
        _log.info("stored %s, %d bytes", key, size)
        headers = {"location": f"{_root_path(request)}/{key}", "etag": entity_tag(key)}
        return JSONResponse({"key": key, "size": size}, status, headers)

    def _require_token(self, request: Request) -> None:
        if self._token is None:
            raise HTTPException(403, "this server is read-only")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})

    async def _listed(self, request: Request) -> Response:
        html = "text/html" in request.headers.get("accept", "")
        after = request.query_params.get("after", "")
        limit = request.query_params.get("limit", str(_SHOWN_KEYS if html else _PAGE_KEYS))
        if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= 10 * _PAGE_KEYS):
            raise HTTPException(400, f"limit must be a number from 1 to {10 * _PAGE_KEYS}")
        keys, more = await page_of_keys(self._repository, after, int(limit))
        root = _root_path(request)
        following = f"{root}/?{urlencode({'after': keys[-1], 'limit': limit})}" if more else None
        headers = {"vary": "accept", "cache-control": "no-cache"}
        if html:
            return _page(overview_page(root, keys, following, self._token is not None), headers)
        return JSONResponse({"keys": keys, "next": following}, headers=headers)

    async def _shown(self, request: Request, key: str) -> Response:
        async with self._repository.open(key) as stream:
            head = await stream.read(_PREVIEW_BYTES)
            return _page(object_page(_root_path(request), key, stream.size, head), {"cache-control": "no-cache"})


def _page(content: tuple[str, str], headers: dict[str, str]) -> Response:
    text, nonce = content
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    policy += "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(
        text, headers=headers | {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    )


def _root_path(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _answer(status: int, text: str) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        _log.log(
            logging.WARNING if status >= 500 else logging.DEBUG, "%s %s: %s", request.method, request.url.path, error
        )
        return PlainTextResponse(f"{text}\n", status)

    return answer
