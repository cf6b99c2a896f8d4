"""The options of an S3 repository, validated before any request is sent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9!_.*'()-]+")  # the characters that Amazon calls safe in a key

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_SECRETS: Final = ("access_key_id", "secret_access_key", "session_token")


def _parse_bool(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError(value)
    return value == "1"


_FROM_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "endpoint": str,
    "region": str,
    "profile": str,
    "anonymous": _parse_bool,
    "virtual_hosted_style": _parse_bool,
    "timeout": float,
    "retry_timeout": float,
    "concurrency": int,
    "index": str,
}


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """The parameters of :class:`~objrepo.S3Repository`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    anonymous: bool = False
    virtual_hosted_style: bool = False
    timeout: float = 30.0
    retry_timeout: float = 60.0
    concurrency: int = 32
    index: str | None = None

    def __post_init__(self) -> None:
        if _BUCKET.fullmatch(self.bucket) is None:
            raise ValueError(f"invalid bucket name {self.bucket!r}: use 3 or more letters, digits, dots and hyphens")
        object.__setattr__(self, "prefix", self.prefix.strip("/"))
        for part in self.prefix.split("/") if self.prefix else ():
            if _PREFIX_PART.fullmatch(part) is None or part in (".", ".."):
                raise ValueError(
                    f"invalid prefix {self.prefix!r}: use letters, digits and !_.*'()- instead of {part!r}"
                )
        if self.endpoint is None:
            object.__setattr__(self, "endpoint", next(filter(None, map(os.environ.get, _ENDPOINTS)), None))
        if self.endpoint is not None:
            url = urlsplit(self.endpoint)
            if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
                raise ValueError(
                    "invalid endpoint: write https://HOST or http://HOST, with a port if needed, and nothing after it"
                )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("pass both access_key_id and secret_access_key, or neither")
        if sum((self.access_key_id is not None, self.profile is not None, self.anonymous)) > 1:
            raise ValueError("pass only one of access_key_id, profile and anonymous")
        if self.timeout <= 0 or self.retry_timeout < 0:
            raise ValueError(f"timeout and retry_timeout must be seconds, not {self.timeout} and {self.retry_timeout}")
        if isinstance(self.concurrency, bool) or not 1 <= self.concurrency <= 1024:
            raise ValueError(f"concurrency must be from 1 to 1024, not {self.concurrency}")

    def __getstate__(self) -> dict[str, Any]:
        if any(getattr(self, name) is not None for name in _SECRETS):
            raise TypeError(
                f"cannot pickle {self.url}: it was given a secret, and other programs may store and read a pickle; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the workers instead, or name a profile"
            )
        return vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it is immutable, and copies in this process may hold the secret

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse a URL ``s3://BUCKET/PREFIX?OPTION=VALUE&…``.

        :raises ValueError: if it has an unknown option, an invalid value, or a secret.
        """
        parts = urlsplit(url)
        given: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in _SECRETS:
                raise ValueError(
                    f"{name} is not allowed in a URL: set the variables AWS_ACCESS_KEY_ID and so on, or name a profile"
                )
            if name not in _FROM_TEXT:
                raise ValueError(f"unknown option {name!r} of s3: use one of {', '.join(_FROM_TEXT)}")
            try:
                given[name] = _FROM_TEXT[name](value)
            except ValueError:
                raise ValueError(f"invalid value {value!r} of the option {name}") from None
        return cls(bucket=parts.netloc, prefix=unquote(parts.path), **given)

    @property
    def url(self) -> str:
        """The location, for messages."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + (f" at {self.endpoint}" if self.endpoint else "")

    @property
    def bucket_endpoint(self) -> str | None:
        """The endpoint of requests to the bucket: its host name starts with the bucket's if that is the style."""
        if self.endpoint is None or not self.virtual_hosted_style:
            return self.endpoint
        scheme, _, host = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"
