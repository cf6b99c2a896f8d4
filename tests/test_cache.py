"""`CachedRepository`: filling the cache, its bounds, and failures of the cache and of the origin."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager, closing

import anyio
import pytest

from helpers import flip, loose_file
from objrepo import (
    CachedRepository,
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    ObjectNotFoundError,
    RepositoryUnavailableError,
    SandboxRepository,
    copy,
)
from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.testing.fixtures import content_of

SMALL = content_of(1000)
LARGE = content_of(3_000_000)


class Origin(MemoryRepository):
    """A repository that records the methods called, takes 10 ms for each, and can be unavailable."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.offline = False

    async def _pass(self, name):
        self.asked.append(name)
        await anyio.sleep(0.01)
        if self.offline:
            raise RepositoryUnavailableError("the origin is unavailable")

    async def get(self, key, check=False):
        await self._pass("get")
        return await super().get(key, check)

    def open(self, key, offset=0, length=None, check=False):
        self.asked.append("open")
        if self.offline:
            raise RepositoryUnavailableError("the origin is unavailable")
        return super().open(key, offset, length, check)

    async def has_many(self, keys):
        await self._pass("has_many")
        return await super().has_many(keys)

    async def key_format(self):
        await self._pass("key_format")
        return await super().key_format()

    async def uuid(self):
        return "the uuid of the origin"


@pytest.fixture
def origin():
    return Origin()


@pytest.fixture
def make(tmp_path, origin):
    def make(max_bytes=10_000_000, cache=None, **options):
        cache = DiskRepository(tmp_path / "cache") if cache is None else cache
        return CachedRepository(cache, origin, max_bytes=max_bytes, **options)

    return make


async def keys_in_cache(repo):
    async with repo._store.repository as cache:
        return sorted([key async for key in cache.keys()]) if await cache.is_initialised() else []


async def read(repo, key):
    async with repo.open(key) as stream:
        return await stream.read()


class TestFilling:
    @pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=len)
    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_the_first_read_fetches_and_the_next_does_not(self, make, origin, how, content):
        async with make() as repo:
            key = await repo.put(content)
            assert await keys_in_cache(repo) == [], "a put goes to the origin"
            assert await how(repo, key) == content
            assert await keys_in_cache(repo) == [key]
            origin.asked.clear()
            for again in (CachedRepository.get, read):
                assert await again(repo, key) == content
            assert await repo.has(key)
            assert await repo.size(key) == len(content)
            assert await repo.hash(key) == key
            assert origin.asked == []

    async def test_copies_are_kept_after_closing(self, make, origin):
        async with make() as repo:
            key = await repo.put(SMALL)
            await repo.get(key)
        origin.asked.clear()
        async with make() as repo:
            assert await repo.get(key) == SMALL
        assert origin.asked == []

    async def test_ranges_are_not_kept(self, make):
        async with make() as repo:
            key = await repo.put(LARGE)
            async with repo.open(key, 100, 50) as stream:
                assert await stream.read() == LARGE[100:150]
            assert await keys_in_cache(repo) == []
            await repo.get(key)
            async with repo.open(key, 100, 50) as stream:
                assert await stream.read() == LARGE[100:150]

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
    async def test_concurrent_misses_cause_one_download(self, make, origin, how, content):
        async with make() as repo:
            key = await repo.put(content)
            await repo.key_format()
            origin.asked.clear()
            results = []

            async def one():
                results.append(await how(repo, key))

            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(one)
            assert results == [content] * 100
            assert origin.asked in (["get"], ["open"])

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_a_slow_miss_looks_again_into_the_cache_before_it_downloads(self, make, origin, how):
        asked, downloaded = anyio.Event(), anyio.Event()

        class SlowToAnswer(MemoryRepository):
            answers = 0

            async def _answer(self):
                self.answers += 1
                if self.answers == 1:
                    asked.set()
                    await downloaded.wait()

            async def get(self, key, check=False):
                try:
                    return await super().get(key, check)
                except ObjectNotFoundError:
                    await self._answer()
                    raise

            @asynccontextmanager
            async def open(self, key, offset=0, length=None, check=False):
                async with AsyncExitStack() as resources:
                    try:
                        stream = await resources.enter_async_context(super().open(key, offset, length, check))
                    except ObjectNotFoundError:
                        await self._answer()
                        raise
                    yield stream

        async with make(cache=SlowToAnswer()) as repo:
            key = await repo.put(SMALL)
            await repo.key_format()
            origin.asked.clear()
            results = []

            async def late():
                results.append(await how(repo, key))

            async with anyio.create_task_group() as group:
                group.start_soon(late)
                await asked.wait()
                assert await how(repo, key) == SMALL
                downloaded.set()
            assert results == [SMALL]
            assert len(origin.asked) == 1

    async def test_waiting_tasks_download_when_the_first_download_fails_or_is_cancelled(self, make, origin):
        async with make() as repo:
            key = await repo.put(SMALL)
            await repo.key_format()
            results = []

            async def leader():
                with anyio.move_on_after(0.005):
                    await repo.get(key)
                    pytest.fail("it takes longer")

            async def follower():
                results.append(await repo.get(key))

            async with anyio.create_task_group() as group:
                group.start_soon(leader)
                for _ in range(5):
                    group.start_soon(follower)
            assert results == [SMALL] * 5
            absent = "0" * 64
            errors = []

            async def misses():
                try:
                    await repo.get(absent)
                except ObjectNotFoundError as error:
                    errors.append(error)

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(misses)
            assert [error.keys for error in errors] == [(absent,)] * 5

    async def test_streaming_reads_from_the_cache(self, make, origin):
        async with make() as repo:
            keys = await repo.put_many(b"%d" % number for number in range(20))
            await repo.prefetch(keys[:10])
            async with repo.stream(keys) as objects:
                assert [await stream.read() async for _, stream in objects] == [b"%d" % number for number in range(20)]
            origin.asked.clear()
            async with repo.stream(keys) as objects:
                assert [key async for key, _ in objects] == keys
            assert origin.asked == []

    async def test_prefetch_reports_progress_and_errors(self, make, origin):
        async with make() as repo:
            keys = await repo.put_many([b"%d" % number for number in range(50)] + [LARGE])
            steps = []
            report = await repo.prefetch(keys, steps.append)
            assert (report.objects, report.copied, report.size, report.ok) == (51, 51, 90 + len(LARGE), True)
            assert (steps[-1].step, steps[-1].done, steps[-1].total) == ("prefetch", 51, 51)
            assert (await repo.prefetch([*keys, keys[0]])).copied == 0
            origin.offline = True
            assert await repo.get(keys[-1]) == LARGE
            with pytest.raises(RepositoryUnavailableError):
                await repo.prefetch([*keys, "0" * 64])
            origin.offline = False
            with pytest.raises(ObjectNotFoundError):
                await repo.prefetch([*keys, "0" * 64])


class TestBounds:
    async def test_the_least_recently_used_objects_are_evicted(self, make, origin):
        async with make(max_bytes=10_000) as repo:
            keys = await repo.put_many([content_of(1000, number) for number in range(20)])
            for key in keys[:10]:
                await repo.get(key)
            assert await keys_in_cache(repo) == sorted(keys[:10])
            await repo.get(keys[0])
            await repo.get(keys[10])
            there = await keys_in_cache(repo)
            assert keys[0] in there
            assert keys[10] in there
            assert keys[1] not in there
            for key in keys:
                await repo.get(key)
                assert repo._store.index.total == 1000 * len(await keys_in_cache(repo)) <= 10_000
        async with make(max_bytes=3000) as repo:
            await repo.get(keys[0])
            assert len(await keys_in_cache(repo)) <= 3, "it is smaller now"

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_objects_larger_than_the_cache_are_not_kept(self, make, how):
        async with make(max_bytes=100_000) as repo:
            small, large = await repo.put_many([SMALL, LARGE])
            await repo.get(small)
            assert await how(repo, large) == LARGE
            assert await keys_in_cache(repo) == [small]

    async def test_an_open_stream_survives_the_eviction_of_its_object(self, make):
        async with make(max_bytes=4_000_000) as repo:
            keys = await repo.put_many([LARGE, LARGE[1:]])
            async with repo.open(keys[0]) as stream:
                await repo.get(keys[1])
                assert await keys_in_cache(repo) == [keys[1]]
                assert await stream.read() == LARGE

    @pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, None])
    def test_an_invalid_max_bytes_is_refused(self, make, max_bytes):
        with pytest.raises((TypeError, ValueError), match="max_bytes must be"):
            make(max_bytes=max_bytes)

    async def test_maintain_makes_the_index_list_what_is_in_the_cache(self, make, tmp_path):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE])
            await repo.prefetch(keys)
        async with DiskRepository(tmp_path / "cache") as cache:
            await cache.delete(keys[0])
            other = await cache.put(b"other")
        async with make() as repo:
            assert await repo.get(keys[0]) == SMALL
            await repo.maintain(dry_run=True)
            await repo.maintain()
            assert repo._store.index.total == len(SMALL) + len(LARGE) + 5
            assert set(repo._store.index.keys()) == {*keys, other}

    async def test_a_cache_without_a_path_has_its_index_in_memory(self, make, origin):
        cache = MemoryRepository()
        async with make(cache=cache) as repo:
            key = await repo.put(SMALL)
            await repo.get(key)
        async with make(cache=cache, max_bytes=1200) as repo:
            other = await repo.put(SMALL[1:])
            await repo.get(other)
            assert await keys_in_cache(repo) == [other], "what was there counts"

    async def test_the_path_of_the_index_can_be_given(self, make, tmp_path):
        async with make(index=tmp_path / "made" / "index") as repo:
            await repo.get(await repo.put(SMALL))
            assert (tmp_path / "made" / "index").exists()
            await repo.erase()
            assert list((tmp_path / "made").iterdir()) == []


class TestFailures:
    async def test_cached_objects_are_read_while_the_origin_is_unavailable(self, make, origin):
        async with make() as repo:
            there, absent = await repo.put_many([SMALL, b"absent"])
            await repo.get(there)
        origin.offline = True
        async with make() as repo:
            assert await repo.get(there) == SMALL
            assert await read(repo, there) == SMALL
            assert await repo.has(there)
            assert await repo.key_format() == "sha256"
            for operation in (repo.get(absent), read(repo, absent), repo.has(absent)):
                with pytest.raises(RepositoryUnavailableError):
                    await operation
            origin.offline = False
            assert await repo.get(absent) == b"absent"

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
    async def test_damaged_copies_are_fetched_again(self, make, origin, tmp_path, content):
        async with make() as repo:
            key = await repo.put(content)
            for how in (CachedRepository.get, read):
                await repo.get(key)
                flip(loose_file(tmp_path / "cache", key), 500)
                if how is read and content is LARGE:  # what was given out cannot be taken back, so it is said
                    with pytest.raises(CorruptObjectError):
                        await read(repo, key)
                assert await how(repo, key) == content
                assert (await repo._store.repository.verify()).ok

    @pytest.mark.parametrize("left", [b"", b"short", bytes(len(SMALL))])
    @pytest.mark.parametrize("how", ["get", "open", "range", "size"])
    async def test_a_power_failure_costs_a_download_and_no_wrong_byte(self, make, origin, tmp_path, how, left):
        async with origin, make() as repo:
            key = await origin.put(SMALL)
            await repo.get(key)
        loose_file(tmp_path / "cache", key).write_bytes(left)
        async with origin, make() as repo:
            if how == "get":
                assert await repo.get(key) == SMALL
            elif how == "size":
                assert await repo.size(key) == len(SMALL)
            else:
                async with repo.open(key, *((10, 20) if how == "range" else ())) as stream:
                    assert await stream.read() == (SMALL[10:30] if how == "range" else SMALL)
            assert await repo.get(key) == SMALL
            assert loose_file(tmp_path / "cache", key).read_bytes() == SMALL

    async def test_a_cache_on_disk_is_not_flushed(self, make, origin, monkeypatch):
        async with origin, make() as repo:
            keys = [await origin.put(content) for content in (SMALL, LARGE)]
            await repo.key_format()
            monkeypatch.setattr(os, "fsync", None)
            for key in keys:
                async with repo.open(key) as stream:
                    await stream.read()
            assert await repo._store.repository.has_many(keys) == [True, True]

    async def test_a_copy_is_compared_once_before_its_ranges_are_read(self, make, origin, tmp_path, monkeypatch):
        async with origin, make() as repo:
            key = await origin.put(SMALL)
            await repo.get(key)
        async with origin, make() as repo:
            opened = []
            real = repo._store.repository.open
            monkeypatch.setattr(
                repo._store.repository,
                "open",
                lambda *arguments, **options: opened.append(1) or real(*arguments, **options),
            )
            for _ in range(3):
                async with repo.open(key, 10, 20) as stream:
                    assert await stream.read() == SMALL[10:30]
            assert len(opened) == 4

    async def test_objects_damaged_in_the_origin_are_not_kept(self, make, origin):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE, b"good"])
            for key in keys[:2]:
                origin.backend._objects[key] = origin.backend._objects[key][:-1] + b"!"
                for how in (CachedRepository.get, read):
                    with pytest.raises(CorruptObjectError):
                        await how(repo, key)
            report = await repo.prefetch(keys)
            assert {item.key for item in report.damaged} == set(keys[:2])
            assert await keys_in_cache(repo) == [keys[2]]
            assert repo._store.index.total == 4

    async def test_a_full_cache_does_not_prevent_reading(self, make, monkeypatch):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE])

            async def full(source):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(repo._store.repository, "put", full)
            for key, content in zip(keys, (SMALL, LARGE), strict=True):
                assert await repo.get(key) == content
                assert await read(repo, key) == content
            assert repo._store.index.total == 0

    async def test_delete_deletes_from_both(self, make):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE])
            await repo.prefetch(keys)
            await repo.delete(keys[0])
            with pytest.raises(ObjectNotFoundError):
                await repo.get(keys[0])
            assert await keys_in_cache(repo) == [keys[1]]

    async def test_a_cache_with_keys_of_its_own(self, make, origin, tmp_path):
        async with make(cache=SandboxRepository(tmp_path / "sandboxes"), max_bytes=3_500_000) as repo:
            keys = await repo.put_many([SMALL, LARGE, LARGE[1:]])
            await repo.prefetch(keys[:2])
            origin.asked.clear()
            assert await repo.get(keys[0]) == SMALL
            async with repo.open(keys[1]) as stream:
                assert (stream.key, stream.size) == (keys[1], len(LARGE))
                assert await stream.read() == LARGE
            assert origin.asked == []
            await repo.get(keys[2])
            assert len(await keys_in_cache(repo)) == 1
            name = repo._store.index.name(keys[2])
            repo._store.repository.folder.joinpath(name).write_bytes(b"damaged")
            assert await repo.get(keys[2]) == LARGE[1:]


class TestIndexFailures:
    """A failure of the index costs time, and never an object that is there."""

    @pytest.fixture
    def locked(self, tmp_path):
        """Hold the lock that writing to the index needs."""
        with closing(sqlite3.connect(tmp_path / "cache.cache-index", isolation_level=None)) as other:
            yield lambda: other.execute("BEGIN IMMEDIATE")

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_a_locked_index_does_not_prevent_reading(self, make, locked, caplog, how):
        async with make() as repo:
            contents = {await repo.put(content_of(1000, number)): content_of(1000, number) for number in range(20)}
            [first, *_] = contents
            await repo.get(first)
            locked()
            with anyio.fail_after(10):
                for key, content in contents.items():
                    assert await how(repo, key) == content
            assert await keys_in_cache(repo) == [first]
        [message] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "cache.cache-index: database is locked" in message

    async def test_a_locked_index_can_be_read(self, make, origin, tmp_path, locked):
        async with make(cache=SandboxRepository(tmp_path / "sandboxes"), index=tmp_path / "cache.cache-index") as repo:
            key = await repo.put(SMALL)
            await repo.get(key)
            locked()
            origin.asked.clear()
            with anyio.fail_after(10):
                assert await repo.get(key) == SMALL
            assert origin.asked == []

    async def test_delete_deletes_the_copy_although_the_index_is_locked(self, make, locked):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE])
            await repo.prefetch(keys)
            locked()
            await repo.delete(keys[0])
            assert await keys_in_cache(repo) == [keys[1]]
            with pytest.raises(ObjectNotFoundError):
                await repo.get(keys[0])

    @pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
    async def test_a_damaged_index_does_not_prevent_reading(self, make, tmp_path, caplog, kept):
        index = tmp_path / "cache.cache-index"
        async with make() as repo:
            key = await repo.put(SMALL)
            if kept:
                await repo.get(key)
        index.write_bytes(b"no database" * 1000)
        async with make() as repo:
            assert await repo.get(key) == SMALL
            assert await read(repo, key) == SMALL
            with pytest.raises(OSError, match=f"{index}: file is not a database; delete the file"):
                await repo.maintain()
        index.unlink()
        async with make() as repo:
            assert await repo.get(key) == SMALL
            assert repo._store.index.keys() == [key]

    async def test_an_index_that_cannot_be_created_does_not_prevent_reading(self, make, tmp_path, caplog):
        (tmp_path / "file").touch()
        async with make(index=tmp_path / "file" / "index") as repo:
            keys = await repo.put_many([SMALL, LARGE])
            for key, content in zip(keys, (SMALL, LARGE), strict=True):
                assert await repo.get(key) == content
                assert await read(repo, key) == content
        assert str(tmp_path / "file") in caplog.text

    def test_a_full_index_does_not_prevent_reading(self, tmp_path):
        program = f"""
import anyio, resource, signal, objrepo
from objrepo.testing.fixtures import content_of
async def main():
    cache = objrepo.DiskRepository({str(tmp_path / "cache")!r})
    async with objrepo.CachedRepository(cache, objrepo.MemoryRepository(), max_bytes=10_000_000) as repo:
        keys = await repo.put_many(content_of(1000, number) for number in range(100))
        await repo.get(keys[0])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))
        for number, key in enumerate(keys):
            assert await repo.get(key) == content_of(1000, number)
        assert 0 < len([key async for key in cache.keys()]) < 100
anyio.run(main)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("cache-index: ") == 1, "one warning"

    async def test_copies_that_cannot_be_indexed_are_not_left(self, make, tmp_path, locked):
        cache = SandboxRepository(tmp_path / "sandboxes")
        async with make(cache=cache, index=tmp_path / "cache.cache-index") as repo:
            key = await repo.put(SMALL)
            await repo.key_format()
            locked()
            assert await repo.get(key) == SMALL
            assert await keys_in_cache(repo) == []


class TestCacheFailures:
    async def test_a_cache_that_cannot_be_created_does_not_prevent_reading(self, make, tmp_path, caplog):
        (tmp_path / "file").touch()
        async with make(cache=DiskRepository(tmp_path / "file" / "cache"), index=tmp_path / "index") as repo:
            keys = await repo.put_many([SMALL, LARGE])
            for key, content in zip(keys, (SMALL, LARGE), strict=True):
                assert await repo.get(key) == content
                assert await read(repo, key) == content
                assert await repo.size(key) == len(content)
                assert await repo.has(key)
            await repo.delete(keys[0])
            with pytest.raises(OSError, match=str(tmp_path / "file")):
                await repo.initialise()
        assert str(tmp_path / "file") in caplog.text

    async def test_a_cache_that_is_removed_while_it_is_open_does_not_prevent_reading(self, make, tmp_path):
        async with make() as repo:
            keys = await repo.put_many([SMALL, LARGE])
            await repo.prefetch(keys)
            shutil.rmtree(tmp_path / "cache")
            for key, content in zip(keys, (SMALL, LARGE), strict=True):
                assert await repo.get(key) == content
                assert await read(repo, key) == content
                assert await repo.size(key) == len(content)
                assert await repo.has(key)


async def test_a_task_that_enters_while_the_last_one_leaves_does_not_lose_the_index(make, origin, monkeypatch):
    closing, used = threading.Event(), threading.Event()
    repo = make(cache=MemoryRepository())
    async with origin:
        key = await origin.put(SMALL)
    close = repo._store.index.close

    def slow_close():
        closing.set()
        used.wait(0.5)
        close()

    monkeypatch.setattr(repo._store.index, "close", slow_close)

    async def leave():
        async with repo:
            await repo.get(key)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await anyio.to_thread.run_sync(closing.wait)
        async with repo:
            assert await repo.get(key) == SMALL
            used.set()
            await anyio.sleep(0.1)
            assert repo._store.index.keys() == [key]


class TestOtherHashType:
    """The keys of the cache are SHA-1 and those of the origin SHA-256."""

    @pytest.fixture
    async def repo(self, make, tmp_path):
        async with DiskRepository(tmp_path / "cache") as cache:
            await cache.initialise(hash_type="sha1")
        async with make() as repo:
            yield repo

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
    async def test_damaged_copies_are_fetched_again(self, repo, origin, tmp_path, how, content):
        key = await repo.put(content)
        await repo.get(key)
        [name] = await keys_in_cache(repo)
        assert len(name) == 40
        flip(loose_file(tmp_path / "cache", name), 500)
        if how is read and content is LARGE:  # the first bytes were returned before the damage was found
            with pytest.raises(CorruptObjectError) as caught:
                await read(repo, key)
            assert caught.value.key == key
        origin.asked.clear()
        assert await how(repo, key) == content
        assert origin.asked, "it was fetched again"
        assert (await repo._store.repository.verify()).ok

    async def test_streams_of_copies_have_the_key_of_the_object(self, repo, tmp_path):
        key = await repo.put(LARGE)
        await repo.get(key)
        [name] = await keys_in_cache(repo)
        async with repo.open(key, 10, 2_000_000) as stream:
            assert (stream.key, stream.size) == (key, 2_000_000)
            assert await stream.seek(-5, 2) == await stream.tell() == 1_999_995
            loose_file(tmp_path / "cache", name).write_bytes(b"short")
            await stream.seek(1_000_000)
            for reading in (stream.read(10), stream.receive(10), stream.readinto(bytearray(10))):
                with pytest.raises(CorruptObjectError) as caught:
                    await reading
                assert caught.value.key == key


def test_it_works_without_an_event_loop(tmp_path):
    origin = DiskRepository(tmp_path / "origin", Inline())
    repo = CachedRepository(DiskRepository(tmp_path / "cache", Inline()), origin, max_bytes=1_000_000)
    with SyncRepository(repo) as repo:
        repo.initialise()
        import io

        key = repo.put_object_from_filelike(io.BytesIO(SMALL))
        assert repo.get_object_content(key) == SMALL
        with repo.open(key) as handle:
            assert handle.read() == SMALL


async def test_a_pickled_repository_has_the_same_cache_and_origin(tmp_path):
    origin = DiskRepository(tmp_path / "origin")
    repo = CachedRepository(DiskRepository(tmp_path / "cache"), origin, max_bytes=10_000, index=tmp_path / "index")
    async with repo:
        await repo.initialise()
        key = await repo.put(SMALL)
        await repo.get(key)
    unpickled = pickle.loads(pickle.dumps(repo))
    assert str(unpickled) == str(repo)
    assert (unpickled._store.index.path, unpickled._store.index.max_bytes) == (tmp_path / "index", 10_000)
    async with unpickled, origin:
        await origin.delete(key)
        assert await unpickled.get(key) == SMALL, "it is in the cache"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
async def test_several_processes_share_one_cache(tmp_path):
    program = f"""
import anyio, random, sys, objrepo
from objrepo.testing.fixtures import content_of
async def main():
    cache = objrepo.DiskRepository({str(tmp_path / "cache")!r})
    origin = objrepo.DiskRepository({str(tmp_path / "origin")!r})
    async with objrepo.CachedRepository(cache, origin, max_bytes=60_000) as repo:
        keys = [key async for key in repo.keys()]
        random.seed(int(sys.argv[1]))
        for key in random.choices(keys, k=300):
            assert len(await repo.get(key)) == 1000
anyio.run(main)
"""
    async with DiskRepository(tmp_path / "origin") as origin:
        await origin.initialise()
        await origin.put_many(content_of(1000, number) for number in range(100))
        processes = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
        assert [process.wait() for process in processes] == [0] * 4
        async with DiskRepository(tmp_path / "cache") as cache:
            async with CachedRepository(cache, origin, max_bytes=60_000) as repo:
                await repo.maintain()
                keys = [key async for key in cache.keys()]
                assert 0 < len(keys) <= 60
                assert sorted(repo._store.index.keys()) == sorted(keys)
            assert (await cache.verify()).ok


async def test_copy_reads_from_a_cached_repository(make, tmp_path):
    async with make() as repo, DiskRepository(tmp_path / "target") as target:
        await target.initialise()
        keys = await repo.put_many([SMALL, LARGE])
        assert (await copy(repo, target)).copied == 2
        assert all(await target.has_many(keys))
