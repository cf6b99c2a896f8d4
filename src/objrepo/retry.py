"""Repeating requests that fail for the moment."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from objrepo.errors import RepositoryUnavailableError
from objrepo.offload import WorkCancelled, cancel_requested

__all__ = ("FIRST_PAUSE", "MAX_PAUSE", "retry")

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
"""How many seconds the first repetition waits; each further one waits twice as long."""

MAX_PAUSE: Final = 5.0
"""How many seconds a repetition waits at the most."""

_log: Final = logging.getLogger("objrepo")
_CANCEL_CHECK_INTERVAL: Final = 0.05


def retry(request: Callable[[], T], timeout: float) -> T:
    """Call a function; call it again for ``timeout`` seconds while it raises :class:`RepositoryUnavailableError`.

    :raises WorkCancelled: if the caller is cancelled between two calls.
    """
    end = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        try:
            return request()
        except RepositoryUnavailableError as error:
            if time.monotonic() + pause >= end:
                raise
            _log.info("retrying: %s", error)
        _sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, MAX_PAUSE)


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if cancel_requested():
            raise WorkCancelled
        time.sleep(min(left, _CANCEL_CHECK_INTERVAL))
