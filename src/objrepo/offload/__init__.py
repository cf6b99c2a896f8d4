"""Where blocking functions run: on worker threads (`Threads`), or right here (`Inline`).

Backends hand over blocking functions with ``await offload.run(function, *args)`` and await nothing else. What such a
function takes (a lease, a handle, a lock) it gives back itself, so that a caller may leave before it has ended.
"""

from __future__ import annotations

from objrepo.offload.base import ALONE, Inline, Offload, Traffic
from objrepo.offload.calls import OperationAbandoned, call_soon, is_abandoned
from objrepo.offload.own import OwnThreads
from objrepo.offload.several import Several
from objrepo.offload.threads import PROCESSORS, Threads

__all__ = (
    "ALONE",
    "PROCESSORS",
    "Inline",
    "Offload",
    "OperationAbandoned",
    "OwnThreads",
    "Several",
    "Threads",
    "Traffic",
    "call_soon",
    "is_abandoned",
)
