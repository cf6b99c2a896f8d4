"""`ObjectApp`: the requests that it answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from objrepo.asgi.access import Authorize, BearerToken, Operation, require_permission
from objrepo.asgi.collection import about, delete_keys, has_keys, info, list_keys, read_keys, root_path
from objrepo.asgi.download import Download
from objrepo.asgi.html import html_response, object_page
from objrepo.asgi.multipart import boundary_of
from objrepo.asgi.ranges import entity_tag, precondition_status
from objrepo.asgi.resumable import ResumableUploads, WithVersion
from objrepo.asgi.upload import Uploads
from objrepo.asgi.verified import VerifiedObjects
from objrepo.errors import (
    AccessDeniedError,
    CorruptObjectError,
    NotInitialisedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryBusyError,
    RepositoryUnavailableError,
)
from objrepo.keys import is_key
from objrepo.protocol import AsyncRepository
from objrepo.reports import count_of

_log: Final = logging.getLogger("objrepo.asgi")
_PREVIEW_BYTES: Final = 16 * 1024


class ObjectApp:
    """An ASGI application that serves the objects of a repository; clients with permission may store and delete some.

    =========== ============= =======================================================================================
    ``GET``     ``/KEY``      Returns the object or ranges of it. Parameters: ``type``, its media type; ``filename``,
                              the name under which a browser saves it; ``inline=1`` to display it, if its type is safe.
    ``HEAD``    ``/KEY``      Returns the headers, among them the size.
    ``GET``     ``/``         Lists keys as JSON, ``?after=KEY&limit=1000``; browsers get an HTML page.
    ``POST``    ``/``         Stores the body: 201 with the key and its ``Location``; 422 if it has another SHA-256 than
                              the request's ``Content-Digest``. Of ``multipart/form-data``, each file is stored: 201
                              with the key of each, in ``{"objects": […]}``.
    ``PUT``     ``/KEY``      Stores the body if its SHA-256 is the key: 201, or 200 if the object existed.
    tus 1.0     ``/uploads``  Stores an object by several requests, which go on after an interruption.
    ``DELETE``  ``/KEY``      Deletes the object: 204.
    ``GET``     ``/?about``   Returns the UUID and the key format as JSON.
    ``GET``     ``/?info``    Returns the number of objects, too; with ``?info=detailed`` the sum of their sizes.
    ``POST``    ``/?has``     Returns for each key of ``{"keys": ["KEY", …]}`` whether its object exists.
    ``POST``    ``/?delete``  Deletes the objects of ``{"keys": ["KEY", …]}``: 204, or 404 with the missing keys.
    =========== ============= =======================================================================================

    ``If-Match``, ``If-None-Match`` and ``If-Range`` work as RFC 9110 defines them; the ``ETag`` is the key. Objects
    never change, so responses may be cached forever. If a client disconnects, its request is cancelled, and an
    incomplete upload is not stored. A slow client occupies no worker thread. :class:`~objrepo.HTTPRepository` is a
    client.

    Objects are compared with their keys. A damaged one is 500; if it is larger than 256 KiB and the damage is found
    while it is sent, the connection is closed before the end of the body. A range of an object that is larger and has
    not been sent as a whole yet is not compared.

    A server that runs this application opens and closes the repository; if it is mounted in another application,
    that application has to do so.

    :param repository: an initialised repository.
    :param token: the value that ``Authorization: Bearer TOKEN`` must have in requests that store or delete; None for a
        read-only server.
    :param authorize: decides instead of a token: a function or an async function that gets each request, and its
        operation: ``'read'`` reads objects whose keys it names, ``'list'`` lists keys or counts objects, ``'put'``
        stores, ``'delete'`` deletes. It returns True to permit the request; False responds with 403. For another
        response it raises Starlette's ``HTTPException``. It is called on the event loop, and must not block.
    :param cache_control: the value of ``Cache-Control`` for objects; unless given, caches may keep them for a year:
        all caches, or with ``authorize`` those of browsers only (``private``).
    :param max_bytes: the maximum size of an object that is uploaded; None for no limit.
    :param max_uploads: the maximum number of concurrent uploads, and of unfinished resumable ones.
    :param upload_seconds: the maximum duration of an upload.
    :param resume_seconds: after how many seconds without a request a resumable upload is dropped.
    :raises ValueError: if the token is empty, a token and a function are given, or a limit is not positive.
    """

    def __init__(
        self,
        repository: AsyncRepository,
        *,
        token: str | None = None,
        authorize: Authorize | None = None,
        cache_control: str | None = None,
        max_bytes: int | None = None,
        max_uploads: int = 64,
        upload_seconds: float = 3600.0,
        resume_seconds: float = 24 * 3600.0,
    ) -> None:
        if token is not None and authorize is not None:
            raise ValueError("pass either a token or authorize: the function decides about every request")
        limits = {
            "max_uploads": max_uploads,
            "upload_seconds": upload_seconds,
            "resume_seconds": resume_seconds,
            "max_bytes": max_bytes,
        }
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, not {limit}")
        self._repository = repository
        self._writable = token is not None
        self._authorize = BearerToken(token) if authorize is None else authorize
        scope = "public" if authorize is None else "private"
        self._cache_control = f"{scope}, max-age=31536000, immutable" if cache_control is None else cache_control
        self._list_cache_control = "no-cache" if authorize is None else "private, no-cache"
        self._uploads = Uploads(max_bytes, max_uploads, upload_seconds)
        self._unfinished = ResumableUploads(repository, self._uploads, resume_seconds)
        self._verified = VerifiedObjects(repository)
        tus = [Middleware(WithVersion)]
        self._app: ASGIApp = Starlette(
            routes=[
                Route("/", self._root, methods=["GET", "POST", "OPTIONS"]),
                Route("/uploads", self._resumable, methods=["POST", "OPTIONS"], middleware=tus),
                Route(
                    "/uploads/{number}",
                    self._resumable,
                    methods=["POST", "HEAD", "PATCH", "DELETE", "OPTIONS"],
                    middleware=tus,
                ),
                Route("/{key}", self._object, methods=["GET", "PUT", "DELETE", "OPTIONS"]),
            ],
            exception_handlers={
                CorruptObjectError: _error_response(500, "the object is damaged: its repository has to be repaired"),
                ObjectNotFoundError: _error_response(404, "the object does not exist"),
                NotInitialisedError: _error_response(503, "the server's repository does not exist"),
                ReadOnlyError: _error_response(403, "the repository is read-only"),
                RepositoryBusyError: _error_response(503, "the repository is busy: try again later"),
                RepositoryUnavailableError: _error_response(503, "the repository is unavailable: try again later"),
                AccessDeniedError: _error_response(503, "the server has no access to the repository"),
                ClientDisconnect: _error_response(400, "the client disconnected"),
            },
            lifespan=self._lifespan,
        )

    def __repr__(self) -> str:
        return f"<ObjectApp of {self._repository}{', writable' if self._writable else ''}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, as ASGI defines it."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        async with self._repository:
            try:
                yield
            finally:
                self._unfinished.close()

    async def _root(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return _options("GET, HEAD, POST, OPTIONS")
        query = request.query_params
        if request.method == "POST":
            return await self._post(request)
        if "about" in query:
            await self._require(request, "read")
            return await about(self._repository)
        if "info" in query:
            await self._require(request, "list")
            return await info(self._repository, query["info"])
        if "key" in query:
            await self._require(request, "read")
            return await self._show_object(request, query["key"].strip())
        await self._require(request, "list")
        return await list_keys(self._repository, request, self._writable, self._list_cache_control)

    async def _resumable(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return self._unfinished.options()
        await self._require(request, "put")
        return await (self._unfinished.respond if "number" in request.path_params else self._unfinished.create)(request)

    async def _post(self, request: Request) -> Response:
        if "has" in request.query_params:
            await self._require(request, "read")
            return await has_keys(self._repository, await read_keys(request))
        if "delete" in request.query_params:
            await self._require(request, "delete")
            keys = await read_keys(request)
            response = await delete_keys(self._repository, keys)
            done = "deleted" if response.status_code == 204 else "deleted none of"
            _log.info("%s %s", done, count_of(len(keys), "object"))
            return response
        await self._require(request, "put")
        boundary = boundary_of(request.headers)
        if boundary is not None:
            return await self._store_parts(request, boundary)
        self._uploads.check_headers(request.headers)
        return await self._store(request, None, 201)

    async def _object(self, request: Request) -> Any:
        key = request.path_params["key"]
        if request.method == "OPTIONS":
            return _options("GET, HEAD, PUT, DELETE, OPTIONS")
        if request.method in ("GET", "HEAD"):
            await self._require(request, "read")
            return Download(self._repository, request, self._verified, self._cache_control)
        if request.method == "PUT":
            await self._require(request, "put")
            return await self._put(request, key)
        await self._require(request, "delete")
        if not await self._repository.has(key):
            raise ObjectNotFoundError([key], self._repository)
        self._check_preconditions(request, key, exists=True)
        await self._repository.delete(key)
        _log.info("deleted %s", key)
        return Response(status_code=204)

    async def _require(self, request: Request, operation: Operation) -> None:
        await require_permission(self._authorize, request, operation)

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
        headers = {"location": f"{root_path(request)}/{key}", "etag": entity_tag(key)}
        return JSONResponse({"key": key, "size": size}, status, headers)

    async def _store_parts(self, request: Request, boundary: bytes) -> Response:
        self._uploads.check_coding(request.headers)
        objects = await self._uploads.store_parts(self._repository, request, boundary)
        _log.info("stored %s, %d bytes", count_of(len(objects), "object"), sum(int(each["size"]) for each in objects))
        return JSONResponse({"objects": objects}, 201)

    def _check_preconditions(self, request: Request, key: str, exists: bool) -> None:
        status = precondition_status(request.method, request.headers, entity_tag(key), exists)
        if status is not None:
            raise HTTPException(status, f"a precondition failed: the object {'exists' if exists else 'does not exist'}")

    async def _show_object(self, request: Request, key: str) -> Response:
        async with self._verified.open(key) as stream:
            head = await stream.read(_PREVIEW_BYTES)
            return html_response(object_page(root_path(request), key, stream.size, head), {"cache-control": "no-cache"})


def _options(methods: str) -> Response:
    return Response(status_code=204, headers={"allow": methods})


def _error_response(status: int, text: str) -> Any:
    async def respond(request: Request, error: Exception) -> Response:
        level = logging.WARNING if status >= 500 else logging.DEBUG
        _log.log(level, "%s %s: %s", request.method, request.url.path, error)
        return PlainTextResponse(f"{text}\n", status, {"objrepo-error": type(error).__name__})

    return respond
