"""The options of an HTTP repository, validated before any request is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from objrepo.bucket.options import check_limits

_PRINTABLE: Final = re.compile(r"[!-~]+")
_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "token_variable": str,
    "timeout": float,
    "retry_timeout": float,
    "concurrency": int,
}


@dataclass(frozen=True, kw_only=True)
class HTTPOptions:
    """The parameters of :class:`~objrepo.HTTPRepository`."""

    url: str
    token: str | None = field(default=None, repr=False)
    token_variable: str = "OBJREPO_TOKEN"
    timeout: float = 30.0
    retry_timeout: float = 60.0
    concurrency: int = 16

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                f"the URL of {parts.hostname} contains a user or password: set {self.token_variable} to the server's "
                "token instead"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"invalid URL {self.url.partition('?')[0]!r}: write http://HOST:PORT/PATH or https://HOST/PATH"
            )
        try:
            parts.port  # noqa: B018
        except ValueError as error:
            raise ValueError(f"invalid port in {self.url.partition('?')[0]!r}: {error}") from None
        object.__setattr__(self, "url", f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"))
        if self.token is not None:
            _check_token(self.token, "the token")
        check_limits(self.timeout, self.retry_timeout, self.concurrency)

    def __getstate__(self) -> dict[str, Any]:
        if self.token is not None:
            raise TypeError(
                f"cannot pickle {self.url}: it was given a token, and other programs may store and read a pickle; set "
                f"{self.token_variable} for the workers instead"
            )
        return vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it is immutable, and copies in this process may hold the token

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse a URL ``http://HOST:PORT/PATH?OPTION=VALUE&…``.

        :raises ValueError: if it has an unknown option, an invalid value, or a secret.
        """
        base, _, query = url.partition("?")
        given: dict[str, Any] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name == "token":
                raise ValueError("token is not allowed in a URL: set OBJREPO_TOKEN, or another token_variable")
            if name not in _FROM_TEXT:
                raise ValueError(
                    f"unknown option {name!r} of http: use one of {', '.join(_FROM_TEXT)}; if the URL is that of an "
                    "archive, write zip: before it"
                )
            try:
                given[name] = _FROM_TEXT[name](value)
            except ValueError:
                raise ValueError(f"invalid value {value!r} of the option {name}") from None
        return cls(url=base, **given)

    def find_token(self) -> str | None:
        """Return the token that was given, or that of the environment variable; None if there is none.

        :raises ValueError: if it is no token.
        """
        if self.token is not None:
            return self.token
        token = os.environ.get(self.token_variable, "").strip()
        return _check_token(token, self.token_variable) if token else None


def _check_token(token: str, name: str) -> str:
    if _PRINTABLE.fullmatch(token) is None:
        raise ValueError(f"{name} is not a token: use printable ASCII characters without spaces")
    return token
