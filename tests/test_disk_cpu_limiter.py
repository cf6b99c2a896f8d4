"""The limit on threads that hash and compress at the same time."""

from __future__ import annotations

import subprocess
import sys
import threading

import anyio

from objrepo.disk import cpu_limiter
from objrepo.testing.fixtures import content_of


async def test_a_write_waits_for_a_slot_only_until_the_timeout(repo, monkeypatch):
    monkeypatch.setattr(cpu_limiter, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(cpu_limiter, "_TIMEOUT", 0.05)
    with cpu_limiter.cpu_slot(wanted=True) as taken:
        assert taken
        with anyio.fail_after(5):
            key = await repo.put(content_of(20_000_000))
    assert await repo.get(key) == content_of(20_000_000)
    with cpu_limiter.cpu_slot(wanted=True) as taken, cpu_limiter.cpu_slot(wanted=False) as other:
        assert (taken, other) == (True, False)


def test_a_forked_child_has_free_slots():
    script = """
import os
from objrepo.disk import cpu_limiter
with cpu_limiter.cpu_slot(wanted=True):
    before = cpu_limiter._slots
    if (child := os.fork()) == 0:
        os._exit(0 if cpu_limiter._slots is not before and cpu_limiter._slots.acquire(timeout=0) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"0\n"
