"""`SandboxRepository`: a folder that is created on first use and removed at the end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap

import anyio
import pytest

from objrepo import SandboxRepository
from objrepo.keys import is_key


async def test_the_folder_is_created_on_first_use(tmp_path):
    async with SandboxRepository(tmp_path / "here") as repo:
        assert repo.folder is None
        assert not (tmp_path / "here").exists()
        assert not await repo.is_initialised()
        assert [key async for key in repo.keys()] == []
        assert repo.folder is None, "asking makes nothing"
        key = await repo.put(b"content")
        assert await repo.is_initialised()
        folder = repo.folder
        assert (folder / key).read_bytes() == b"content"
        assert is_key(key, "uuid4")
        assert folder.parent == tmp_path / "here"
        assert folder.stat().st_mode & 0o077 == 0, "other users have no access"
    assert not folder.exists()
    assert repo.folder is None
    assert (tmp_path / "here").exists()


async def test_equal_contents_get_different_keys():
    async with SandboxRepository() as repo:
        keys = await repo.put_many([b"content"] * 3)
        assert len(set(keys)) == 3
        await repo.delete(keys[0])
        assert await repo.get(keys[1]) == b"content"


async def test_erase_removes_the_folder(tmp_path):
    async with SandboxRepository(tmp_path) as repo:
        await repo.put(b"content")
        await repo.erase()
        assert os.listdir(tmp_path) == []


async def test_an_exception_in_the_body_removes_the_folder(tmp_path):
    with pytest.raises(KeyError):
        async with SandboxRepository(tmp_path) as repo:
            await repo.put(b"content")
            raise KeyError
    assert os.listdir(tmp_path) == []


async def test_cancellation_removes_the_folder(tmp_path):
    with anyio.move_on_after(0.1):
        async with SandboxRepository(tmp_path) as repo:
            await repo.put(b"content")
            await anyio.sleep(10)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("frozen_heap")
async def test_garbage_collection_removes_the_folder(tmp_path):
    repo = SandboxRepository(tmp_path)
    await repo.__aenter__()
    await repo.put(b"content")
    assert os.listdir(tmp_path) != []
    del repo
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_the_end_of_the_interpreter_removes_the_folder(tmp_path):
    script = f"""
import anyio, objrepo
repo = objrepo.SandboxRepository({str(tmp_path)!r})
async def main():
    await repo.__aenter__()
    print(await repo.put(b"content"))
anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert is_key(done.stdout.strip(), "uuid4")
    assert os.listdir(tmp_path) == []


async def test_two_sandboxes_in_one_folder_share_nothing(tmp_path):
    async with SandboxRepository(tmp_path) as one, SandboxRepository(tmp_path) as two:
        key = await one.put(b"content")
        other = await two.put(b"other")
        assert not await two.has(key)
        assert [key async for key in two.keys()] == [other]
        await one.erase()
        assert await two.get(other) == b"other"


async def test_partly_written_files_are_not_listed(tmp_path):
    async with SandboxRepository(tmp_path) as repo:
        key = await repo.put(b"content")
        (repo.folder / "00000000-0000-4000-8000-000000000000.partial").write_bytes(b"")
        assert [key async for key in repo.keys()] == [key]
        assert (await repo.info()).objects == 1


def test_the_folder_has_mode_0700(tmp_path):
    script = f"""
        import os
        os.umask(0)
        from objrepo import SandboxRepository
        from objrepo.offload import Inline
        from objrepo.sync.runner import InPlace
        call = InPlace().call
        repo = SandboxRepository({str(tmp_path)!r}, Inline())
        call(repo.__aenter__)
        call(repo.put, b"content")
        print(oct(os.stat(repo.folder).st_mode & 0o777))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"0o700\n"
