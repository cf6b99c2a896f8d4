"""Sessions of a container: when one may serve another call."""

from __future__ import annotations

import os

import anyio
import pytest
from disk_objectstore import Container

from helpers import put_loose
from objrepo import (
    DiskRepository,
)
from objrepo.disk.layout import Layout
from objrepo.disk.session import SessionPool

ATTEMPTS = 5


@pytest.mark.parametrize("used_index", [False, True])
async def test_a_replaced_container_is_detected_even_if_its_inode_is_reused(folder, used_index):
    """File systems such as ext4 give the inode number of a deleted index to the next one."""
    reused = 0
    async with DiskRepository(folder) as other:  # stands for another process: it shares nothing with `repo`
        for _ in range(ATTEMPTS):
            await other.initialise()
            async with DiskRepository(folder) as repo:
                assert len(await repo.put(b"content")) == 64
                if used_index:
                    assert await repo.has("0" * 64) is False
                inode = os.stat(folder / "packs.idx").st_ino
                await other.erase()
                await other.initialise(hash_type="sha1")
                reused += os.stat(folder / "packs.idx").st_ino == inode
                assert len(await repo.put(b"content")) == 40
            await other.erase()
    if used_index:
        assert not reused, "SQLite keeps the file open, so that its number cannot be reused"
    elif not reused:
        pytest.skip("this file system did not reuse an inode number")


class TestSessions:
    def test_a_session_serves_one_caller_at_a_time_and_is_reused(self, folder):
        with Container(folder) as container:
            container.init_container()
        pool = SessionPool(Layout(folder))
        with pool.check_out() as first, pool.check_out() as second:
            assert first is not second
            connections = {first.index, second.index}
        with pool.check_out() as third:
            assert third.index in connections
            assert third.container is third.container
        pool.close()
        with pool.check_out() as fourth:
            assert fourth.index not in connections
        pool.close()

    def test_an_unexpected_error_closes_the_session(self, folder):
        with Container(folder) as container:
            container.init_container()
        pool = SessionPool(Layout(folder))
        with pytest.raises(ZeroDivisionError), pool.check_out() as broken:
            raise ZeroDivisionError
        with pytest.raises(FileNotFoundError), pool.check_out() as kept:
            raise FileNotFoundError
        assert kept is not broken
        with pool.check_out() as again:
            assert again is kept
        pool.close()

    async def test_leaving_closes_every_file(self, folder):
        def open_files():
            return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdecimal() and
                    os.path.islink(f"/proc/self/fd/{fd}")}  # fmt: skip

        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await put_loose(repo, (b"%d" % number for number in range(50)))
            async with anyio.create_task_group() as group:
                for key in keys:
                    group.start_soon(repo.get, key)
            await repo.maintain()
            assert any(str(folder) in path for path in open_files())
        assert not [path for path in open_files() if str(folder) in path]
