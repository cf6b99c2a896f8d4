"""Reads that compare the content with its hash."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import tarfile
import time
from functools import partial

import anyio
import fsspec
import httpx
import pytest
from disk_objectstore import Container
from h2.exceptions import InvalidBodyLengthError

import objrepo.aiofiles
from helpers import (
    DAMAGED_SIZES,
    damaged_in_all_ways,
    flip,
    flip_packed,
    loose_file,
    sha256,
    under_hypercorn,
    under_uvicorn,
)
from objrepo import (
    CachedRepository,
    CorruptObjectError,
    DiskRepository,
    HTTPRepository,
    MemoryRepository,
    RepositoryError,
    SandboxRepository,
    export,
)
from objrepo.asgi import ObjectApp
from objrepo.asgi.verified import VerifiedObjects
from objrepo.instrumentation import InstrumentedRepository
from objrepo.integrity import with_verification
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


def copied(files, key, path):
    files.get(key, str(path))
    return path.read_bytes()


def cached_by_fsspec(files, key, path):
    for _ in range(2):  # the second time from what the first has left
        with contextlib.suppress(CorruptObjectError):
            caching = fsspec.filesystem("simplecache", fs=files, cache_storage=str(path.with_name("cache")))
            return caching.cat(key)
    path.with_name("cache").rmdir()
    raise CorruptObjectError(key, "it is not in the cache, either")


WAYS_OUT_OF_FSSPEC = {
    "cat": lambda files, key, path: files.cat_file(key),
    "open": lambda files, key, path: files.open(key).read(),
    "blocks": lambda files, key, path: b"".join(iter(partial(files.open(key, block_size=65536).read, 1000), b"")),
    "without a cache": lambda files, key, path: b"".join(
        iter(partial(files.open(key, cache_type="none").read, 100_000), b"")
    ),
    "get": copied,
    "simplecache": cached_by_fsspec,
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

    @pytest.mark.parametrize("way", WAYS_OUT_OF_FSSPEC)
    def test_a_damaged_object_raises_through_fsspec(self, folder, way, tmp_path):
        damaged, intact = anyio.run(damaged_objects, folder)
        files = fsspec.filesystem("objrepo", repository=f"checked:{folder}", skip_instance_cache=True)
        local = tmp_path / "local"
        local.mkdir()
        for key in damaged:
            with pytest.raises(CorruptObjectError):
                WAYS_OUT_OF_FSSPEC[way](files, key, local / key)
            assert not os.listdir(local)
        assert WAYS_OUT_OF_FSSPEC[way](files, intact, local / intact) == b"intact"

    def test_an_emptied_file_raises_through_fsspec(self, folder):
        damaged, _ = anyio.run(damaged_objects, folder)
        loose_file(folder, damaged[0]).write_bytes(b"")
        files = fsspec.filesystem("objrepo", repository=f"checked:{folder}", skip_instance_cache=True)
        with pytest.raises(CorruptObjectError):
            files.open(damaged[0])


class TestHTTP:
    """The web server: the bytes of the key, an error, or a body that is cut off."""

    @pytest.fixture
    def damaged(self, folder):
        """The keys of damaged objects."""
        return anyio.run(damaged_objects, folder)[0]

    @pytest.fixture(params=[under_uvicorn, under_hypercorn])
    def url(self, request, folder, damaged):
        with request.param(ObjectApp(DiskRepository(folder), token="secret")) as url:
            yield url

    def test_damaged_objects_are_500_or_cut_off_and_then_500(self, url, damaged, caplog):
        cut_off = 0
        for key in damaged:
            try:
                answer = httpx.get(f"{url}/{key}")
            except httpx.RemoteProtocolError as error:
                assert "without sending complete message body" in str(error)
                assert f"broke off the download of a damaged object: object '{key}'" in caplog.text
                cut_off += 1
                answer = httpx.get(f"{url}/{key}")
            for headers in ({}, {"range": "bytes=5-9"}, {"range": "bytes=0-"}, {"range": "bytes=0-1,5-6"}):
                answer = httpx.get(f"{url}/{key}", headers=headers)
                assert (answer.status_code, answer.headers["objrepo-error"]) == (500, "CorruptObjectError")
                assert "immutable" not in answer.headers.get("cache-control", "")
            head = httpx.head(f"{url}/{key}")
            assert (head.status_code, head.headers.get("cache-control")) == (200, None)
            assert f"GET /{key}: object '{key}' is damaged" in caplog.text
        assert cut_off > 3, "large objects are compared while they are sent"

    def test_a_damaged_object_is_an_error_at_once_on_http_2(self, folder, damaged):
        with (
            under_hypercorn(ObjectApp(DiskRepository(folder))) as url,
            httpx.Client(http1=False, http2=True, timeout=60) as client,
        ):
            cut_off = 0
            for key in damaged:
                try:
                    answer = client.get(f"{url}/{key}")
                except InvalidBodyLengthError:  # httpx does not translate it
                    cut_off += 1
                else:
                    assert (answer.status_code, answer.http_version) == (500, "HTTP/2")
            assert cut_off > 3, "large objects are compared while they are sent"

    def test_no_header_of_a_cut_off_body_permits_caching(self, url, damaged):
        for key in damaged:
            with httpx.stream("GET", f"{url}/{key}") as answer:
                assert "immutable" not in answer.headers.get("cache-control", "")

    def test_a_repaired_object_is_served_again(self, folder, url, damaged):
        async def repair():
            async with DiskRepository(folder) as repo, MemoryRepository() as backup:
                for size in DAMAGED_SIZES:
                    for seed in range(2, 8):
                        await backup.put(content_of(size, seed))
                assert (await repo.repair(source=backup)).steps
                return [await backup.get(key) for key in damaged]

        for key in damaged:
            for _ in range(2):
                with contextlib.suppress(httpx.RemoteProtocolError):
                    assert httpx.get(f"{url}/{key}").status_code == 500
        for key, content in zip(damaged, anyio.run(repair), strict=True):
            assert httpx.get(f"{url}/{key}").content == content

    @pytest.mark.parametrize("size", [10, 256 * 1024, 256 * 1024 + 1, 3_000_000])
    @pytest.mark.parametrize("form", ["loose", "packed", "compressed"])
    def test_an_intact_object_is_compared_once_and_may_then_be_kept_forever(self, folder, url, size, form, monkeypatch):
        compared = []
        monkeypatch.setattr(
            "objrepo.repository.with_verification", lambda *args: compared.append(1) or with_verification(*args)
        )
        content = content_of(size, 9)
        if form == "loose":
            key = httpx.post(url, content=content, headers={"authorization": "Bearer secret"}).json()["key"]
        else:
            with Container(folder) as container:
                [key] = container.add_objects_to_pack([content], compress=form == "compressed")
        small = size <= 256 * 1024
        part = httpx.get(f"{url}/{key}", headers={"range": "bytes=5-8"})
        assert part.content == content[5:9]
        assert ("immutable" in part.headers["cache-control"]) == small
        assert "cache-control" not in httpx.head(f"{url}/{key}").headers
        for number in range(3):
            answer = httpx.get(f"{url}/{key}")
            assert answer.content == content
            assert answer.headers["cache-control"] == (
                "no-cache" if number == 0 and not small else "public, max-age=31536000, immutable"
            )
        assert len(compared) == (3 if small else 1)
        for headers in ({"range": "bytes=5-8"}, {"range": "bytes=5-8,1-2"}, {"if-none-match": f'"{key}"'}):
            answer = httpx.get(f"{url}/{key}", headers=headers)
            assert answer.status_code in (206, 304)
            assert "immutable" in answer.headers["cache-control"]
        assert ("immutable" in httpx.head(f"{url}/{key}").headers.get("cache-control", "")) != small

    def test_a_complete_range_is_compared(self, folder, url):
        key = httpx.post(url, content=bytes(1_000_000), headers={"authorization": "Bearer secret"}).json()["key"]
        assert httpx.get(f"{url}/{key}", headers={"range": "bytes=0-"}).headers["cache-control"] == "no-cache"
        assert "immutable" in httpx.get(f"{url}/{key}", headers={"range": "bytes=0-"}).headers["cache-control"]
        flip(loose_file(folder, key), 5)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/{key}", headers={"range": "bytes=0-"})

    async def test_the_client_raises(self, url, damaged):
        async with HTTPRepository(url, check=True) as repo:
            for key in damaged:
                for read in (DiskRepository.get, read_open, read_stream, sent):
                    with pytest.raises(CorruptObjectError) as caught:
                        await read(repo, key)
                    assert caught.value.key == key
            assert await repo.has_many(damaged) == [True] * len(damaged)

    @pytest.mark.parametrize("damage", ["found", "truncated"])
    async def test_a_damaged_object_is_sent_again(self, repo, folder, damage):
        content = content_of(5_000_000, 9)
        with under_uvicorn(ObjectApp(repo, token="secret")) as url:
            async with HTTPRepository(url, token="secret") as client:
                key = await client.put(content)
                if damage == "found":
                    flip(loose_file(folder, key), 4_000_000)
                    with pytest.raises(httpx.RemoteProtocolError):
                        httpx.get(f"{url}/{key}")
                else:
                    os.truncate(loose_file(folder, key), 4_000_000)
                assert await client.has(key)
                assert await client.put(content) == key
        assert await repo.get(key, check=True) == content

    @pytest.mark.parametrize(
        ("options", "first"),
        [
            ({"authorize": lambda request, operation: True}, "private, no-cache"),
            ({"cache_control": "private, no-store"}, "private, no-store, no-cache"),
            ({"cache_control": "max-age=60"}, "no-cache"),
        ],
    )
    async def test_an_object_that_was_not_compared_yet_keeps_its_restrictions(self, repo, options, first):
        key = await repo.put(content_of(400_000, 9))
        transport = httpx.ASGITransport(ObjectApp(repo, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            assert (await client.get(f"/{key}")).headers["cache-control"] == first
            again = (await client.get(f"/{key}")).headers["cache-control"]
            assert again == options.get("cache_control", "private, max-age=31536000, immutable")

    async def test_an_object_is_compared_again_after_an_hour(self, repo, folder, monkeypatch):
        verified = VerifiedObjects(repo)
        key = await repo.put(content_of(400_000, 9))
        async with verified.open(key) as stream:
            await stream.read(399_999)
        assert not await verified.is_intact(key), "it was not read to its end"
        async with verified.open(key) as stream:
            await stream.read()
        assert await verified.is_intact(key)
        now = time.monotonic()
        monkeypatch.setattr("objrepo.asgi.verified.time.monotonic", lambda: now + 3601)
        assert not await verified.is_intact(key)

    async def test_the_memory_is_bounded(self, repo, monkeypatch):
        monkeypatch.setattr("objrepo.asgi.verified._MAX_OBJECTS", 2)
        verified = VerifiedObjects(repo)
        keys = [await repo.put(content_of(400_000, seed)) for seed in range(4)]
        for key in keys[:3]:
            async with verified.open(key) as stream:
                await stream.read()
        assert [await verified.is_intact(key) for key in keys] == [False, True, True, False]


class TestCommandLine:
    """Commands end with status 1 and leave no file, and no object, with damaged bytes."""

    @pytest.fixture
    def damaged(self, workdir):
        """The keys of damaged objects in the repository of the working directory, which also has an intact one."""
        return anyio.run(damaged_objects, workdir / ".objrepo")[0]

    def test_cat(self, run_objrepo, damaged):
        for key in damaged[::3]:
            status, out, err = run_objrepo("cat", key)
            assert (status, key in err, len(err.splitlines())) == (1, True, 1)
            assert len(out) < 2_900_000, "the end is withheld"
        for key, size in ((damaged[0], DAMAGED_SIZES[0]), (damaged[3], DAMAGED_SIZES[3])):
            status, out, _ = run_objrepo("cat", key, "--no-check")
            assert (status, len(out)) == (0, size)
            assert run_objrepo("cat", key, "--offset", "2", "--length", "3")[:2] == (0, content_of(size, 2)[2:5])
        assert run_objrepo("cat", sha256(b"intact"))[:2] == (0, b"intact")

    def test_get(self, workdir, run_objrepo, damaged):
        for key in damaged[::3]:
            status, _, err = run_objrepo("get", key, "-o", "file")
            assert (status, key in err, len(err.splitlines())) == (1, True, 1)
            assert os.listdir(workdir) == [".objrepo"]
        status, _, err = run_objrepo("get", *damaged[::3], sha256(b"intact"), "-o", "folder/")
        assert (status, len(err.splitlines())) == (1, len(damaged[::3]))
        assert all(key in err for key in damaged[::3])
        assert os.listdir(workdir / "folder") == [sha256(b"intact")], "the others are written"
        assert run_objrepo("get", damaged[0], "-o", "file", "--no-check")[0] == 0
        assert (workdir / "file").stat().st_size == DAMAGED_SIZES[0]
        assert run_objrepo("get", damaged[3], "-o", "file")[0] == 1
        assert (workdir / "file").stat().st_size == DAMAGED_SIZES[0], "an existing file stays"

    @pytest.mark.parametrize(
        ("command", "written"),
        [
            (("copy", ".objrepo", "other"), "other"),
            (("restore", ".objrepo", "--repo", "other"), "other"),
            (("restore", ".objrepo", "--repo", "other", "--no-check"), "other"),
            (("backup", "other"), "other"),
            (("backup", "other.zip"), "other.zip"),
            (("export", "other.zip"), "other.zip"),
        ],
    )
    def test_objects_that_are_stored_again(self, workdir, run_objrepo, damaged, command, written):
        status, out, _ = run_objrepo(*command)
        assert status == 1
        assert f"{len(damaged)} damaged" in out.decode()
        assert all(key in out.decode() for key in damaged)
        assert set(run_objrepo("ls", "--repo", written)[1].decode().split()).isdisjoint(damaged)
        assert run_objrepo("cat", sha256(b"intact"), "--repo", written)[:2] == (0, b"intact")
        assert run_objrepo("verify", "--repo", written)[0] == 0

    def test_a_tar(self, workdir, run_objrepo, damaged):
        assert run_objrepo("export", "objects.tar")[0] == 1
        with tarfile.open(workdir / "objects.tar") as archive:
            names = archive.getnames()
        assert f"repo/{sha256(b'intact')}" in names
        assert {name.removeprefix("repo/") for name in names}.isdisjoint(damaged)


async def test_an_export_fails_if_an_object_is_damaged_between_its_two_reads(repo, folder, tmp_path, monkeypatch):
    """A member cannot be removed from an archive, so the archive is given up."""
    await repo.put(content_of(3_000_000))
    reads = []
    opened = repo.open

    def damaged_later(key, *args, **options):
        reads.append(key)
        if len(reads) == 2:
            flip(loose_file(folder, key), 5)
        return opened(key, *args, **options)

    monkeypatch.setattr(repo, "open", damaged_later)
    with pytest.raises(RepositoryError, match=r"is damaged: .*objects.zip is not written"):
        await export(repo, tmp_path / "objects.zip")
    assert not list(tmp_path.glob("*objects*"))


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
