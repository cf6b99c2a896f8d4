"""Who may hash and write: all processors but one, which is left to the event loop and to those who only read.

With as many threads at it as there are puts, a loop on two processors waited more than 5 ms for one of them, in one of
a hundred times; so it waits 2 (``benchmarks/large.py``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from objrepo.offload import PROCESSORS

__all__ = ("turn",)

_PATIENCE: Final = 1.0
"""After how many seconds somebody's write has got stuck, on a disk that does not answer, say: do not wait for it."""

_free = threading.BoundedSemaphore(max(PROCESSORS - 1, 1))


@contextmanager
def turn(wanted: bool) -> Iterator[bool]:
    """Wait for a turn, and have it until this is left.

    :param wanted: whether to wait; those who do not are not counted.
    :return: a context manager that says whether the turn came.
    """
    free = _free
    taken = wanted and free.acquire(timeout=_PATIENCE)
    try:
        yield taken
    finally:
        if taken:
            free.release()


def _renew() -> None:
    """In a child process, those who had their turn at the moment of the fork do not exist."""
    global _free
    _free = threading.BoundedSemaphore(max(PROCESSORS - 1, 1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
