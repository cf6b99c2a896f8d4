"""How many calls to worker threads an operation needs."""

from __future__ import annotations

import io

import anyio
import pytest

from objrepo import (
    DiskRepository,
)
from objrepo.offload import Threads
from objrepo.streams import CHUNK_BYTES
from objrepo.testing.fixtures import content_of


class Counted(Threads):
    """Worker threads that count calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    async def run(self, *args, **options):
        self.calls += 1
        return await super().run(*args, **options)

    async def submit(self, *args):
        self.calls += 1
        return await super().submit(*args)

    def taken(self):
        """Return the number of calls since the last call of this method; a batch is one call."""
        calls, self.calls = self.calls + self.statistics().batches, -self.statistics().batches
        return calls


@pytest.fixture
async def repo(tmp_path):
    async with DiskRepository(tmp_path / "repository", Counted()) as repo:
        await repo.initialise()
        yield repo


class TestThreadCalls:
    """A call to a worker thread takes longer than reading a small object."""

    @staticmethod
    def count(repo):
        return repo.offload.taken()

    async def test_put_of_a_file_needs_one_call(self, repo, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(content_of(5_000_000))
        with path.open("rb") as file:
            async with await anyio.open_file(path, "rb") as anyio_file:
                self.count(repo)
                for source in (file, anyio_file, path.read_bytes(), io.BytesIO(path.read_bytes())):
                    await repo.put(source)
                    assert self.count(repo) == 1
                await repo.put(path)
                assert self.count(repo) == 2  # the first finds that it is too large for a group commit

    async def test_put_of_a_short_async_source_needs_one_call(self, repo):
        async def source():
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                yield b"content"

        self.count(repo)
        await repo.put(source())
        assert self.count(repo) == 1

    async def test_reading_a_small_object_needs_one_call(self, repo):
        key = await repo.put(content_of(CHUNK_BYTES))
        self.count(repo)
        async with repo.open(key) as stream:
            await stream.read(10)
            async for _ in stream:
                pass
            await stream.seek(0)
            await stream.read()
        assert self.count(repo) == 1
        await repo.get(key)
        assert self.count(repo) == 1
        assert await repo.has(key)
        assert self.count(repo) == 1

    async def test_many_small_objects_need_few_calls(self, repo):
        contents = [b"%d" % number for number in range(1000)]
        self.count(repo)
        keys = await repo.put_many(contents)
        assert self.count(repo) <= 4
        async with repo.stream(keys) as objects:
            async for _, stream in objects:
                await stream.read()
        assert self.count(repo) <= 1 + 4
        assert len([key async for key in repo.keys()]) == 1000
        assert self.count(repo) <= 4
