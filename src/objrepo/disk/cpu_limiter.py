"""A limit on threads that hash and write: one processor is left to the event loop and to readers.

With as many writing threads as there are puts, an event loop on two processors waited for more than 5 ms in one of a
hundred cases; with this limit for 2 ms (``benchmarks/large.py``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from objrepo.offload import PROCESSORS

_TIMEOUT: Final = 1.0
"""Seconds to wait for a slot. A thread that holds one for longer is blocked, by a disk that hangs for example."""

_slots = threading.BoundedSemaphore(max(PROCESSORS - 1, 1))


@contextmanager
def cpu_slot(wanted: bool) -> Iterator[bool]:
    """Hold one of the slots, if it is free within a second.

    :param wanted: whether to wait for a slot; without it the work is not counted.
    :return: a context manager that returns whether a slot is held.
    """
    slots = _slots
    held = wanted and slots.acquire(timeout=_TIMEOUT)
    try:
        yield held
    finally:
        if held:
            slots.release()


def _renew() -> None:
    """Free the slots in a child process: the threads that held them at the fork do not exist there."""
    global _slots
    _slots = threading.BoundedSemaphore(max(PROCESSORS - 1, 1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
