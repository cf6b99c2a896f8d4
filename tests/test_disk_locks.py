"""The locks of a repository on disk, beside disk-objectstore's packers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time

import anyio
import pytest

from objrepo import DiskRepository
from objrepo.disk.layout import Layout
from objrepo.disk.locks import maintenance_lock, pack_lock
from objrepo.errors import RepositoryBusyError

PACKER = """
import sys, time
from disk_objectstore import Container
container = Container(sys.argv[1])
with container.lock_pack("0") as pack:
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextlib.contextmanager
def packer(folder, seconds):
    """Let another process hold the lock of a pack as disk-objectstore does."""
    command = [sys.executable, "-c", PACKER, str(folder), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.kill()


async def test_delete_waits_for_a_packer_of_disk_objectstore(repo, folder):
    key = await repo.put(b"content")
    with packer(folder, 1):
        assert (folder / "packs" / "0.lock").exists()
        await repo.delete(key)
        assert not (folder / "packs" / "0.lock").exists()
    assert not await repo.has(key)


async def test_maintain_waits_for_a_packer_of_disk_objectstore(repo, folder):
    await repo.put(b"content")
    with packer(folder, 1):
        report = await repo.maintain(timeout=30)
    assert report.steps[0].objects == 1


@pytest.mark.parametrize("timeout", [0, 0.3])
async def test_maintain_waits_no_longer_than_its_timeout(repo, folder, timeout):
    await repo.put(b"content")
    with packer(folder, 60):
        begin = time.monotonic()
        with pytest.raises(RepositoryBusyError, match=r"0\.lock exists"):
            await repo.maintain(timeout=timeout)
        assert timeout <= time.monotonic() - begin < 20


async def test_cancellation_ends_the_wait(repo, folder):
    key = await repo.put(b"content")
    with packer(folder, 60):
        begin = time.monotonic()
        with anyio.move_on_after(0.3) as scope:
            await repo.delete(key)
        assert scope.cancelled_caught
        assert time.monotonic() - begin < 20
        assert (folder / "packs" / "0.lock").exists()
    assert await repo.has(key)


@pytest.mark.parametrize("seconds", [5, 0])
async def test_a_pack_that_is_locked_during_maintenance_is_waited_for(folder, seconds):
    async with DiskRepository(folder) as repo:
        await repo.initialise()
    layout = Layout(folder)
    lock = layout.packs / "0.lock"
    with maintenance_lock(layout, seconds):
        lock.touch()
        timer = threading.Timer(0.3, lock.unlink)
        timer.start()
        try:
            with contextlib.nullcontext() if seconds else pytest.raises(RepositoryBusyError), pack_lock(layout, 0):
                assert lock.exists()
        finally:
            timer.join()
        assert not lock.exists()
    lock.touch()
    with pytest.raises(RepositoryBusyError), pack_lock(layout, 0):
        raise AssertionError("the timeout ends with the lock that it belongs to")
