"""Requests about the repository as a whole, and about many objects at once."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import asdict
from typing import Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from objrepo.asgi.html import html_response, overview_page
from objrepo.errors import ObjectNotFoundError
from objrepo.protocol import AsyncRepository

MAX_KEYS: Final = 10_000
"""How many keys one request may name."""

_PROTOCOL: Final = 1
_MAX_BODY_BYTES: Final = 1024 * 1024
_LIMIT: Final = 1000
_HTML_LIMIT: Final = 100
_MAX_LIMIT: Final = 100_000


def root_path(request: Request) -> str:
    """Return the path under which the application is mounted, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


async def about(repository: AsyncRepository) -> Response:
    """Respond with what a client needs to know first; it is the same in each response, once the repository exists."""
    exists = await repository.is_initialised()
    return JSONResponse(
        {
            "objrepo": _PROTOCOL,
            "initialised": exists,
            "uuid": await repository.uuid() if exists else None,
            "key_format": await repository.key_format() if exists else None,
        },
        headers={"cache-control": "no-cache"},
    )


async def info(repository: AsyncRepository, level: str) -> Response:
    """Respond with the state of the repository, but not with its location, which is the server's own.

    :raises HTTPException: 400 if the level is unknown.
    """
    if level not in ("", "detailed"):
        raise HTTPException(400, "info has no value, or the value 'detailed'")
    state = asdict(await repository.info(detailed=level == "detailed"))
    fields = ("uuid", "key_format", "objects", "size")
    return JSONResponse({name: state[name] for name in fields}, headers={"cache-control": "no-cache"})


async def has_keys(repository: AsyncRepository, keys: list[str]) -> Response:
    """Respond with whether each object exists, in the order of the keys."""
    return JSONResponse({"has": await repository.has_many(keys)}, headers={"cache-control": "no-store"})


async def delete_keys(repository: AsyncRepository, keys: list[str]) -> Response:
    """Delete all of the objects: 204. If some are missing, delete none: 404, with the missing keys."""
    try:
        await repository.delete_many(keys)
    except ObjectNotFoundError as error:
        missing = json.dumps({"missing": error.keys})  # as ASCII: a key may have a lone surrogate
        return Response(missing, 404, media_type="application/json")
    return Response(status_code=204)


async def read_keys(request: Request) -> list[str]:
    """Return the keys in the body of a request, ``{"keys": ["KEY", …]}``.

    :raises HTTPException: 400 if the body is something else, 413 if it has too many of them.
    """
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {_MAX_BODY_BYTES} bytes: send fewer keys")
    try:
        keys = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise HTTPException(400, 'the body must be JSON: {"keys": ["KEY", "KEY"]}')
    if len(keys) > MAX_KEYS:
        raise HTTPException(413, f"there are {len(keys)} keys, and the limit is {MAX_KEYS}: send several requests")
    return keys


async def list_keys(repository: AsyncRepository, request: Request, writable: bool, cache_control: str) -> Response:
    """Respond with a page of sorted keys and the URL of the next page, as JSON or for browsers as HTML.

    :param writable: whether to show the upload form.
    :raises HTTPException: 400 if the limit is invalid.
    """
    html = "text/html" in request.headers.get("accept", "")
    after = request.query_params.get("after", "")
    limit = request.query_params.get("limit", str(_HTML_LIMIT if html else _LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 0 < int(limit) <= _MAX_LIMIT):
        raise HTTPException(400, f"limit must be a number from 1 to {_MAX_LIMIT}")
    keys, more = await _page_of_keys(repository, after, int(limit))
    root = root_path(request)
    next_page = f"{root}/?{urlencode({'after': keys[-1], 'limit': limit})}" if more else None
    headers = {"vary": "accept", "cache-control": cache_control}
    if html:
        return html_response(overview_page(root, keys, next_page, writable), headers)
    return JSONResponse({"keys": keys, "next": next_page}, headers=headers)


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
