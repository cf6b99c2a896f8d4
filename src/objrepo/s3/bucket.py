"""The requests to a bucket: each function sends one, sends it again while that may help, and has one-line errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from objrepo.s3.client import Body, MissingError, Requests, client_options, get_range, open_range
from objrepo.s3.credentials import credential_options, imported
from objrepo.s3.options import PART_BYTES, S3Options

__all__ = ("PAGE_NAMES", "Bucket", "Buffer", "Listing")

PAGE_NAMES: Final = 1000
"""How many names one request lists, or deletes, as the protocol has it."""

_PARTS_AT_MOST: Final = 9000

Buffer: TypeAlias = Any
"""Bytes in obstore's memory or in Python's: they have a length, and can be hashed and written."""


class Bucket:
    """The part of a bucket under a prefix.

    :raises RepositoryError: (each function) in one of its kinds, for what cannot be done, within the promised time.
    """

    def __init__(self, options: S3Options) -> None:
        self._requests = Requests(options.url, lambda: _connected(options), options.retry_timeout)
        self._send = self._requests.send

    def create(self, name: str, content: bytes) -> bool:
        """Store an object unless it is there already; return whether it was not."""
        return self._send(lambda obstore, store: self._create(obstore, store, name, content))

    def upload(self, name: str, chunks: Callable[[], Iterable[bytes | memoryview]], size: int) -> None:
        """Store a large object in parts, in place of what has its name. What went up is taken back if that fails.

        :param chunks: gives the bytes, each time that it is called.
        """
        part = max(PART_BYTES, -(-size // _PARTS_AT_MOST))
        self._send(lambda obstore, store: obstore.put(store, name, chunks(), use_multipart=True, chunk_size=part))

    def get(self, name: str) -> tuple[Body, Callable[[], Buffer] | None]:
        """Return the whole of an object with one request, unless it is large.

        :return: the content and None; or no content and what reads the first ``PART_BYTES``, which are on their way.
        :raises MissingError: if there is no such object.
        """
        result = self._send(lambda obstore, store: self._get(obstore, store, name))
        if isinstance(result, Body):
            return result, None
        under_way = [result]
        first = partial(self._send, lambda obstore, store: _beginning(obstore, store, name, under_way))
        return Body(b"", result.meta["size"]), first

    def get_range(self, name: str, start: int, end: int) -> Body:
        """Return a part of an object: from ``start`` up to ``end``, or to the object's end.

        :raises MissingError: if there is no such object.
        """
        return self._send(lambda obstore, store: get_range(obstore, store, name, start, end))

    def get_buffer(self, name: str, start: int, end: int) -> Buffer:
        """Return the bytes of a part of an object without copying them.

        :raises MissingError: if there is no such object.
        """
        return self._send(lambda obstore, store: _buffer(open_range(obstore, store, name, start, end)))

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        try:
            return int(self._send(lambda obstore, store: obstore.head(store, name))["size"])
        except MissingError:
            return None

    def list(self, after: str = "", at_once: int = PAGE_NAMES) -> Listing:
        """Return the names after another one, in their order; nothing is asked for yet."""
        return Listing(self._send, after, at_once)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, a thousand with each request. What is not there is no error."""
        for start in range(0, len(names), PAGE_NAMES):
            self._send(lambda obstore, store, some=names[start : start + PAGE_NAMES]: obstore.delete(store, some))  # type: ignore[misc]

    def close(self) -> None:
        """Close the connections."""
        self._requests.close()

    def _create(self, obstore: Any, store: Any, name: str, content: bytes) -> bool:
        try:
            obstore.put(store, name, content, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def _get(self, obstore: Any, store: Any, name: str) -> Any:
        result = open_range(obstore, store, name, 0, PART_BYTES)
        if isinstance(result, Body):
            return result
        size = result.meta["size"]
        return Body(result.bytes().to_bytes(), size) if size <= PART_BYTES else result


class Listing:
    """The names in a bucket, some at a time. A request brings a thousand, or fewer if the server thinks so.

    :ivar ended: whether there are no more.
    """

    def __init__(self, send: Callable[[Callable[[Any, Any], Any]], Any], after: str, at_once: int) -> None:
        self._send = send
        self._after = after
        self._at_once = at_once
        self._stream: Iterator[Any] | None = None
        self.ended = False

    def next(self) -> list[tuple[str, int]]:
        """Return the next names, with the sizes."""
        names: list[tuple[str, int]] = self._send(self._next)
        self.ended = len(names) < self._at_once
        if names:
            self._after = names[-1][0]
        return names

    def _next(self, obstore: Any, store: Any) -> list[tuple[str, int]]:
        stream = self._stream
        if stream is None:
            stream = self._stream = obstore.list(store, offset=self._after or None, chunk_size=self._at_once)
        try:
            return [(item["path"], item["size"]) for item in next(stream, ())]
        except BaseException:
            self._stream = None  # the next try begins where this one was
            raise


def _beginning(obstore: Any, store: Any, name: str, under_way: list[Any]) -> Buffer:
    """Return the first part of an object, from a request that is under way or, if that has failed, from a new one."""
    return _buffer(under_way.pop() if under_way else open_range(obstore, store, name, 0, PART_BYTES))


def _buffer(result: Any) -> Buffer:
    content: Buffer = result.content if isinstance(result, Body) else result.bytes()
    return content


def _connected(options: S3Options) -> Any:
    return imported("obstore.store").S3Store(
        options.bucket,
        prefix=options.prefix or None,
        virtual_hosted_style_request=options.virtual_hosted_style,
        **({} if options.endpoint is None else {"endpoint": options.bucket_endpoint}),
        **credential_options(options),
        **client_options(options.timeout, options.retry_timeout, (options.endpoint or "").startswith("http:")),
    )
