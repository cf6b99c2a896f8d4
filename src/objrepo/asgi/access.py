"""Who may do what: the operations of requests, and the functions that permit them."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request

Operation: TypeAlias = Literal["read", "list", "put", "delete"]
"""What a request does: it reads objects whose keys it names, lists keys or counts objects, stores, or deletes."""

Authorize: TypeAlias = Callable[[Request, Operation], bool | Awaitable[bool]]
"""Decides whether a request is permitted."""


class BearerToken:
    """Permits everything to requests that send a token, and to others what only reads.

    :param token: the token; None forbids what does not only read.
    :raises ValueError: if the token is empty.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and not token.strip():
            raise ValueError("the token is empty: pass one, or None for a read-only server")
        self._token = token

    def __call__(self, request: Request, operation: Operation) -> bool:
        """Return True.

        :raises HTTPException: 403 if the server is read-only, 401 if the request does not send the token.
        """
        if operation in ("read", "list"):
            return True
        if self._token is None:
            raise HTTPException(403, "this server is read-only")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})
        return True


async def require_permission(authorize: Authorize, request: Request, operation: Operation) -> None:
    """Ask whether a request is permitted.

    :raises HTTPException: 403 if it is not, or what the function raises.
    """
    permitted = authorize(request, operation)
    if inspect.isawaitable(permitted):
        permitted = await permitted
    if permitted is not True:  # None is a function without a return, not a permission
        raise HTTPException(403, f"you are not permitted to {operation} here")
