"""A file in a bucket or on a web server, by its URL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from objrepo.bucket import STORES
from objrepo.bucket.client import Body, BucketClient, Client, MissingError, get_range
from objrepo.bucket.options import ErrorCodes, client_options, import_extra
from objrepo.offload import BlockingPool
from objrepo.range_reader import RangeRequestFile

_TIMEOUT: Final = 30.0
_RETRY_TIMEOUT: Final = 60.0


class RemoteFile:
    """A file in a bucket, or on a web server that supports range requests.

    :param url: ``s3://BUCKET/PATH?OPTION=VALUE&…``, the same with ``az:`` or ``gs:``, ``https://…`` or ``http://…``.
    :param pool: fetches ranges ahead.
    :raises ValueError: if the URL is invalid.
    """

    def __init__(self, url: str, pool: BlockingPool) -> None:
        self._pool = pool
        self._size: int | None = None
        self.name: str
        self.name, self._get_range, self._close = (_on_server if url[:4].lower() == "http" else _in_bucket)(url)

    def open(self) -> RangeRequestFile:
        """Open the file. Its size is requested on first use.

        :raises FileNotFoundError: if it does not exist.
        """
        if self._size is None:
            self._size = self._get(0, 1).size
        return RangeRequestFile(self.name, self._size, lambda start, end: self._get(start, end).content, self._pool)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._size = None
        self._close()

    def _get(self, start: int, end: int) -> Body:
        try:
            return self._get_range(start, end)
        except MissingError:
            raise FileNotFoundError(2, "the file does not exist", self.name) from None


_Opened = tuple[str, Callable[[int, int], Body], Callable[[], None]]


def _in_bucket(url: str) -> _Opened:
    scheme, _, rest = url.partition(":")
    kind, _ = STORES[scheme.lower()]
    options = kind.from_url(f"{scheme.lower()}:{rest}")
    folder, _, name = options.prefix.rpartition("/")
    if not name:
        raise ValueError(f"{options.url} is a {options.codes.bucket}: add the path of a file in it")
    client = BucketClient(replace(options, prefix=folder))
    return options.url, lambda start, end: client.get_range(name, start, end), client.close


def _on_server(url: str) -> _Opened:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host")
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # user and query may contain secrets
    client = Client(name, lambda: _connect(url), _RETRY_TIMEOUT, ErrorCodes(), "s3")

    def get(start: int, end: int) -> Body:
        return client.send(lambda obstore, store: get_range(obstore, store, "", start, end))

    return name, get, client.close


def _connect(url: str) -> Any:
    return import_extra("obstore.store", "s3").HTTPStore.from_url(url, **client_options(_TIMEOUT, url))
