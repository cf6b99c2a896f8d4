"""Ctrl-C while a repository is changed on the main thread: it ends the call where nothing is left incomplete.

Python raises ``KeyboardInterrupt`` between any two instructions, also between acquiring something and the ``try`` that
releases it. Threads do not have this problem. It is solved as trio and asyncio do it, by a handler of SIGINT, for the
duration of a call. It does nothing where the program has a handler of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from objrepo.offload.work_item import WorkCancelled, set_cancellable

T = TypeVar("T")

# Those of the C module do not convert handlers to an enum, which takes several times as long as the rest.
_functions: Final = sys.modules.get("_signal", signal)
_set_handler: Final = _functions.signal
_get_handler: Final = _functions.getsignal


class _Interrupt:
    """Whether SIGINT was received during a call.

    :ivar cancel_requested: whether it was; see :func:`cancel_requested`.
    """

    def __init__(self) -> None:
        self.cancel_requested = False
        self.is_interruptible = False

    def handle(self, number: int, frame: Any) -> None:
        """Have the call end where it can, the first time; raise ``KeyboardInterrupt`` the second time."""
        if self.cancel_requested or self.is_interruptible:
            raise KeyboardInterrupt
        self.cancel_requested = True


_current: _Interrupt | None = None
"""That of the call on the main thread."""


def call_shielded(function: Callable[..., T], *args: Any) -> T:
    """Call a function. A Ctrl-C meanwhile ends it as a cancellation does, and raises ``KeyboardInterrupt`` afterwards.

    A second Ctrl-C raises it at once, as does the first one in :func:`interruptible`.
    """
    global _current
    if (
        _get_handler(signal.SIGINT) is not signal.default_int_handler
        or threading.get_ident() != threading.main_thread().ident
    ):
        return function(*args)
    interrupt = _Interrupt()
    _set_handler(signal.SIGINT, interrupt.handle)
    try:
        _current = interrupt
        with set_cancellable(interrupt):
            return function(*args)
    except WorkCancelled:
        if not interrupt.cancel_requested:
            raise
        raise KeyboardInterrupt from None
    finally:
        _current = None
        if _get_handler(signal.SIGINT) == interrupt.handle:
            _set_handler(signal.SIGINT, signal.default_int_handler)
        if interrupt.cancel_requested:
            raise KeyboardInterrupt


def interruptible(function: Callable[..., T], *args: Any) -> T:
    """Call a function of the caller, such as one that reads a source: Ctrl-C interrupts it at once."""
    interrupt = _current
    if interrupt is None or threading.get_ident() != threading.main_thread().ident:
        return function(*args)
    interrupt.is_interruptible = True
    try:
        if interrupt.cancel_requested:  # by a Ctrl-C after the caller last asked: the function may wait for ever
            raise KeyboardInterrupt
        return function(*args)
    finally:
        interrupt.is_interruptible = False
