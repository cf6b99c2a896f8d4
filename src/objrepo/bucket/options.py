"""The options of a repository in a bucket, which are validated before any request, and how stores differ."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from objrepo.errors import RepositoryError
from objrepo.retry import FIRST_PAUSE, MAX_PAUSE

_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9!_.*'()-]+")  # the characters that Amazon calls safe in a key

_MAX_TIMEOUT: Final = 7 * 24 * 60 * 60.0


class Upload(NamedTuple):
    """An upload in parts that has begun and not ended.

    :ivar name: the name of its object, below the prefix.
    :ivar upload_id: its identifier.
    """

    name: str
    upload_id: str


@dataclass(frozen=True, kw_only=True)
class ErrorCodes:
    """The codes in the answers of a store.

    :ivar bucket: what the store calls a bucket.
    :ivar no_bucket: the bucket does not exist.
    :ivar exists: the object was not stored, as there is one of that name. Other codes of HTTP 409 leave that open.
    :ivar denied: the request is not permitted, each with the reason.
    :ivar expired: the credentials have expired; the request is repeated once, with those that are found then.
    :ivar elsewhere: the bucket is in another region.
    :ivar temporary: the request is repeated, whatever the HTTP status is.
    """

    bucket: str = "bucket"
    no_bucket: frozenset[str] = frozenset()
    exists: frozenset[str] = frozenset()
    denied: Mapping[str, str] = field(default_factory=dict)
    expired: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    temporary: frozenset[str] = frozenset()


def parse_bool(value: str) -> bool:
    """Return the meaning of ``0`` or ``1`` in a URL.

    :raises ValueError: if it is another text.
    """
    if value not in ("0", "1"):
        raise ValueError(value)
    return value == "1"


FromText = Mapping[str, Callable[[str], Any]]
"""The options that a URL may have, and how they are parsed."""

COMMON_OPTIONS: Final[FromText] = {"timeout": float, "retry_timeout": float, "concurrency": int, "index": str}


@dataclass(frozen=True, kw_only=True)
class BucketOptions(ABC):
    """The parameters that the repositories in all stores have, and what a store has its own way of.

    :cvar scheme: of its URLs.
    :cvar extra: installs the packages that it needs.
    :cvar bucket_name: the names of buckets; ``bucket_rule`` says it in words.
    :cvar from_text: the options that a URL may have.
    :cvar secrets: the options that are secret; ``secret_hint`` says what to do instead of giving them.
    :cvar codes: in the answers of the store.
    """

    scheme: ClassVar[str]
    extra: ClassVar[str]
    bucket_name: ClassVar[re.Pattern[str]]
    bucket_rule: ClassVar[str]
    from_text: ClassVar[FromText]
    secrets: ClassVar[Sequence[str]] = ()
    secret_hint: ClassVar[str] = ""
    codes: ClassVar[ErrorCodes]

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    timeout: float = 30.0
    retry_timeout: float = 60.0
    concurrency: int = 32
    index: str | None = None

    def __post_init__(self) -> None:
        if self.bucket_name.fullmatch(self.bucket) is None:
            raise ValueError(f"invalid {self.codes.bucket} name {self.bucket!r}: use {self.bucket_rule}")
        object.__setattr__(self, "prefix", self.prefix.strip("/"))
        for part in self.prefix.split("/") if self.prefix else ():
            if _PREFIX_PART.fullmatch(part) is None or part in (".", ".."):
                raise ValueError(
                    f"invalid prefix {self.prefix!r}: use letters, digits and !_.*'()- instead of {part!r}"
                )
        check_limits(self.timeout, self.retry_timeout, self.concurrency)
        for name in self.secrets:
            if getattr(self, name) == "":  # it is not the same as none, for which others are searched
                raise ValueError(f"{name} is empty: leave it out, or check where it is read from")

    def __getstate__(self) -> dict[str, Any]:
        if any(getattr(self, name) is not None for name in self.secrets):
            raise TypeError(
                f"cannot pickle {self.url}: it was given a secret, and other programs may store and read a pickle; "
                f"{self.secret_hint}"
            )
        return vars(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it is immutable, and copies in this process may hold the secret

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse a URL ``SCHEME://BUCKET/PREFIX?OPTION=VALUE&…``.

        :raises ValueError: if it has an unknown option, an invalid value, or a secret.
        """
        location, _, query = url.partition("?")
        netloc, _, path = location.partition("://")[2].partition("/")
        if "@" in netloc:
            raise ValueError(
                f"invalid URL of {cls.scheme}: write {cls.scheme}://{cls.codes.bucket.upper()}/PREFIX, without an @: "
                "credentials are not allowed in a URL"
            )
        if "#" in url:
            raise ValueError(f"invalid URL of {cls.scheme}: write %23 for a # in an option")
        given: dict[str, Any] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in cls.secrets:
                raise ValueError(f"{name} is not allowed in a URL: {cls.secret_hint}")
            if name not in cls.from_text:
                raise ValueError(f"unknown option {name!r} of {cls.scheme}: use one of {', '.join(cls.from_text)}")
            if name in given:
                raise ValueError(f"the option {name} of {cls.scheme} occurs twice: write it once")
            if not value:
                raise ValueError(f"the option {name} of {cls.scheme} is empty: write a value, or leave it out")
            try:
                given[name] = cls.from_text[name](value)
            except ValueError:
                raise ValueError(f"invalid value {value!r} of the option {name}") from None
        return cls(bucket=netloc, prefix=unquote(path), **given)

    @property
    def url(self) -> str:
        """The location, for messages."""
        place = f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")
        return place + (f" at {self.endpoint}" if self.endpoint else "")

    @property
    def folder(self) -> str:
        """How the names of the repository's objects in the bucket begin."""
        return f"{self.prefix}/" if self.prefix else ""

    @abstractmethod
    def connect(self, retries: int = 0) -> Any:
        """Return an obstore store for the part of the bucket under the prefix.

        :param retries: how often obstore repeats a request. It cannot be interrupted while it does so.
        :raises AccessDeniedError: if no credentials are found.
        """

    def find_region(self) -> str:
        """Return the region in which the store says that the bucket is, empty if it does not say."""
        return ""

    def list_uploads(self, older_than: float, name: str = "") -> list[Upload]:
        """Return the uploads under the prefix, also those of other programs, that began ``older_than`` seconds ago.

        :param name: returns only those of objects whose names begin so.
        :raises RepositoryError: one of its subclasses.
        """
        before = datetime.now(UTC) - timedelta(seconds=older_than)
        found = self._list_uploads(f"{self.folder}{name}")
        return [
            Upload(name.removeprefix(self.folder), upload_id) for name, upload_id, began in found if began <= before
        ]

    def abort_uploads(self, uploads: Sequence[Upload]) -> None:
        """Have the store delete uploads with their parts; those that have ended are ignored.

        :raises RepositoryError: one of its subclasses.
        """
        assert not uploads, "only a store that lists uploads has any"

    def _list_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Yield the uploads of objects whose names in the bucket begin so: name, identifier, and when each began."""
        return iter(())  # of a store that deletes them by itself


def check_endpoint(endpoint: str, name: str = "endpoint") -> None:
    """Check the URL of a service.

    :param name: where it was read from.
    :raises ValueError: if it is invalid.
    """
    try:
        url = urlsplit(endpoint)
        is_valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # of the port, or of brackets
        is_valid = False
    if not is_valid or re.search("[@?#]", endpoint):
        raise ValueError(
            f"invalid {name}: write https://HOST or http://HOST, with a port if needed, and nothing after it"
        )


def check_limits(timeout: float, retry_timeout: float, concurrency: int) -> None:
    """Check how long a request may take, how long it is repeated, and how many run at the same time.

    :raises ValueError: if one of the first two is not a number of seconds, or the last one is not a number of requests.
    """
    if not (0 < timeout <= _MAX_TIMEOUT and retry_timeout >= 0):  # false for NaN
        raise ValueError(f"timeout and retry_timeout must be seconds, not {timeout} and {retry_timeout}")
    if isinstance(concurrency, bool) or not 1 <= concurrency <= 1024:
        raise ValueError(f"concurrency must be from 1 to 1024, not {concurrency}")


def client_options(timeout: float, url: str | None, retries: int = 0) -> dict[str, Any]:
    """Return the options of an obstore store that set its timeouts and retries.

    :param timeout: for one request, in seconds.
    :param url: of the service; where it has no TLS, HTTP without TLS is permitted.
    :param retries: how often obstore repeats a request. It cannot be interrupted while it does so.
    """
    # Where a load balancer has lost the server, each idle connection fails once: they are closed before the last retry.
    return {
        "client_options": {
            "allow_http": (url or "")[:5].lower() == "http:",
            "timeout": timedelta(seconds=timeout),
            "connect_timeout": timedelta(seconds=timeout),
            "pool_idle_timeout": timedelta(seconds=MAX_PAUSE),
        },
        "retry_config": {"max_retries": retries, "backoff": {"init_backoff": timedelta(seconds=FIRST_PAUSE)}},
    }


def import_extra(name: str, extra: str) -> Any:
    """Import a module of a package that an extra installs.

    :raises RepositoryError: if the package is missing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RepositoryError(f"the package {error.name} is missing: pip install 'objrepo[{extra}]'") from error
