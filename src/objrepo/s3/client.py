"""Requests by obstore: sent again while that may help, and with errors of one line that say no secret."""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

from objrepo.errors import AccessDeniedError, NotInitialisedError, RepositoryError, RepositoryUnavailableError
from objrepo.s3.credentials import imported

__all__ = ("Body", "MissingError", "Requests", "client_options", "get_range", "open_range")

T = TypeVar("T")

_log: Final = logging.getLogger("objrepo")
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

_first_process: list[int] = []
"""The process that first sent a request: the threads behind obstore do not survive a fork."""


class MissingError(Exception):
    """There is nothing of that name."""


class Body(NamedTuple):
    """What came of an object: its bytes, or some of them, and the length of the whole object."""

    content: bytes
    size: int


class Requests:
    """Sends requests to one place.

    :param place: what the place is called in errors.
    :param connect: makes obstore's store for it, when it is first used.
    :param retry_timeout: for how many seconds a request is sent again.
    """

    def __init__(self, place: str, connect: Callable[[], Any], retry_timeout: float) -> None:
        self._place = place
        self._connect = connect
        self._retry_for = retry_timeout
        self._opening = threading.Lock()
        self._opened: Any = None

    def send(self, request: Callable[[Any, Any], T]) -> T:
        """Send a request again while it was not answered and there is time.

        obstore sends again itself what was refused with a server's error, and what only reads; but not what writes when
        it got no answer. Here all that is written may be written twice, as names say what is under them.

        :param request: called with obstore and a store of it.
        :raises MissingError: if what it asks for is not there.
        :raises RepositoryError: in one of its kinds, for what cannot be done, within the promised time.
        """
        end = time.monotonic() + self._retry_for
        pause = _FIRST_PAUSE
        while True:
            obstore, store = self._store()
            try:
                with _translated(obstore, self._place):
                    return request(obstore, store)
            except RepositoryUnavailableError as error:
                _log.info("sending a request again: %s", error)
                if time.monotonic() + pause >= end:
                    raise
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            self._opened = None

    def _store(self) -> tuple[Any, Any]:
        obstore = imported("obstore")
        with self._opening:
            _first_process.append(os.getpid())
            del _first_process[1:]
            if _first_process != [os.getpid()]:
                raise RepositoryError(f"{self._place} cannot be used in a process that was forked: spawn it")
            if self._opened is None:
                self._opened = self._connect()
            return obstore, self._opened


def client_options(timeout: float, retry_timeout: float, insecure: bool) -> dict[str, Any]:
    """Return how obstore is told how long to wait.

    :param insecure: whether the place is spoken to without TLS.
    """
    return {
        "client_options": {
            "allow_http": insecure,
            "timeout": timedelta(seconds=timeout),
            "connect_timeout": timedelta(seconds=timeout),
        },
        "retry_config": {
            "max_retries": 1,
            "retry_timeout": timedelta(seconds=retry_timeout),
            "backoff": {
                "init_backoff": timedelta(seconds=_FIRST_PAUSE),
                "max_backoff": timedelta(seconds=_LONGEST_PAUSE),
            },
        },
    }


def get_range(obstore: Any, store: Any, name: str, start: int, end: int) -> Body:
    """Return a part of an object, or of a file: from ``start`` up to ``end``, or to where it ends."""
    result = open_range(obstore, store, name, start, end)
    return result if isinstance(result, Body) else Body(result.bytes().to_bytes(), result.meta["size"])


def open_range(obstore: Any, store: Any, name: str, start: int, end: int) -> Any:
    """Ask for a part; return obstore's result, whose bytes are on their way, or an empty body where nothing is."""
    try:
        return obstore.get(store, name, options={"range": (start, end)})
    except obstore.exceptions.GenericError as error:
        if _status(error) != 416 and "StartTooLarge" not in str(error):
            raise
    return Body(b"", int(obstore.head(store, name)["size"]))  # nothing of it is in the range


@contextmanager
def _translated(obstore: Any, place: str) -> Iterator[None]:
    """Have obstore's errors, which go over pages, come out as ours, of one line."""
    try:
        yield
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise _no_bucket(place) from None
        raise MissingError from None
    except obstore.exceptions.BaseError as error:
        raise _error(error, place) from None


def _error(error: Exception, place: str) -> RepositoryError:
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return _no_bucket(place)
    if code in _HINTS or status in (401, 403):
        hint = _HINTS.get(code, "these credentials may not do that")
        return AccessDeniedError(f"{place} refuses: {hint} ({code or status})")
    if status is not None and (status >= 500 or status == 429):
        return RepositoryUnavailableError(f"{place} is not to be had: it answers {f'{status} {code}'.rstrip()}")
    if status is None and "HTTP error" in str(error):
        return RepositoryUnavailableError(f"{place} is not to be had: {_first_line(error)}")
    return RepositoryError(f"{place} does not do that: {code or _first_line(error)}")


_HINTS: Final = {
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "there is no such access key",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is off",
    "AccessDenied": "these credentials may not do that",
}


def _no_bucket(place: str) -> NotInitialisedError:
    return NotInitialisedError(f"there is no bucket for {place}: make it, and call initialise() then")


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
