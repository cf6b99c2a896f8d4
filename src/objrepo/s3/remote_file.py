"""A file on another machine, by its URL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from objrepo.offload import BlockingPool
from objrepo.s3.bucket import Bucket
from objrepo.s3.client import Body, MissingError, Requests, client_options, get_range
from objrepo.s3.credentials import imported
from objrepo.s3.options import S3Options
from objrepo.s3.range_reader import RangeRequestFile

__all__ = ("RemoteFile", "is_remote")

_TIMEOUT: Final = 30.0
_RETRY_FOR: Final = 60.0


def is_remote(path: str) -> bool:
    """Say whether a path is the URL of a file that is read in ranges."""
    return re.match(r"(?i)(https?|s3)://", path) is not None


class RemoteFile:
    """A file in a bucket, or of a web server that gives ranges.

    :param url: ``s3://BUCKET/PATH?OPTION=VALUE&…``, ``https://…`` or ``http://…``.
    :param several: what fetches ahead.
    :raises ValueError: if the URL is not as it should be.
    """

    def __init__(self, url: str, several: BlockingPool) -> None:
        self._several = several
        self._size: int | None = None
        opened: tuple[str, _InBucket | _OfServer] = _in_bucket(url) if url[:3].lower() == "s3:" else _of_server(url)
        self.name, self._file = opened

    def size(self) -> int:
        """Return its length in bytes, which is asked for once.

        :raises FileNotFoundError: if it is not there.
        """
        if self._size is None:
            self._size = self._get(0, 1).size
        return self._size

    def open(self) -> RangeRequestFile:
        """Return it as an open file."""
        return RangeRequestFile(
            self.size(), lambda start, end: self._get(start, end).content, self._several.start, self.name
        )

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._size = None
        self._file.close()

    def _get(self, start: int, end: int) -> Body:
        try:
            return self._file.get(start, end)
        except MissingError:
            raise FileNotFoundError(2, "there is no such file", self.name) from None


class _InBucket:
    def __init__(self, options: S3Options, name: str) -> None:
        self._bucket = Bucket(options)
        self._name = name

    def get(self, start: int, end: int) -> Body:
        return self._bucket.get_range(self._name, start, end)

    def close(self) -> None:
        self._bucket.close()


class _OfServer:
    def __init__(self, url: str, name: str) -> None:
        self._requests = Requests(name, lambda: _connected(url), _RETRY_FOR)

    def get(self, start: int, end: int) -> Body:
        return self._requests.send(lambda obstore, store: get_range(obstore, store, "", start, end))

    def close(self) -> None:
        self._requests.close()


def _in_bucket(url: str) -> tuple[str, _InBucket]:
    options = S3Options.of_url(f"s3{url[2:]}")
    folder, _, name = options.prefix.rpartition("/")
    if not name:
        raise ValueError(f"{options.url} names a bucket and no file in it")
    return options.url, _InBucket(replace(options, prefix=folder), name)


def _of_server(url: str) -> tuple[str, _OfServer]:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} names no server")
    name = f"{parts.scheme}://{parts.hostname}{parts.path}"  # what comes after it may be a secret
    return name, _OfServer(url, name)


def _connected(url: str) -> Any:
    insecure = url[:5].lower() == "http:"
    return imported("obstore.store").HTTPStore.from_url(url, **client_options(_TIMEOUT, _RETRY_FOR, insecure))
