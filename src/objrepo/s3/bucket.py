"""The requests to a bucket: each function sends one, sends it again while that may help, and has one-line errors."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

from objrepo.errors import AccessDeniedError, NotInitialisedError, RepositoryError, RepositoryUnavailableError
from objrepo.s3.credentials import credential_options, imported
from objrepo.s3.options import PART_BYTES, S3Options

__all__ = ("Body", "Bucket", "Listing", "MissingError")

T = TypeVar("T")

PAGE_NAMES: Final = 1000
"""How many names one request lists, or deletes, as the protocol has it."""

_PARTS_AT_MOST: Final = 9000
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

_first_process: list[int] = []
"""The process that first spoke to a bucket: the threads behind obstore do not survive a fork."""


class MissingError(Exception):
    """There is nothing of that name in the bucket."""


class Body(NamedTuple):
    """What came of an object: its bytes, or some of them, and the length of the whole object."""

    content: bytes
    size: int


class Bucket:
    """The part of a bucket under a prefix.

    :raises RepositoryError: (each function) in one of its kinds, for what cannot be done, within the promised time.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._opening = threading.Lock()
        self._opened: Any = None

    def create(self, name: str, content: bytes) -> bool:
        """Store an object unless it is there already; return whether it was not."""
        return self._patiently(lambda obstore, store: self._create(obstore, store, name, content))

    def upload(self, name: str, chunks: Callable[[], Iterable[bytes]], size: int) -> None:
        """Store a large object in parts, in place of what has its name. What went up is taken back if that fails.

        :param chunks: gives the bytes, each time that it is called.
        """
        part = max(PART_BYTES, -(-size // _PARTS_AT_MOST))
        self._patiently(lambda obstore, store: obstore.put(store, name, chunks(), use_multipart=True, chunk_size=part))

    def get(self, name: str) -> tuple[Body, bool]:
        """Return the beginning of an object, with the first request, and whether that is all.

        :raises MissingError: if there is no such object.
        """
        return self._patiently(lambda obstore, store: self._get(obstore, store, name))

    def get_range(self, name: str, start: int, end: int) -> Body:
        """Return a part of an object: from ``start`` up to ``end``, or to the object's end.

        :raises MissingError: if there is no such object.
        """
        return self._patiently(lambda obstore, store: self._get_range(obstore, store, name, start, end))

    def size(self, name: str) -> int | None:
        """Return the length of an object, None if it is not there."""
        try:
            return int(self._patiently(lambda obstore, store: obstore.head(store, name))["size"])
        except MissingError:
            return None

    def list(self, after: str = "", at_once: int = PAGE_NAMES) -> Listing:
        """Return the names after another one, in their order; nothing is asked for yet."""
        return Listing(self._patiently, after, at_once)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, a thousand with each request. What is not there is no error."""
        for start in range(0, len(names), PAGE_NAMES):
            self._patiently(lambda obstore, store, some=names[start : start + PAGE_NAMES]: obstore.delete(store, some))  # type: ignore[misc]

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            self._opened = None

    def _create(self, obstore: Any, store: Any, name: str, content: bytes) -> bool:
        try:
            obstore.put(store, name, content, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def _get(self, obstore: Any, store: Any, name: str) -> tuple[Body, bool]:
        result = obstore.get(store, name)
        size = result.meta["size"]
        if size <= 2 * PART_BYTES:
            return Body(result.bytes().to_bytes(), size), True
        parts: list[bytes] = []
        received = 0
        for chunk in result.stream(min_chunk_size=1024 * 1024):
            parts.append(bytes(chunk))
            received += len(chunk)
            if received >= PART_BYTES:
                break
        return Body(b"".join(parts), size), False

    def _get_range(self, obstore: Any, store: Any, name: str, start: int, end: int) -> Body:
        try:
            result = obstore.get(store, name, options={"range": (start, end)})
            return Body(result.bytes().to_bytes(), result.meta["size"])
        except obstore.exceptions.GenericError as error:
            if _status(error) != 416 and "StartTooLarge" not in str(error):
                raise
        return Body(b"", int(obstore.head(store, name)["size"]))  # nothing of the object is in the range

    def _patiently(self, request: Callable[[Any, Any], T]) -> T:
        """Send a request again while it was not answered and there is time.

        obstore sends again itself what was refused with a server's error, and what only reads; but not what writes when
        it got no answer. Here all that is written may be written twice, as names say what is under them.
        """
        end = time.monotonic() + self._options.retry_for
        pause = _FIRST_PAUSE
        while True:
            obstore, store = self._store()
            try:
                with _translated(obstore, self._options):
                    return request(obstore, store)
            except RepositoryUnavailableError:
                if time.monotonic() + pause >= end:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _store(self) -> tuple[Any, Any]:
        obstore = imported("obstore")
        with self._opening:
            _first_process.append(os.getpid())
            del _first_process[1:]
            if _first_process != [os.getpid()]:
                raise RepositoryError(f"{self._options.url} cannot be used in a process that was forked: spawn it")
            if self._opened is None:
                self._opened = _connected(self._options)
            return obstore, self._opened


class Listing:
    """The names in a bucket, some at a time. A request brings a thousand, or fewer if the server thinks so.

    :ivar ended: whether there are no more.
    """

    def __init__(self, patiently: Callable[[Callable[[Any, Any], Any]], Any], after: str, at_once: int) -> None:
        self._patiently = patiently
        self._after = after
        self._at_once = at_once
        self._stream: Iterator[Any] | None = None
        self.ended = False

    def next(self) -> list[tuple[str, int]]:
        """Return the next names, with the sizes."""
        names: list[tuple[str, int]] = self._patiently(self._next)
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


def _connected(options: S3Options) -> Any:
    return imported("obstore.store").S3Store(
        options.bucket,
        prefix=options.prefix or None,
        client_options={
            "allow_http": (options.endpoint or "").startswith("http:"),
            "timeout": timedelta(seconds=options.timeout),
            "connect_timeout": timedelta(seconds=options.timeout),
        },
        retry_config={
            "max_retries": 1,
            "retry_timeout": timedelta(seconds=options.retry_for),
            "backoff": {"init_backoff": timedelta(seconds=_FIRST_PAUSE), "max_backoff": timedelta(seconds=5)},
        },
        virtual_hosted_style_request=options.host_style,
        **({} if options.endpoint is None else {"endpoint": options.bucket_endpoint}),
        **credential_options(options),
    )


@contextmanager
def _translated(obstore: Any, options: S3Options) -> Iterator[None]:
    """Have obstore's errors, which go over pages, come out as ours, of one line."""
    try:
        yield
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise _no_bucket(options) from None
        raise MissingError from None
    except obstore.exceptions.BaseError as error:
        raise _error(error, options) from None


def _error(error: Exception, options: S3Options) -> RepositoryError:
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return _no_bucket(options)
    if code in _HINTS or status in (401, 403):
        hint = _HINTS.get(code, "these credentials may not do that")
        return AccessDeniedError(f"{options.url} refuses: {hint} ({code or status})")
    if status is not None and (status >= 500 or status == 429):
        return RepositoryUnavailableError(f"{options.url} is not to be had: it answers {f'{status} {code}'.rstrip()}")
    if status is None and "HTTP error" in str(error):
        return RepositoryUnavailableError(f"{options.url} is not to be had: {_first_line(error)}")
    return RepositoryError(f"{options.url} does not do that: {code or _first_line(error)}")


_HINTS: Final = {
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "there is no such access key",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is off",
    "AccessDenied": "these credentials may not do that",
}


def _no_bucket(options: S3Options) -> NotInitialisedError:
    return NotInitialisedError(f"there is no bucket for {options.url}: make it, and call initialise() then")


def _code(error: Exception) -> str:
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    timed_out = " (it took too long)" if "TimedOut" in str(error) or "kind: Timeout" in str(error) else ""
    return line.rpartition(" - ")[2] + timed_out
