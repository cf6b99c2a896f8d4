"""Reads that compare the content with its hash."""

from __future__ import annotations

import copy
import os
import pickle

import anyio
import fsspec
import pytest
from disk_objectstore import Container

import objrepo.aiofiles
from helpers import DAMAGED_SIZES, damaged_in_all_ways, flip, flip_packed, loose_file
from objrepo import (
    CachedRepository,
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    SandboxRepository,
)
from objrepo.instrumentation import InstrumentedRepository
from objrepo.offload import Inline
from objrepo.sync import DiskObjectStoreRepositoryBackend, SyncRepository
from objrepo.testing.fixtures import content_of


async def damaged_objects(folder):
    """Initialise a repository, damage objects of all sizes and forms; return their keys, and that of an intact one."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        damaged, _ = await damaged_in_all_ways(repo, folder)
        for size in DAMAGED_SIZES:
            damaged.append(await repo.put(content_of(size, 7)))
            os.truncate(loose_file(folder, damaged[-1]), size - 1)
        return damaged, await repo.put(b"intact")


async def put_damaged(repo, size):
    """Store an object as a loose file whose last bit is flipped; return its key."""
    key = await repo.put(content_of(size, 7))
    flip(loose_file(repo.path, key), size - 1)
    return key


class Received(anyio.abc.ByteSendStream):
    """A byte stream that keeps what it is sent."""

    def __init__(self):
        self.content = b""

    async def send(self, item):
        self.content += item

    async def aclose(self):
        pass


async def read_open(repo, key, **options):
    async with repo.open(key, **options) as stream:
        return b"".join([chunk async for chunk in stream])


async def read_stream(repo, key, **options):
    async with repo.stream([key], **options) as objects:
        [content] = [await stream.read() async for _, stream in objects]
        return content


async def sent(repo, key, **options):
    received = Received()
    try:
        await repo.send_object(received, key, **options)
    except CorruptObjectError:
        assert len(received.content) <= await repo.size(key) - 1, "the end is withheld"
        raise
    return received.content


async def sent_to_a_socket(repo, key):
    received = b""

    async def receive(listener):
        nonlocal received
        async with await listener.accept() as stream:
            received = b"".join([chunk async for chunk in stream])

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listeners, anyio.create_task_group() as group:
        [listener] = listeners.listeners
        group.start_soon(receive, listener)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            try:
                await repo.send_object(stream, key)
            except CorruptObjectError as error:
                failed = error
            else:
                failed = None
    if failed is not None:
        assert len(received) < await repo.size(key), "the end is withheld"
        raise failed
    return received


async def in_a_batch(repo, key):
    async with repo.batch() as batch:
        return await batch.get(key)


async def instrumented(repo, key):
    async with InstrumentedRepository(repo, lambda event: None) as outer:
        return await read_stream(outer, key)


async def cached(repo, key):
    async with CachedRepository(MemoryRepository(), repo, max_bytes=10**9) as cache:
        return await cache.get(key)


async def by_aiofiles(repo, key):
    async with objrepo.aiofiles.open(repo, key) as file:
        return await file.read()


WAYS_OUT = {
    "get": lambda repo, key: repo.get(key),
    "open": read_open,
    "stream": read_stream,
    "send_object": sent,
    "send_object to a socket": sent_to_a_socket,
    "batch": in_a_batch,
    "instrumented": instrumented,
    "cached": cached,
    "aiofiles": by_aiofiles,
}


def opened(backend, key):
    with backend.open(key) as file:
        return file.read()


def opened_in_pieces(backend, key):
    with backend.open(key) as file:
        return b"".join(iter(lambda: file.read(100_000), b""))


def streamed(backend, key):
    for _, file in backend.iter_object_streams([key]):
        return file.read()
    return None


WAYS_OUT_OF_THE_FACADE = {
    "get_object_content": lambda backend, key: backend.get_object_content(key),
    "open": opened,
    "open in pieces": opened_in_pieces,
    "iter_object_streams": streamed,
}


class TestDefaultOfARepository:
    """`check=True` of a repository: no way out returns bytes that are not those of the key."""

    @pytest.mark.parametrize("way", WAYS_OUT)
    async def test_a_damaged_object_raises(self, folder, way, anyio_backend_name):
        if way == "aiofiles" and anyio_backend_name == "trio":
            pytest.skip("aiofiles needs asyncio")
        damaged, intact = await damaged_objects(folder)
        async with DiskRepository(folder, check=True) as repo:
            for key in damaged:
                with pytest.raises(CorruptObjectError) as caught:
                    await WAYS_OUT[way](repo, key)
                assert caught.value.key == key
            assert await WAYS_OUT[way](repo, intact) == b"intact"

    @pytest.mark.parametrize("facade", ["inline", "portal", "aiida"])
    @pytest.mark.parametrize("way", WAYS_OUT_OF_THE_FACADE)
    def test_a_damaged_object_raises_without_an_event_loop(self, folder, way, facade):
        damaged, intact = anyio.run(damaged_objects, folder)
        if facade == "aiida":
            opening = DiskObjectStoreRepositoryBackend(Container(folder), check=True)
        else:
            opening = SyncRepository(DiskRepository(folder, Inline() if facade == "inline" else None, check=True))
        with opening as backend:
            for key in damaged:
                with pytest.raises(CorruptObjectError):
                    WAYS_OUT_OF_THE_FACADE[way](backend, key)
            assert WAYS_OUT_OF_THE_FACADE[way](backend, intact) == b"intact"

    def test_a_damaged_object_raises_through_fsspec(self, folder):
        damaged, intact = anyio.run(damaged_objects, folder)
        files = fsspec.filesystem("objrepo", repository=f"checked:{folder}", skip_instance_cache=True)
        for key in damaged:
            with pytest.raises(CorruptObjectError):
                files.cat_file(key)
        assert files.cat_file(intact) == b"intact"


class TestCheckOfACall:
    """`check` of one call, and the default where it is None."""

    @pytest.mark.parametrize("size", [10, 400_000])
    async def test_it_overrides_the_default(self, repo, folder, size):
        key = await put_damaged(repo, size)
        async with DiskRepository(folder, check=True) as checking:
            for read in (DiskRepository.get, read_open, read_stream, sent):
                assert len(await read(repo, key)) == len(await read(checking, key, check=False)) == size
                for outcome in (read(repo, key, check=True), read(checking, key), read(checking, key, check=None)):
                    with pytest.raises(CorruptObjectError):
                        await outcome

    async def test_the_default_leaves_ranges_unchecked(self, repo, folder):
        key = await put_damaged(repo, 1000)
        async with DiskRepository(folder, check=True) as checking:
            async with checking.open(key, 10, 5) as stream:
                assert await stream.read() == content_of(1000, 7)[10:15]
            with pytest.raises(ValueError, match="range"):
                async with checking.open(key, 10, 5, check=True):
                    pytest.fail("a range has no hash")

    async def test_objects_before_and_after_a_damaged_one_are_streamed(self, repo, folder):
        contents = [b"%d" % number * 10 for number in range(100)]
        keys = await repo.put_many(contents)
        flip_packed(folder, keys[50])
        left = dict(zip(keys, contents, strict=True))
        with pytest.raises(CorruptObjectError) as caught:
            async with repo.stream(keys, check=True) as objects:
                async for key, stream in objects:
                    assert await stream.read() == left.pop(key)
        assert caught.value.key == keys[50]
        async with repo.stream(left.keys() - {keys[50]}, check=True) as objects:
            assert {key: await stream.read() async for key, stream in objects} | {keys[50]: contents[50]} == left

    async def test_a_damaged_end_is_withheld_from_every_read(self, repo):
        key = await put_damaged(repo, 3_000_000)
        async with repo.open(key, check=True) as stream:
            for _ in range(3):
                await stream.seek(0)
                with pytest.raises(CorruptObjectError):
                    await stream.read()

    @pytest.mark.parametrize("how", [lambda repo: pickle.loads(pickle.dumps(repo)), copy.copy, copy.deepcopy])
    def test_copies_keep_the_default(self, folder, how):
        assert how(DiskRepository(folder, check=True)).check
        assert not how(DiskRepository(folder)).check
        backend = DiskObjectStoreRepositoryBackend(Container(folder), check=True)
        assert how(backend)._repository.check


class TestCheckedReads:
    @pytest.mark.parametrize("size", DAMAGED_SIZES)
    @pytest.mark.parametrize("where", ["loose", "packed", "compressed"])
    async def test_a_flipped_bit_raises_corrupt_object_error(self, repo, folder, size, where):
        content = content_of(size)
        if where == "loose":
            key = await repo.put(content)
            flip(loose_file(folder, key), size - 1)
        else:
            with Container(folder) as container:
                key = container.add_objects_to_pack([content], compress=False)[0]
            flip_packed(folder, key)
        with pytest.raises(CorruptObjectError, match="hashes to") as caught:
            await repo.get(key, check=True)
        assert caught.value.key == key
        assert len(await repo.get(key)) == size, "the hash is compared only with check=True"
        received = 0
        with pytest.raises(CorruptObjectError, match="hashes to"):
            async with repo.open(key, check=True) as stream:
                async for chunk in stream:
                    received += len(chunk)
        assert received < size, "the end is withheld"

    @pytest.mark.parametrize("size", [0, *DAMAGED_SIZES])
    async def test_intact_objects_are_read_in_any_order(self, repo, size):
        content = content_of(size)
        key = await repo.put(content)
        assert await repo.get(key, check=True) == content
        async with repo.open(key, check=True) as stream:
            assert await stream.read() == content
            await stream.seek(size // 2)
            assert await stream.read() == content[size // 2 :]
            await stream.seek(0)
            assert b"".join([chunk async for chunk in stream]) == content
        async with repo.open(key, check=True) as stream:
            await stream.seek(max(size - 3, 0))
            assert await stream.read() == content[max(size - 3, 0) :]

    async def test_concurrent_reads_of_a_damaged_and_intact_objects(self, repo, folder):
        contents = [b"%d" % number * 10 for number in range(100)]
        keys = await repo.put_many(contents)
        flip_packed(folder, keys[50])
        outcomes = {}

        async def get(key):
            try:
                outcomes[key] = await repo.get(key, check=True)
            except CorruptObjectError as error:
                outcomes[key] = error.key

        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(get, key)
        assert outcomes.pop(keys[50]) == keys[50]
        del contents[50], keys[50]
        assert [outcomes[key] for key in keys] == contents

    async def test_a_range_cannot_be_verified(self, repo):
        key = await repo.put(b"content")
        for options in ({"offset": 1}, {"length": 3}):
            with pytest.raises(ValueError, match="range"):
                async with repo.open(key, check=True, **options):
                    pytest.fail("a range has no hash")

    @pytest.mark.parametrize("make", [MemoryRepository, SandboxRepository])
    async def test_other_repositories(self, make):
        async with make() as repo:
            await repo.initialise()
            key = await repo.put(content_of(1_000_000))
            assert await repo.get(key, check=True) == content_of(1_000_000)
            async with repo.open(key, check=True) as stream:
                assert await stream.read() == content_of(1_000_000)
