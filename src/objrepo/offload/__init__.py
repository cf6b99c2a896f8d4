"""Where blocking functions run: on worker threads (`Threads`), or right here (`Inline`).

Backends hand over blocking functions with ``await offload.run(function, *args)`` and await nothing else. What such a
function takes (a lease, a handle, a lock) it gives back itself, so that a caller may leave before it has ended.
"""

from __future__ import annotations

from objrepo.offload.base import UNBATCHED, Inline, Offload, OffloadStatistics
from objrepo.offload.own import OwnThreads
from objrepo.offload.pool import BlockingPool
from objrepo.offload.threads import PROCESSORS, Threads
from objrepo.offload.work_item import WorkCancelled, call_soon, cancel_requested

__all__ = (
    "PROCESSORS",
    "UNBATCHED",
    "BlockingPool",
    "Inline",
    "Offload",
    "OffloadStatistics",
    "OwnThreads",
    "Threads",
    "WorkCancelled",
    "call_soon",
    "cancel_requested",
)
