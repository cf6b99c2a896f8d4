"""Where blocking functions run: on worker threads (`Threads`), or in the calling thread (`Inline`).

A repository awaits ``offload.run(function, *args)`` and nothing else. What the function acquires (a session, a file, a
lock) it releases itself, so that a cancelled caller can leave before the function has returned.
"""

from __future__ import annotations

from objrepo.offload.base import UNBATCHED, Inline, Offload, OffloadStatistics, Submitted, runs_in_place
from objrepo.offload.interrupts import interruptible
from objrepo.offload.pool import BlockingPool
from objrepo.offload.threads import PROCESSORS, Threads
from objrepo.offload.work_item import (
    WorkCancelled,
    WorkItem,
    call_soon,
    cancel_requested,
    is_cancellable,
    set_cancellable,
)

__all__ = (
    "PROCESSORS",
    "UNBATCHED",
    "BlockingPool",
    "Inline",
    "Offload",
    "OffloadStatistics",
    "Submitted",
    "Threads",
    "WorkCancelled",
    "WorkItem",
    "call_soon",
    "cancel_requested",
    "interruptible",
    "is_cancellable",
    "runs_in_place",
    "set_cancellable",
)
