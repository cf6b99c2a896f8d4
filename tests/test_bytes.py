"""Bytes on their way in and out: hops, bounded memory, and what happens when a source misbehaves."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import aiofiles
import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objrepo import (
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    RepositoryClosedError,
    SandboxRepository,
)
from objrepo.offload import Inline, Threads
from objrepo.sources import PIPE_BYTES
from objrepo.streams import CHUNK_BYTES, RangeHandle, open_range
from objrepo.testing.fixtures import content_of
from processes import drop_capabilities


class Counted(Threads):
    """Worker threads that count the calls to them."""

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
        """Return how many calls there were since this was last called; a batch is one call."""
        calls, self.calls = self.calls + self.statistics().batches, -self.statistics().batches
        return calls


@pytest.fixture
async def repo(tmp_path):
    async with DiskRepository(tmp_path / "repository", Counted()) as repo:
        await repo.initialise()
        yield repo


class TestThreadCalls:
    """A thread call takes longer than reading a small object, so that one is made where one is enough."""

    @staticmethod
    def count(repo):
        return repo.offload.taken()

    async def test_a_real_file_is_read_in_one(self, repo, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(content_of(5_000_000))
        with path.open("rb") as file:
            async with await anyio.open_file(path, "rb") as anyio_file:
                self.count(repo)
                for source in (file, anyio_file, path.read_bytes(), io.BytesIO(path.read_bytes())):
                    await repo.put(source)
                    assert self.count(repo) == 1
                await repo.put(path)
                assert self.count(repo) == 2  # in the first it is found too large to be stored with others

    async def test_a_short_async_source_is_stored_in_one(self, repo):
        async def source():
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                yield b"content"

        self.count(repo)
        await repo.put(source())
        assert self.count(repo) == 1

    async def test_a_small_object_is_opened_read_and_closed_in_one(self, repo):
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

    async def test_many_small_objects_share_them(self, repo):
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


def test_aiofiles_handles_of_a_running_loop(tmp_path):
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


class TestPipe:
    async def test_no_more_waits_than_is_promised(self, repo):
        """The worker is held up; the source is not asked for more than the buffer takes."""
        given_out = 0
        chunk = bytes(64 * 1024)
        release = threading.Event()
        real = repo.backend.put

        def slow(reader):
            assert release.wait(30)
            return real(reader)

        repo.backend.put = slow

        async def source():
            nonlocal given_out
            for _ in range(100):
                yield chunk
                given_out += len(chunk)

        async with anyio.create_task_group() as group:
            group.start_soon(repo.put, source())
            await anyio.sleep(0.2)
            assert PIPE_BYTES <= given_out <= PIPE_BYTES + 2 * len(chunk)
            release.set()
        assert given_out == 100 * len(chunk)

    async def test_an_error_of_the_repository_ends_the_source(self, repo, tmp_path):
        ended = []

        def full(reader):
            reader.read(10)
            raise OSError(28, "No space left on device")

        repo.backend.put = full

        async def source():
            try:
                while True:
                    await anyio.lowlevel.checkpoint()
                    yield bytes(100_000)
            finally:
                ended.append(1)

        with pytest.raises(OSError, match="No space left"):
            await repo.put(source())
        assert ended

    async def test_chunks_that_change_after_they_were_given(self, repo):
        async def source():
            buffer = bytearray(100_000)
            for number in range(30):
                buffer[:] = bytes([number]) * len(buffer)
                yield buffer

        key = await repo.put(source())
        assert await repo.get(key) == b"".join(bytes([number]) * 100_000 for number in range(30))

    @pytest.mark.parametrize("kind", [DiskRepository, SandboxRepository, MemoryRepository])
    def test_without_a_loop_it_is_gathered_first(self, tmp_path, kind):
        from objrepo.sync.runner import InPlace

        async def source():
            for _ in range(30):
                yield content_of(100_000)

        async def main():
            arguments = () if kind is MemoryRepository else (tmp_path / "repository",)
            async with kind(*arguments, offload=Inline()) as repo:
                await repo.initialise()
                return await repo.get(await repo.put(source()))

        assert InPlace().call(main) == content_of(100_000) * 30

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sizes=st.lists(st.integers(0, 400_000), max_size=12), read=st.integers(1, 700_000))
    async def test_any_chunks_read_in_any_pieces(self, sizes, read):
        chunks = [content_of(size, seed) for seed, size in enumerate(sizes)]

        async def source():
            for chunk in chunks:
                await anyio.lowlevel.checkpoint()
                yield chunk

        async with MemoryRepository() as repo:

            def store(reader):
                parts = []
                while part := reader.read(read):
                    assert len(part) <= read
                    parts.append(part)
                return b"".join(parts)

            repo.backend.put = store
            assert await repo.put(source()) == b"".join(chunks)


class TestHandle:
    """The blocking file behind a stream."""

    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3))

    def test_a_file_that_gives_little_at_a_time(self):
        handle = RangeHandle("key", self.Dripping(content_of(100)), 10, 50)
        assert handle.read_at(5, 45) == content_of(100)[15:60]
        handle.close()

    def test_a_file_that_ends_early(self):
        file = io.BytesIO(content_of(100))
        with pytest.raises(CorruptObjectError, match="its bytes end after 90 of 95"):
            open_range("key", file, 95, start=10)
        assert file.closed

    def test_closing_waits_for_no_reader(self):
        reading, go_on = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, size=-1):
                reading.set()
                assert go_on.wait(30)
                return super().read(size)

        file = Slow(content_of(100))
        handle = RangeHandle("key", file, 0, 100)
        results = []
        reader = threading.Thread(target=lambda: results.append(handle.read_at(0, 100)))
        reader.start()
        assert reading.wait(30)
        handle.close()
        assert not file.closed, "somebody is reading from it"
        go_on.set()
        reader.join()
        assert file.closed
        assert results == [content_of(100)]
        with pytest.raises(RepositoryClosedError):
            handle.read_at(0, 1)


class TestUnreadable:
    def test_a_path_without_permission(self, tmp_path):
        script = f"""
import anyio, objrepo, pathlib
async def main():
    async with objrepo.DiskRepository({str(tmp_path / "repository")!r}) as repo:
        await repo.initialise()
        try:
            await repo.put(pathlib.Path({str(tmp_path / "secret")!r}))
        except PermissionError as error:
            print(error)
        print([key async for key in repo.keys()])
anyio.run(main)
"""
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "secret").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, preexec_fn=drop_capabilities
        )
        assert "Permission denied" in done.stdout
        assert "secret" in done.stdout
        assert done.stdout.endswith("[]\n")

    async def test_a_non_blocking_file_that_has_nothing_to_give(self, repo):
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        with (
            open(ours, "rb", buffering=0) as reader,
            open(theirs, "wb"),
            pytest.raises(TypeError, match="gave NoneType, not bytes"),
        ):
            await repo.put(reader)
        assert [key async for key in repo.keys()] == []


MEBIBYTE = 1024 * 1024
PEAK = f"""
import sys, anyio, objrepo, pathlib
sys.path.insert(0, {os.path.dirname(__file__)!r})
from processes import peak_memory
from objrepo.disk.container import PatchedContainer  # what the first use imports, is not what is measured
MEBIBYTE = {MEBIBYTE}

async def chunks():
    for _ in range(64 * 16):
        await anyio.sleep(0)
        yield bytes(MEBIBYTE // 16)

async def main(folder, source, work):
    async with objrepo.DiskRepository(folder) as repo:
        await repo.initialise()
        key = await repo.put(b"warm")
        await repo.get(key)
        before = peak_memory()
        if work == "put a path":
            await repo.put(pathlib.Path(source))
        elif work == "put an async source":
            await repo.put(chunks())
        else:
            key = [key async for key in repo.keys() if await repo.size(key) > 100][0]
            before = peak_memory()
            size = 0
            async with repo.open(key) as stream:
                async for chunk in stream:
                    size += len(chunk)
            assert size == 64 * MEBIBYTE
        print(peak_memory() - before)
anyio.run(main, *sys.argv[1:], backend="LOOP")
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_large_objects_need_little_memory(tmp_path, loop):
    """64 MiB in and out, in at most 16 MiB more than the idle process has."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        for number in range(64):
            file.write(content_of(MEBIBYTE, number))

    def peak(work):
        command = [sys.executable, "-c", PEAK.replace("LOOP", loop), str(tmp_path / "repository"), str(source), work]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    works = ("put an async source", "put a path", "read through open")
    peaks = {work: peak(work) for work in works}
    assert max(peaks.values()) < 16 * MEBIBYTE, peaks
    subprocess.run(
        [sys.executable, "-m", "objrepo", "maintain", "--repo", tmp_path / "repository", "--compress"],
        check=True,
        capture_output=True,
    )
    assert peak("read through open") < 16 * MEBIBYTE, "packed, and compressed"
