"""Sessions of a container: when one may serve another call."""

from __future__ import annotations

import os

import pytest

from objrepo import DiskRepository

ATTEMPTS = 5


@pytest.mark.parametrize("used_index", [False, True])
async def test_a_container_that_replaced_another_is_noticed_also_if_it_reuses_the_inode(folder, used_index):
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
