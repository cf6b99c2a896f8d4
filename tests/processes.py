"""Processes that tests start: with permissions that count for root too, and with their memory measured."""

from __future__ import annotations

import ctypes
import re
import socket
import sys

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


def drop_powers():
    """Take from the program that is started next what lets root read and write whatever it likes."""
    for power in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, power, 0, 0, 0)


def peak_memory():
    """Return the most bytes that this process has had in memory.

    Not `getrusage`: its figure comes along from the process that started this one.
    """
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024


def free_ports(count=1):
    """Return ports that nobody listens on at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":  # run a script, and tell how much memory it needed
    import runpy

    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
    print(peak_memory())
