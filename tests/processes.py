"""Helpers for processes that tests start: permissions that apply to root, peak memory, free ports."""

from __future__ import annotations

import ctypes
import re
import socket
import sys

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


def drop_capabilities():
    """Remove the capabilities by which root ignores permissions from programs that this process starts."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def peak_memory(process="self"):
    """Return the peak memory of this or another process in bytes.

    `getrusage` would include the parent process before the exec.
    """
    with open(f"/proc/{process}/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024


def free_ports(count=1):
    """Return unused TCP ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":  # run a script, and print its peak memory
    import runpy

    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
    print(peak_memory())
