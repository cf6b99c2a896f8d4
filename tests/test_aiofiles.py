"""`objrepo.aiofiles`: objects opened as files of aiofiles, and files of aiofiles as sources."""

from __future__ import annotations

import asyncio
import os

import aiofiles
import aiofiles.tempfile
import anyio
import pytest
from aiofiles.threadpool.binary import AsyncBufferedReader

import objrepo.aiofiles
from objrepo import (
    CachedRepository,
    DiskRepository,
    MemoryRepository,
    ObjectNotFoundError,
)
from objrepo.testing.fixtures import LOOPS, content_of

LARGE = content_of(3_000_000)
TEXT = b"first line\nsecond line\n\nlast line"


@pytest.fixture
def loop_name(anyio_backend):
    return anyio_backend[0]


class TestAiofiles:
    @pytest.fixture(params=LOOPS[:-1])
    def anyio_backend(self, request):
        """aiofiles needs asyncio."""
        return request.param

    @pytest.mark.parametrize("content", [b"", TEXT, TEXT * 10_000, TEXT + LARGE.replace(b"\n", b"")], ids=len)
    async def test_code_for_aiofiles_works_unchanged(self, repo, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        key = await repo.put(content)

        async def code(opened):
            async with opened as file:
                yield await file.read(10)
                yield await file.tell()
                yield await file.readline()
                yield [await anext(file, b"") for _ in range(100)]
                yield await file.seek(0)
                yield await file.read()
                yield await file.seek(-5 if content else 0, os.SEEK_END)
                yield await file.read()
                yield await file.seek(3)
                yield await file.read1(2)
                buffer = bytearray(7)
                yield await file.readinto(buffer), buffer
                yield await file.peek(1) != b""
                yield file.mode
                yield await file.readlines(10_000)
                yield file.closed
            yield file.closed

        plain = [each async for each in code(aiofiles.open(tmp_path / "file", "rb"))]
        ours = [each async for each in code(objrepo.aiofiles.open(repo, key))]
        assert ours == plain

    async def test_open_returns_a_file_of_aiofiles(self, repo):
        key = await repo.put(LARGE)
        file = await objrepo.aiofiles.open(repo, key)
        assert isinstance(file, AsyncBufferedReader)
        assert file.name == key
        assert await file.read() == LARGE
        await file.close()
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        with pytest.raises(ObjectNotFoundError):
            async with objrepo.aiofiles.open(repo, "0" * 64):
                pytest.fail("the object does not exist")

    async def test_an_unclosed_file_does_not_block_the_repository(self, repo):
        key = await repo.put(LARGE)
        file = await objrepo.aiofiles.open(repo, key)
        await file.read(1_000_000)
        del file
        assert await repo.get(key) == LARGE

    async def test_many_tasks_read_one_object(self, repo):
        key = await repo.put(LARGE)

        async def read():
            async with objrepo.aiofiles.open(repo, key) as file:
                pieces = []
                while piece := await file.read(100_000):
                    pieces.append(piece)
                assert b"".join(pieces) == LARGE

        await asyncio.gather(*(read() for _ in range(40)))

    async def test_objects_of_a_cached_repository_are_opened(self, tmp_path):
        cached = CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=10_000_000)
        async with cached:
            key = await cached.put(LARGE)
            async with objrepo.aiofiles.open(cached, key) as file:
                assert await file.read() == LARGE

    async def test_temporary_files_of_aiofiles_are_sources(self, repo):
        async with aiofiles.tempfile.TemporaryFile("wb+") as file:
            await file.write(TEXT)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == TEXT
            await file.seek(6)
            assert await repo.get(await repo.put(file)) == TEXT[6:]
        async with aiofiles.tempfile.NamedTemporaryFile("wb+") as file:
            await file.write(LARGE)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == LARGE
        async with aiofiles.tempfile.SpooledTemporaryFile(max_size=1000) as file:
            for content in (b"small", LARGE):
                await file.seek(0)
                await file.write(content)
                await file.seek(0)
                assert await repo.get(await repo.put(file)) == content


async def test_trio_raises_runtime_error(repo, loop_name):
    if loop_name == "trio":
        key = await repo.put(TEXT)
        with pytest.raises(RuntimeError, match=r"aiofiles needs a running asyncio loop.*repo\.open"):
            async with objrepo.aiofiles.open(repo, key):
                pytest.fail("trio is running")


def test_files_of_aiofiles_are_sources(tmp_path):
    async def main():
        (tmp_path / "file").write_bytes(content_of(3_000_000))
        async with MemoryRepository() as repo:
            async with aiofiles.open(tmp_path / "file", "rb") as file:
                assert await file.read(7) == content_of(7)
                assert await repo.get(await repo.put(file)) == content_of(3_000_000)[7:]
            async with aiofiles.tempfile.TemporaryFile("w+b") as file:
                await file.write(b"content")
                await file.seek(0)
                assert await repo.get(await repo.put(file)) == b"content"
            async with aiofiles.open(tmp_path / "file") as file:
                with pytest.raises(TypeError, match="binary"):
                    await repo.put(file)

    anyio.run(main)
