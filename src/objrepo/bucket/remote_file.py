"""A file in a bucket or on a web server, by its URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from objrepo.bucket.client import Body, BucketClient, Client, MissingError, get_range
from objrepo.bucket.options import ErrorCodes, client_options, import_extra
from objrepo.bucket.s3 import S3Options
from objrepo.offload import BlockingPool
from objrepo.range_reader import RangeRequestFile

_TIMEOUT: Final = 30.0
_RETRY_TIMEOUT: Final = 60.0


def is_remote(path: str) -> bool:
    """Say whether a path is the URL of a remote file."""
    return re.match(r"(?i)(https?|s3)://", path) is not None


class RemoteFile:
    """A file in a bucket, or on a web server that supports range requests.

    :param url: ``s3://BUCKET/PATH?OPTION=VALUE&…``, ``https://…`` or ``http://…``.
    :param pool: fetches ranges ahead.
    :raises ValueError: if the URL is invalid.
    """

    def __init__(self, url: str, pool: BlockingPool) -> None:
        self._pool = pool
        self._size: int | None = None
        self.name: str
        self.name, self._get_range, self._close = (_in_bucket if url[:3].lower() == "s3:" else _on_server)(url)

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
    options = S3Options.from_url(f"s3{url[2:]}")
    folder, _, name = options.prefix.rpartition("/")
    if not name:
        raise ValueError(f"{options.url} is a bucket: add the path of a file in it")
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
