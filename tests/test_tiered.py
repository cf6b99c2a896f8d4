"""A cache in front of an origin, a long list: what it keeps, fetches, and does when either is in trouble."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

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
from test_repair import flip, loose_file

SMALL = content_of(1000)
LARGE = content_of(3_000_000)


class Origin(MemoryRepository):
    """A repository that counts what it is asked for, takes its time, and can be out of reach."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.offline = False

    async def _pass(self, name):
        self.asked.append(name)
        await anyio.sleep(0.01)
        if self.offline:
            raise RepositoryUnavailableError("the origin is not to be had")

    async def get(self, key, check=False):
        await self._pass("get")
        return await super().get(key, check)

    def open(self, key, offset=0, length=None, check=False):
        self.asked.append("open")
        if self.offline:
            raise RepositoryUnavailableError("the origin is not to be had")
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


async def cached(tiered):
    async with tiered._cache.repository as cache:
        return sorted([key async for key in cache.keys()]) if await cache.is_initialised() else []


async def read(tiered, key):
    async with tiered.open(key) as stream:
        return await stream.read()


class TestFilling:
    @pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=len)
    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_the_first_read_fetches_and_the_next_does_not(self, make, origin, how, content):
        async with make() as tiered:
            key = await tiered.put(content)
            assert await cached(tiered) == [], "a put goes to the origin"
            assert await how(tiered, key) == content
            assert await cached(tiered) == [key]
            origin.asked.clear()
            for again in (CachedRepository.get, read):
                assert await again(tiered, key) == content
            assert await tiered.has(key)
            assert await tiered.size(key) == len(content)
            assert await tiered.hash(key) == key
            assert origin.asked == []

    async def test_it_is_kept_for_the_next_time(self, make, origin):
        async with make() as tiered:
            key = await tiered.put(SMALL)
            await tiered.get(key)
        origin.asked.clear()
        async with make() as tiered:
            assert await tiered.get(key) == SMALL
        assert origin.asked == []

    async def test_a_range_is_not_kept(self, make):
        async with make() as tiered:
            key = await tiered.put(LARGE)
            async with tiered.open(key, 100, 50) as stream:
                assert await stream.read() == LARGE[100:150]
            assert await cached(tiered) == []
            await tiered.get(key)
            async with tiered.open(key, 100, 50) as stream:
                assert await stream.read() == LARGE[100:150]

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
    async def test_many_readers_of_an_absent_object_cause_one_download(self, make, origin, how, content):
        async with make() as tiered:
            key = await tiered.put(content)
            await tiered.key_format()
            origin.asked.clear()
            results = []

            async def one():
                results.append(await how(tiered, key))

            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(one)
            assert results == [content] * 100
            assert origin.asked in (["get"], ["open"])

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_who_hears_late_that_the_cache_has_nothing_does_not_download_again(self, make, origin, how):
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

        async with make(cache=SlowToAnswer()) as tiered:
            key = await tiered.put(SMALL)
            await tiered.key_format()
            origin.asked.clear()
            results = []

            async def late():
                results.append(await how(tiered, key))

            async with anyio.create_task_group() as group:
                group.start_soon(late)
                await asked.wait()
                assert await how(tiered, key) == SMALL
                downloaded.set()
            assert results == [SMALL]
            assert len(origin.asked) == 1

    async def test_who_waits_goes_on_when_the_first_is_cancelled_or_fails(self, make, origin):
        async with make() as tiered:
            key = await tiered.put(SMALL)
            await tiered.key_format()
            results = []

            async def leader():
                with anyio.move_on_after(0.005):
                    await tiered.get(key)
                    pytest.fail("it takes longer")

            async def follower():
                results.append(await tiered.get(key))

            async with anyio.create_task_group() as group:
                group.start_soon(leader)
                for _ in range(5):
                    group.start_soon(follower)
            assert results == [SMALL] * 5
            absent = "0" * 64
            errors = []

            async def misses():
                try:
                    await tiered.get(absent)
                except ObjectNotFoundError as error:
                    errors.append(error)

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(misses)
            assert [error.keys for error in errors] == [(absent,)] * 5

    async def test_streams(self, make, origin):
        async with make() as tiered:
            keys = await tiered.put_many(b"%d" % number for number in range(20))
            await tiered.prefetch(keys[:10])
            async with tiered.stream(keys) as objects:
                assert [await stream.read() async for _, stream in objects] == [b"%d" % number for number in range(20)]
            origin.asked.clear()
            async with tiered.stream(keys) as objects:
                assert [key async for key, _ in objects] == keys
            assert origin.asked == []

    async def test_prefetch(self, make, origin):
        async with make() as tiered:
            keys = await tiered.put_many([b"%d" % number for number in range(50)] + [LARGE])
            steps = []
            report = await tiered.prefetch(keys, steps.append)
            assert (report.objects, report.copied, report.size, report.ok) == (51, 51, 90 + len(LARGE), True)
            assert (steps[-1].step, steps[-1].done, steps[-1].total) == ("prefetch", 51, 51)
            assert (await tiered.prefetch([*keys, keys[0]])).copied == 0
            origin.offline = True
            assert await tiered.get(keys[-1]) == LARGE
            with pytest.raises(RepositoryUnavailableError):
                await tiered.prefetch([*keys, "0" * 64])
            origin.offline = False
            with pytest.raises(ObjectNotFoundError):
                await tiered.prefetch([*keys, "0" * 64])


class TestBounds:
    async def test_what_was_not_read_for_longest_goes(self, make, origin):
        async with make(max_bytes=10_000) as tiered:
            keys = await tiered.put_many([content_of(1000, number) for number in range(20)])
            for key in keys[:10]:
                await tiered.get(key)
            assert await cached(tiered) == sorted(keys[:10])
            await tiered.get(keys[0])
            await tiered.get(keys[10])
            there = await cached(tiered)
            assert keys[0] in there
            assert keys[10] in there
            assert keys[1] not in there
            for key in keys:
                await tiered.get(key)
                assert tiered._cache.ledger.total == 1000 * len(await cached(tiered)) <= 10_000
        async with make(max_bytes=3000) as tiered:
            await tiered.get(keys[0])
            assert len(await cached(tiered)) <= 3, "it is smaller now"

    @pytest.mark.parametrize("how", [CachedRepository.get, read])
    async def test_what_is_larger_than_all_is_not_kept(self, make, how):
        async with make(max_bytes=100_000) as tiered:
            small, large = await tiered.put_many([SMALL, LARGE])
            await tiered.get(small)
            assert await how(tiered, large) == LARGE
            assert await cached(tiered) == [small]

    async def test_an_open_stream_outlives_its_place(self, make):
        async with make(max_bytes=4_000_000) as tiered:
            keys = await tiered.put_many([LARGE, LARGE[1:]])
            async with tiered.open(keys[0]) as stream:
                await tiered.get(keys[1])
                assert await cached(tiered) == [keys[1]]
                assert await stream.read() == LARGE

    @pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, None])
    def test_a_bad_size(self, make, max_bytes):
        with pytest.raises((TypeError, ValueError), match="max_bytes must be"):
            make(max_bytes=max_bytes)

    async def test_what_others_did_to_the_cache(self, make, tmp_path):
        async with make() as tiered:
            keys = await tiered.put_many([SMALL, LARGE])
            await tiered.prefetch(keys)
        async with DiskRepository(tmp_path / "cache") as cache:
            await cache.delete(keys[0])
            other = await cache.put(b"other")
        async with make() as tiered:
            assert await tiered.get(keys[0]) == SMALL
            await tiered.maintain(dry_run=True)
            await tiered.maintain()
            assert tiered._cache.ledger.total == len(SMALL) + len(LARGE) + 5
            assert set(tiered._cache.ledger.keys()) == {*keys, other}

    async def test_a_cache_in_memory(self, make, origin):
        cache = MemoryRepository()
        async with make(cache=cache) as tiered:
            key = await tiered.put(SMALL)
            await tiered.get(key)
        async with make(cache=cache, max_bytes=1200) as tiered:
            other = await tiered.put(SMALL[1:])
            await tiered.get(other)
            assert await cached(tiered) == [other], "what was there counts"

    async def test_a_ledger_somewhere_else(self, make, tmp_path):
        async with make(ledger=tmp_path / "made" / "ledger") as tiered:
            await tiered.get(await tiered.put(SMALL))
            assert (tmp_path / "made" / "ledger").exists()
            await tiered.erase()
            assert list((tmp_path / "made").iterdir()) == []


class TestTrouble:
    async def test_the_origin_is_out_of_reach(self, make, origin):
        async with make() as tiered:
            there, absent = await tiered.put_many([SMALL, b"absent"])
            await tiered.get(there)
        origin.offline = True
        async with make() as tiered:
            assert await tiered.get(there) == SMALL
            assert await read(tiered, there) == SMALL
            assert await tiered.has(there)
            assert await tiered.key_format() == "sha256"
            for operation in (tiered.get(absent), read(tiered, absent), tiered.has(absent)):
                with pytest.raises(RepositoryUnavailableError):
                    await operation
            origin.offline = False
            assert await tiered.get(absent) == b"absent"

    @pytest.mark.parametrize("content", [SMALL, LARGE], ids=len)
    async def test_what_is_damaged_in_the_cache_is_fetched_again(self, make, origin, tmp_path, content):
        async with make() as tiered:
            key = await tiered.put(content)
            for how in (CachedRepository.get, read):
                await tiered.get(key)
                flip(loose_file(tmp_path / "cache", key), 500)
                if how is read and content is LARGE:  # what was given out cannot be taken back, so it is said
                    with pytest.raises(CorruptObjectError):
                        await read(tiered, key)
                assert await how(tiered, key) == content
                assert (await tiered._cache.repository.verify()).ok

    async def test_what_is_damaged_at_the_origin_is_not_kept(self, make, origin):
        async with make() as tiered:
            keys = await tiered.put_many([SMALL, LARGE, b"good"])
            for key in keys[:2]:
                origin._objects[key] = origin._objects[key][:-1] + b"!"
                for how in (CachedRepository.get, read):
                    with pytest.raises(CorruptObjectError):
                        await how(tiered, key)
            report = await tiered.prefetch(keys)
            assert {item.key for item in report.damaged} == set(keys[:2])
            assert await cached(tiered) == [keys[2]]
            assert tiered._cache.ledger.total == 4

    async def test_a_cache_that_cannot_be_written_to(self, make, monkeypatch):
        async with make() as tiered:
            keys = await tiered.put_many([SMALL, LARGE])

            async def full(source):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(tiered._cache.repository, "put", full)
            for key, content in zip(keys, (SMALL, LARGE), strict=True):
                assert await tiered.get(key) == content
                assert await read(tiered, key) == content
            assert tiered._cache.ledger.total == 0

    async def test_what_is_deleted_is_gone_from_both(self, make):
        async with make() as tiered:
            keys = await tiered.put_many([SMALL, LARGE])
            await tiered.prefetch(keys)
            await tiered.delete(keys[0])
            with pytest.raises(ObjectNotFoundError):
                await tiered.get(keys[0])
            assert await cached(tiered) == [keys[1]]

    async def test_a_cache_with_keys_of_its_own(self, make, origin, tmp_path):
        async with make(cache=SandboxRepository(tmp_path / "sandboxes"), max_bytes=3_500_000) as tiered:
            keys = await tiered.put_many([SMALL, LARGE, LARGE[1:]])
            await tiered.prefetch(keys[:2])
            origin.asked.clear()
            assert await tiered.get(keys[0]) == SMALL
            async with tiered.open(keys[1]) as stream:
                assert (stream.key, stream.size) == (keys[1], len(LARGE))
                assert await stream.read() == LARGE
            assert origin.asked == []
            await tiered.get(keys[2])
            assert len(await cached(tiered)) == 1
            name = tiered._cache.ledger.name(keys[2])
            tiered._cache.repository.folder.joinpath(name).write_bytes(b"damaged")
            assert await tiered.get(keys[2]) == LARGE[1:]


def test_without_a_loop(tmp_path):
    origin = DiskRepository(tmp_path / "origin", Inline())
    tiered = CachedRepository(DiskRepository(tmp_path / "cache", Inline()), origin, max_bytes=1_000_000)
    with SyncRepository(tiered) as repo:
        repo.initialise()
        import io

        key = repo.put_object_from_filelike(io.BytesIO(SMALL))
        assert repo.get_object_content(key) == SMALL
        with repo.open(key) as handle:
            assert handle.read() == SMALL


async def test_several_processes_share_one_cache(tmp_path):
    program = f"""
import anyio, random, sys, objrepo
from objrepo.testing.fixtures import content_of
async def main():
    cache = objrepo.DiskRepository({str(tmp_path / "cache")!r})
    origin = objrepo.DiskRepository({str(tmp_path / "origin")!r})
    async with objrepo.CachedRepository(cache, origin, max_bytes=60_000) as tiered:
        keys = [key async for key in tiered.keys()]
        random.seed(int(sys.argv[1]))
        for key in random.choices(keys, k=300):
            assert len(await tiered.get(key)) == 1000
anyio.run(main)
"""
    async with DiskRepository(tmp_path / "origin") as origin:
        await origin.initialise()
        await origin.put_many(content_of(1000, number) for number in range(100))
        processes = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
        assert [process.wait() for process in processes] == [0] * 4
        async with DiskRepository(tmp_path / "cache") as cache:
            async with CachedRepository(cache, origin, max_bytes=60_000) as tiered:
                await tiered.maintain()
                keys = [key async for key in cache.keys()]
                assert 0 < len(keys) <= 60
                assert sorted(tiered._cache.ledger.keys()) == sorted(keys)
            assert (await cache.verify()).ok


async def test_copies_go_through(make, tmp_path):
    async with make() as tiered, DiskRepository(tmp_path / "target") as target:
        await target.initialise()
        keys = await tiered.put_many([SMALL, LARGE])
        assert (await copy(tiered, target)).copied == 2
        assert all(await target.has_many(keys))
