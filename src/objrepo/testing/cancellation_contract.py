"""The contract of cancellation: by a scope, by a timeout, and exceptions in the body of `async with`."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import anyio
import pytest

from objrepo.errors import RepositoryClosedError
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.testing.fixtures import content_of

CONTENT = content_of(3 * 1024 * 1024)


class Gate:
    """A file whose second ``read``, on a worker thread, blocks until it is released."""

    def __init__(self) -> None:
        self.reached: threading.Event = threading.Event()
        self.released: threading.Event = threading.Event()
        self._reads = 0

    def read(self, size: int = -1) -> bytes:
        del size
        self._reads += 1
        if self._reads == 2:
            self.reached.set()
            assert self.released.wait(30)
        return b"chunk" if self._reads < 3 else b""


class CancellationContract:
    """Promises about operations that are cancelled."""

    async def test_put_cancelled_in_its_source_closes_the_source(self, repo: AsyncRepository) -> None:
        closed = False

        async def endless() -> AsyncIterator[bytes]:
            nonlocal closed
            try:
                while True:
                    yield CONTENT
                    await anyio.sleep(0.001)
            finally:
                closed = True

        with anyio.move_on_after(0.1) as scope:
            await repo.put(endless())
        assert scope.cancelled_caught
        assert closed
        assert [key async for key in repo.keys()] == []
        assert await repo.get(await repo.put(b"afterwards")) == b"afterwards"

    async def test_put_cancelled_on_a_worker_thread_is_shielded(self, repo: AsyncRepository) -> None:
        gate = Gate()
        ended = False

        async def put() -> None:
            nonlocal ended
            try:
                await repo.put(gate)
            finally:
                ended = True

        async with anyio.create_task_group() as group:
            group.start_soon(put)
            await anyio.to_thread.run_sync(gate.reached.wait)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                assert not ended, "a write is shielded from cancellation"
                gate.released.set()
        assert [key async for key in repo.keys()] == [], "the cancelled put stores nothing"
        assert (await repo.verify()).ok

    async def test_a_cancelled_operation_does_not_start(self, repo: AsyncRepository) -> None:
        key = await repo.put(CONTENT)
        for operation in (
            lambda: repo.put(b"never"),
            lambda: repo.put_many([b"never"]),
            lambda: repo.has(key),
            lambda: repo.get(key),
            lambda: repo.delete(key),
            lambda: repo.info(),
            lambda: repo.verify(),
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await operation()
                pytest.fail("the operation was not cancelled")
            assert scope.cancelled_caught
        assert [key async for key in repo.keys()] == [key]

    async def test_cancelled_reads_leave_the_repository_usable(self, repo: AsyncRepository) -> None:
        key = await repo.put(CONTENT)
        for number in range(40):
            with anyio.move_on_after(number / 10_000):
                async with repo.open(key) as stream:
                    async for _ in stream:
                        pass
            with anyio.move_on_after(number / 10_000):
                await repo.get(key)
        assert await repo.get(key) == CONTENT

    async def test_a_stream_keeps_its_position_after_a_cancelled_read(self, repo: AsyncRepository) -> None:
        async with repo.open(await repo.put(CONTENT)) as stream:
            await stream.seek(1_000_000)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.read()
            assert await stream.tell() == 1_000_000
            assert await stream.read() == CONTENT[1_000_000:]

    async def test_an_exception_in_the_body(self, repo: AsyncRepository) -> None:
        keys = await repo.put_many([CONTENT, CONTENT[1:]])
        streams: list[ObjectStream] = []
        with pytest.raises(KeyError, match="mine"):
            async with repo.open(keys[0]) as stream:
                streams.append(stream)
                raise KeyError("mine")
        with pytest.raises(KeyError, match="mine"):
            async with repo.stream(keys) as objects:
                streams += [stream async for _, stream in objects]
                raise KeyError("mine")
        for stream in streams:
            with pytest.raises(RepositoryClosedError):
                await stream.read()

    async def test_leaving_closes_open_streams(self, repository: AsyncRepository) -> None:
        async with repository:
            await repository.initialise()
            context = repository.open(await repository.put(CONTENT))
            stream = await context.__aenter__()
            await stream.receive()
        with pytest.raises(RepositoryClosedError):
            await stream.read()
        await context.__aexit__(None, None, None)
