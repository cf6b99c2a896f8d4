"""How long ago something was, which what is concluded from it may rest on."""

from __future__ import annotations

import time
from typing import Final

MAX_AGE: Final = 60 * 60.0
"""For how many seconds a program relies on what it has seen in the bucket. Maintenance waits for a day."""


class Moment:
    """The moment at which it was made, also if the machine sleeps after that."""

    def __init__(self) -> None:
        self._clocks = clocks()

    def is_recent(self, seconds: float = MAX_AGE) -> bool:
        """Return whether it is less than some seconds ago by every clock of this machine."""
        return all(now - then < seconds for now, then in zip(clocks(), self._clocks, strict=True))


def clocks() -> tuple[float, ...]:
    """Return seconds: of the clock that people set, and of one that is never set and goes on while the machine sleeps.

    A virtual machine that is suspended may notice it only by the first one, after that was set.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time(), time.monotonic()
