"""Sources of objects: async sources piped to a worker thread, files, and sources that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objrepo import (
    DiskRepository,
    MemoryRepository,
    SandboxRepository,
)
from objrepo.offload import Inline
from objrepo.sources import PIPE_BYTES
from objrepo.testing.fixtures import content_of
from processes import drop_capabilities


class TestPipe:
    async def test_an_async_source_is_read_ahead_no_further_than_the_buffer(self, repo):
        """The worker thread is blocked meanwhile."""
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

    async def test_an_error_of_the_backend_closes_the_source(self, repo, tmp_path):
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

    async def test_chunks_may_be_changed_after_they_are_yielded(self, repo):
        async def source():
            buffer = bytearray(100_000)
            for number in range(30):
                buffer[:] = bytes([number]) * len(buffer)
                yield buffer

        key = await repo.put(source())
        assert await repo.get(key) == b"".join(bytes([number]) * 100_000 for number in range(30))

    @pytest.mark.parametrize("kind", [DiskRepository, SandboxRepository, MemoryRepository])
    def test_async_sources_are_stored_without_an_event_loop(self, tmp_path, kind):
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
    async def test_chunks_of_any_size_are_read_in_pieces_of_any_size(self, sizes, read):
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


class TestUnreadable:
    def test_a_path_without_permission_raises_permission_error(self, tmp_path):
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

    async def test_a_non_blocking_file_without_data_raises_type_error(self, repo):
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        with (
            open(ours, "rb", buffering=0) as reader,
            open(theirs, "wb"),
            pytest.raises(TypeError, match="gave NoneType, not bytes"),
        ):
            await repo.put(reader)
        assert [key async for key in repo.keys()] == []


async def test_temporary_files_of_anyio_are_sources(repo):
    async with anyio.TemporaryFile() as file:
        await file.write(LARGE)
        await file.seek(0)
        assert await repo.get(await repo.put(file)) == LARGE
    async with anyio.NamedTemporaryFile() as file:
        await file.write(TEXT)
        await file.seek(3)
        assert await repo.get(await repo.put(file)) == TEXT[3:]
    async with anyio.SpooledTemporaryFile(max_size=1000) as file:
        for content in (b"small", LARGE):
            await file.seek(0)
            await file.write(content)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == content
    async with await anyio.open_file(__file__, "rb") as file:
        assert await repo.get(await repo.put(file)) == await anyio.Path(__file__).read_bytes()


LARGE = content_of(3_000_000)


TEXT = b"first line\nsecond line\n\nlast line"
