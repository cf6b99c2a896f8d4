"""Repeating requests that fail for the moment."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from objrepo.errors import RepositoryUnavailableError
from objrepo.offload import WorkCancelled, cancel_requested

__all__ = ("CANCEL_CHECK_INTERVAL", "FIRST_PAUSE", "MAX_PAUSE", "retry")

T = TypeVar("T")

FIRST_PAUSE: Final = 0.1
"""How many seconds the first repetition waits; each further one waits twice as long."""

MAX_PAUSE: Final = 5.0
"""How many seconds a repetition waits at the most."""

CANCEL_CHECK_INTERVAL: Final = 0.05
"""After how many seconds a thread that waits looks again whether its caller is cancelled."""

_log: Final = logging.getLogger("objrepo")
_WARNED_REPETITION: Final = 3  # about half a second after the first call


def retry(request: Callable[[], T], timeout: float) -> T:
    """Call a function; call it again for ``timeout`` seconds while it raises :class:`RepositoryUnavailableError`.

    Each repetition is logged, one of them as a warning: a user would otherwise wait without knowing for what.

    :raises WorkCancelled: if the caller is cancelled between two calls.
    """
    end = time.monotonic() + timeout
    pause = FIRST_PAUSE
    repetition = 0
    while True:
        try:
            return request()
        except RepositoryUnavailableError as error:
            left = end - time.monotonic()
            if pause >= left:
                raise
            repetition += 1
            level = logging.WARNING if repetition == _WARNED_REPETITION else logging.INFO
            _log.log(level, "%s; trying again for %.1f seconds", error, left)
        _sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, MAX_PAUSE)


def _sleep(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if cancel_requested():
            raise WorkCancelled
        time.sleep(min(left, CANCEL_CHECK_INTERVAL))
