"""`Repository`: entering and leaving, pickling, results that need `async with`, and backends that misbehave."""

from __future__ import annotations

import copy
import gc
import hashlib
import io
import pickle
import threading
import time
import warnings
from pathlib import Path

import anyio
import pytest

from objrepo import (
    ArchiveRepository,
    AzureRepository,
    CachedRepository,
    DiskRepository,
    GCSRepository,
    MemoryRepository,
    ReadOnlyError,
    RepositoryClosedError,
    RepositoryError,
    S3Repository,
    SandboxRepository,
    export,
)
from objrepo.instrumentation import InstrumentedRepository, log_operations
from objrepo.integrity import VerifyingHandle
from objrepo.memory import MemoryBackend
from objrepo.offload import Inline, Threads
from objrepo.repository import Repository
from objrepo.streams import RangeHandle
from objrepo.testing.fixtures import content_of

LARGE = content_of(3_000_000)


class BlockingBackend(MemoryBackend):
    """A backend whose `size` and `close` can be blocked."""

    def __init__(self):
        super().__init__()
        self.in_size, self.in_close = threading.Event(), threading.Event()
        self.go_on = threading.Event()
        self.closed = 0

    def size(self, key):
        self.in_size.set()
        assert self.go_on.wait(30)
        return super().size(key)

    def close(self):
        self.in_close.set()
        assert self.go_on.wait(30)
        self.closed += 1
        super().close()


class TestEnteringAndLeaving:
    async def test_a_task_that_enters_while_the_last_one_leaves_keeps_its_streams(self):
        backend = BlockingBackend()
        backend.go_on.set()
        repo = Repository(backend)
        async with repo:
            key = await repo.put(LARGE)
        backend.in_close.clear()
        backend.go_on.clear()

        abandoned = anyio.CancelScope()

        async def leave():
            async with repo:
                with abandoned:
                    await repo.size(key)  # leaving waits until the thread has ended

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await anyio.to_thread.run_sync(backend.in_size.wait)
            abandoned.cancel()
            with anyio.fail_after(30):
                while repo.statistics().users:  # until the first task is leaving
                    await anyio.sleep(0.01)
            async with repo, repo.open(key) as stream:
                backend.go_on.set()
                await anyio.sleep(0.1)
                assert not backend.in_close.is_set()
                assert await stream.read() == LARGE
        assert backend.in_close.is_set()

    async def test_a_task_that_enters_while_the_repository_closes_waits(self):
        backend = BlockingBackend()
        backend.go_on.set()
        repo = Repository(backend, Threads(1))
        order = []

        async def leave():
            async with repo:
                backend.go_on.clear()
            order.append("left")

        async def enter():
            async with repo:
                order.append("entered")
                assert backend.closed == 1

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await anyio.to_thread.run_sync(backend.in_close.wait)
            group.start_soon(enter)
            await anyio.sleep(0.05)
            assert order == []
            backend.go_on.set()
        assert sorted(order) == ["entered", "left"]

    async def test_a_cancelled_entry_counts_no_user(self):
        backend = BlockingBackend()
        backend.go_on.set()
        repo = Repository(backend)

        async def leave():
            async with repo:
                backend.go_on.clear()

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await anyio.to_thread.run_sync(backend.in_close.wait)
            with anyio.move_on_after(0.05) as scope:
                async with repo:
                    pytest.fail("it is closing")
            assert scope.cancelled_caught
            backend.go_on.set()
        assert repo.statistics().users == 0

    async def test_a_sandbox_keeps_its_objects_while_tasks_come_and_go(self, tmp_path):
        repo = SandboxRepository(tmp_path)

        async def come_and_go(number):
            for _ in range(20):
                async with repo:
                    key = await repo.put(b"%d" % number)
                    await anyio.lowlevel.checkpoint()
                    assert await repo.get(key) == b"%d" % number

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(come_and_go, number)
        assert list(tmp_path.iterdir()) == []

    def test_threads_that_enter_and_leave_at_once(self, tmp_path):
        """Two event loops and the same repository."""
        repo = DiskRepository(tmp_path / "repository")
        failures = []

        async def work(number):
            for _ in range(10):
                async with repo:
                    key = await repo.put(content_of(300_000, number))
                    async with repo.open(key) as stream:
                        assert await stream.read() == content_of(300_000, number)

        def run(backend, number):
            try:
                anyio.run(work, number, backend=backend)
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        async def initialise():
            async with repo:
                await repo.initialise()

        anyio.run(initialise)
        threads = [threading.Thread(target=run, args=(("asyncio", "trio")[n % 2], n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    async def test_opens_that_were_cancelled_leave_no_open_object(self, tmp_path):
        async with DiskRepository(tmp_path / "repository") as repo:
            await repo.initialise()
            key = await repo.put(LARGE)

            async def open_and_read():
                async with repo.open(key) as stream:
                    await stream.read(500_000)
                    await anyio.sleep(60)

            for number in range(20):
                async with anyio.create_task_group() as group:
                    for _ in range(10):
                        group.start_soon(open_and_read)
                    await anyio.sleep(number / 1000)
                    group.cancel_scope.cancel()
            with anyio.fail_after(20):
                while repo.statistics().workers_busy:
                    await anyio.sleep(0.001)
            assert repo.statistics().open_objects == 0
            async with repo.open(key):
                assert repo.statistics().open_objects == 1


class TestABackendThatReturnsEarly:
    class Backend(MemoryBackend):
        def put(self, reader):
            return hashlib.sha256(reader.read(10)).hexdigest()

    @pytest.mark.parametrize("pause", [0.001, 60])
    async def test_put_ends_when_the_backend_has_returned(self, pause):
        closed = []

        async def endless():
            try:
                for _ in range(20):
                    yield bytes(100_000)
                while True:
                    await anyio.sleep(pause)
                    yield bytes(100_000)
            finally:
                closed.append(1)

        async with Repository(self.Backend()) as repo:
            with anyio.fail_after(10):
                assert await repo.put(endless()) == hashlib.sha256(bytes(10)).hexdigest()
        assert closed

    async def test_a_writer_goes_on_when_the_backend_has_returned(self):
        async with Repository(self.Backend()) as repo:
            with anyio.fail_after(10):
                async with repo.create() as writer:
                    for _ in range(50):
                        await writer.write(bytes(100_000))
        assert writer.key == hashlib.sha256(bytes(10)).hexdigest()


@pytest.fixture
def kinds(tmp_path):
    """Return one repository of each kind."""
    return {
        "disk": DiskRepository(tmp_path / "repository"),
        "inline": DiskRepository(tmp_path / "repository", Inline()),
        "memory": MemoryRepository(),
        "sandbox": SandboxRepository(tmp_path / "sandbox"),
        "archive": ArchiveRepository(tmp_path / "archive.zip"),
        "remote archive": ArchiveRepository("https://localhost:1/archive.zip"),
        "azure": AzureRepository("container", "prefix", account="account", timeout=3),
        "gcs": GCSRepository("bucket", "prefix", endpoint="http://localhost:1", concurrency=5),
        "s3": S3Repository("bucket", "prefix", endpoint="http://localhost:1", timeout=3, concurrency=5),
        "cached": CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=1000),
        "instrumented": InstrumentedRepository(DiskRepository(tmp_path / "repository"), log_operations),
        "generic": Repository(MemoryBackend(), Threads(3)),
    }


KINDS = (
    "disk",
    "inline",
    "memory",
    "sandbox",
    "archive",
    "remote archive",
    "s3",
    "azure",
    "gcs",
    "cached",
    "instrumented",
    "generic",
)


class TestPickling:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("how", [lambda repo: pickle.loads(pickle.dumps(repo)), copy.copy, copy.deepcopy])
    async def test_a_copy_has_the_configuration_and_is_closed(self, kinds, kind, how):
        repo = kinds[kind]
        async with repo:
            copied = how(repo)
            if kind not in ("memory", "cached", "generic"):  # which show where in memory they are
                assert str(copied) == str(repo)
            assert type(copied) is type(repo)
            assert repr(copied.offload) == repr(repo.offload)
            with pytest.raises(RepositoryClosedError):
                await copied.has("0" * 64)

    def test_a_copy_holds_no_secret_that_was_not_given(self, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-environment")
        pickled = pickle.dumps(S3Repository("bucket"))
        assert b"environment" not in pickled

    @pytest.mark.parametrize("secret", [{"access_key_id": "id", "secret_access_key": "given"}, {"session_token": "t"}])
    def test_one_with_a_secret_is_copied_and_not_pickled(self, secret):
        repo = CachedRepository(MemoryRepository(), S3Repository("bucket", "prefix", **secret), max_bytes=1)
        with pytest.raises(TypeError, match=r"cannot pickle s3://bucket/prefix: .* set AWS_ACCESS_KEY_ID"):
            pickle.dumps(repo)
        for copied in (copy.copy(repo), copy.deepcopy(repo)):
            assert copied._repository.backend._options == repo._repository.backend._options

    async def test_leaving_a_copy_of_a_sandbox_keeps_the_objects(self, tmp_path):
        async with SandboxRepository(tmp_path) as repo:
            key = await repo.put(b"content")
            async with copy.copy(repo) as copied:
                assert not await copied.has(key)
            assert await repo.get(key) == b"content"


class TestResultsThatNeedAsyncWith:
    @pytest.mark.parametrize("kind", ["disk", "cached", "instrumented"])
    async def test_they_say_so(self, kinds, kind):
        async with kinds[kind] as repo:
            await repo.initialise()
            key = await repo.put(b"content")
            with pytest.raises(AttributeError, match=r"use `async with repo.open\(key\) as stream`"):
                repo.open(key).read()
            with pytest.raises(AttributeError, match=r"use `async with repo.stream\(keys\) as objects`"):
                repo.stream([key]).close()
            with pytest.raises(TypeError, match=r"use `async with repo.open\(key\) as stream`"):
                await repo.open(key)
            with pytest.raises(TypeError, match="use `async with"), repo.open(key):
                pytest.fail("it is an async context manager")
            with pytest.raises(TypeError, match="use `async with"):
                async for _ in repo.stream([key]):
                    pytest.fail("it was not entered")
            with pytest.raises(RepositoryClosedError, match=r"use `async with repo.create\(\) as writer`"):
                await repo.create().write(b"content")
            with pytest.raises(TypeError, match=r"use `async with repo.create\(\) as writer`"), repo.create():
                pytest.fail("it is an async context manager")
            with pytest.raises(TypeError, match=r"use `async for key in repo.keys\(\)`"):
                list(repo.keys())
            with pytest.raises(TypeError, match=r"use `async with`; .* objrepo.sync.open_repository\(path\)$"), repo:
                pytest.fail("it is an async context manager")


@pytest.mark.parametrize("sources", [b"content", bytearray(b"content"), "README.md", Path("README.md")])
async def test_put_many_refuses_one_source(repo, sources):
    with pytest.raises(TypeError, match=rf"not one {type(sources).__name__}: use put for it"):
        await repo.put_many(sources)


@pytest.mark.usefixtures("frozen_heap")
async def test_a_loop_over_keys_that_is_left_leaves_nothing_open(tmp_path):
    async with DiskRepository(tmp_path / "repository") as repo:
        await repo.initialise()
        await repo.put_many(b"%d" % number for number in range(2000))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            async for _ in repo.keys():
                break
            gc.collect()
            await anyio.sleep(0.01)


async def test_a_large_object_is_read_once(tmp_path, monkeypatch):
    async with DiskRepository(tmp_path / "repository") as repo:
        await repo.initialise()
        key = await repo.put(LARGE)
        await repo.maintain()
        read = []
        for module in ("reader", "bulk_reader"):
            import objrepo.disk.pack_files

            def read_at(descriptor, size, offset, real=objrepo.disk.pack_files.read_at):
                data = real(descriptor, size, offset)
                read.append(len(data))
                return data

            monkeypatch.setattr(f"objrepo.disk.{module}.read_at", read_at)
        assert await repo.get(key) == LARGE
        assert sum(read) == len(LARGE)


async def test_errors_name_the_repository(tmp_path):
    archive = tmp_path / "archive.zip"
    async with MemoryRepository() as repo:
        await repo.put(b"content")
        await export(repo, archive)
    async with ArchiveRepository(archive) as repo:
        with pytest.raises(ReadOnlyError, match=r"archive\.zip"):
            await repo.put(b"content")


class TestWriterFaults:
    async def test_a_writer_whose_first_long_write_is_cancelled_raises_an_error(self):
        async with MemoryRepository() as repo:
            writer = repo.create()
            with pytest.raises(RepositoryError, match="cancelled"):
                async with writer:
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await writer.write(LARGE)
            assert [key async for key in repo.keys()] == []

    async def test_a_writer_that_failed_is_not_entered_again(self):
        async with MemoryRepository() as repo:
            writer = repo.create()
            with pytest.raises(ZeroDivisionError):
                async with writer:
                    await writer.write(LARGE)
                    raise ZeroDivisionError
            with pytest.raises(RepositoryClosedError, match="one object"):
                await writer.__aenter__()

    async def test_several_tasks_may_write_to_one_writer(self):
        async with MemoryRepository() as repo:
            with anyio.fail_after(10):
                async with repo.create() as writer, anyio.create_task_group() as group:
                    for _ in range(10):
                        group.start_soon(writer.write, LARGE)
            assert await repo.size(writer.key) == 10 * len(LARGE)


class TestTasksThatShareOneResult:
    async def test_listings_and_streams_refuse_a_second_reader(self):
        async with MemoryRepository() as repo:
            keys = await repo.put_many([b"%d" % number for number in range(300)])
            read = []

            async def read_all(items):
                read.extend([item async for item in items])

            async def read_twice(items):
                async with anyio.create_task_group() as group:
                    group.start_soon(read_all, items)
                    group.start_soon(read_all, items)

            with pytest.raises(BaseExceptionGroup) as caught:
                await read_twice(repo.keys())
            assert caught.group_contains(anyio.BusyResourceError)
            async with repo.stream(keys) as objects:
                with pytest.raises(BaseExceptionGroup) as caught:
                    await read_twice(objects)
                assert caught.group_contains(anyio.BusyResourceError)

    async def test_an_open_context_is_not_entered_twice_at_the_same_time(self):
        async with MemoryRepository() as repo:
            opening = repo.open(await repo.put(LARGE))
            async with opening:
                with pytest.raises(RuntimeError, match="entered already"):
                    await opening.__aenter__()
            assert repo.statistics().open_objects == 0
            async with opening as stream:
                assert await stream.read() == LARGE

    async def test_objects_that_are_opened_while_their_stream_closes_are_closed(self):
        opened, in_open, go_on = [], threading.Event(), threading.Event()

        class SlowBackend(MemoryBackend):
            def open(self, *args):
                in_open.set()
                assert go_on.wait(30)
                opened.append(super().open(*args))
                return opened[-1]

        async def read_one(objects):
            with pytest.raises(RepositoryClosedError):
                await anext(objects)

        async with Repository(SlowBackend()) as repo:
            key = await repo.put(LARGE)
            async with anyio.create_task_group() as group:
                async with repo.stream([key]) as objects:
                    group.start_soon(read_one, objects)
                    await anyio.to_thread.run_sync(in_open.wait)
                go_on.set()
            assert opened[0].handle.closed


def test_reads_of_a_checked_object_that_overlap_are_hashed_once():
    class SlowHash:
        def __init__(self, hasher):
            self.hasher, self.in_update = hasher, threading.Event()
            self.hexdigest = hasher.hexdigest

        def update(self, data):
            self.in_update.set()
            time.sleep(0.1)  # as a large one, it lets other threads run
            self.hasher.update(data)

    key = hashlib.sha256(LARGE).hexdigest()
    handle = VerifyingHandle(key, RangeHandle(key, io.BytesIO(LARGE), 0, len(LARGE)), len(LARGE), "sha256", b"")
    handle._hasher = SlowHash(hashlib.sha256())
    abandoned = threading.Thread(target=handle.read_at, args=(0, 2_000_000))
    abandoned.start()
    handle._hasher.in_update.wait()
    handle.read_at(0, 2_000_000)
    abandoned.join()
    handle.read_at(2_000_000, 1_000_000)
