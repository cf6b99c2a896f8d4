"""How many requests an operation sends, which cost time and money."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from urllib.request import urlopen

import anyio
import pytest

from objrepo.testing.fixtures import content_of


def methods(proxy):
    return Counter(request.split()[0] for request in proxy.taken())


async def test_one_object(repo, proxy):
    """The numbers of `docs/buckets.md`; each `GET` but the last ones is a listing of the log."""
    await repo.has("0" * 64)  # reads the first entry of the log
    proxy.taken()
    key = await repo.put(b"content")
    assert methods(proxy) == {"GET": 1, "PUT": 1}
    await repo.put(b"content")
    assert methods(proxy) == {"GET": 1, "PUT": 1}, "by the condition, without another request"
    assert await repo.get(key) == b"content"
    assert methods(proxy) == {"GET": 1}
    assert await repo.has(key)
    assert methods(proxy) == {"HEAD": 1, "GET": 1}
    assert await repo.size(key) == 7
    assert methods(proxy) == {"HEAD": 1}
    async with repo.open(key) as stream:
        assert await stream.read() == b"content"
    assert methods(proxy) == {"GET": 1}
    await repo.delete(key)
    assert methods(proxy) == {"HEAD": 1, "PUT": 1, "POST": 1}
    for nonsense in ("", "no key", "a" * 63):
        assert not await repo.has(nonsense)
    assert methods(proxy) == {}, "malformed keys are not requested"


async def test_opening_costs_some_requests_once(bucket, proxy):
    async with bucket() as repo:
        await repo.initialise()
        key = await repo.put(b"content")
    async with bucket(endpoint=proxy.url) as repo:
        assert await repo.get(key) == b"content"
        assert methods(proxy) == {"GET": 4}, "the marker, the log and its first entry, and the object"
        await repo.get(key)
        assert methods(proxy) == {"GET": 1}


async def test_a_large_object(repo, proxy):
    await repo.has("0" * 64)
    proxy.taken()
    content = os.urandom(40 * 1024 * 1024 + 3)
    key = await repo.put(content)
    assert methods(proxy) == {"GET": 1, "HEAD": 1, "POST": 2, "PUT": 6}
    await repo.put(content)
    assert methods(proxy) == {"GET": 1, "HEAD": 1}, "it exists, and is not sent again"
    assert await repo.get(key) == content
    assert methods(proxy)["GET"] <= 6
    async with repo.open(key, offset=20_000_000, length=1000) as stream:
        assert await stream.read() == content[20_000_000:20_001_000]
    assert methods(proxy) == {"GET": 1}, "a range is not the whole"
    async with repo.open(key) as stream:
        await stream.seek(30_000_000)
        assert await stream.read(10) == content[30_000_000:30_000_010]
        await stream.seek(100)
        assert await stream.read(10) == content[100:110]
    assert methods(proxy)["GET"] <= 3
    async with repo.open(key) as stream:
        assert b"".join([chunk async for chunk in stream]) == content
    assert methods(proxy)["GET"] <= 17, "ranges grow while it is read sequentially"


@pytest.mark.parametrize("anyio_backend", [("trio", {})], indirect=True)
async def test_many_small_objects(bucket, proxy):
    """The limits are promises: see `docs/scale.md`."""
    contents = [b"%d" % number for number in range(20_000)]
    async with bucket(endpoint=proxy.url) as repo:
        await repo.initialise()
        proxy.taken()
        keys = await repo.put_many(contents)
        assert len(proxy.taken()) <= 15
        assert all(await repo.has_many(keys))
        assert len(proxy.taken()) == 1
        async with repo.stream(keys) as objects:
            assert len([key async for key, _ in objects]) == 20_000
        assert len(proxy.taken()) <= 100
        assert sorted([key async for key in repo.keys()]) == sorted(keys)
        assert (await repo.info(detailed=True)).objects == 20_000
        assert len(proxy.taken()) <= 6
        await repo.delete_many(keys[:1000])
        assert len(proxy.taken()) == 1
        await repo.maintain(live=False)
        assert await repo.has_many(keys[:1001]) == [False] * 1000 + [True]
        proxy.taken()
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(repo.put, b"at once %d" % number)
        assert len(proxy.taken()) <= 100
        await repo.erase()


@pytest.fixture
def logged(s3, gateway):
    """Return a function that returns the requests to a bucket since its last call, as the gateway has logged them."""
    s3.create_bucket(Bucket="counted")
    seen = 0

    def take():
        nonlocal seen
        end = f"/counted?marker={seen}"
        time.sleep(0.3)  # a request is logged after its answer was sent
        with suppress(OSError):  # it is denied, and logged
            urlopen(gateway.url + end)
        for _ in range(200):
            requests = gateway.logged("/counted")[seen:]
            if f"GET {end}" in requests:
                break
            time.sleep(0.05)
        taken = requests[: requests.index(f"GET {end}")]
        seen += len(taken) + 1
        return taken

    take()
    return take


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], indirect=True)
async def test_limits_of_many_small_objects_by_the_log_of_the_gateway(bucket, logged, tmp_path):
    contents = [b"%d" % number * 200 for number in range(20_000)]
    async with (
        bucket(bucket="counted", prefix="", index=str(tmp_path / "index")) as repo,
        bucket(bucket="counted", prefix="", index=str(tmp_path / "other")) as other,
    ):
        await repo.initialise()
        counts = {}

        async def count(name, limit, work):
            logged()
            result = await work
            counts[name] = len(logged())
            assert counts[name] <= limit, counts
            return result

        async def read_all():
            async with repo.stream(keys) as objects:
                return [key async for key, _ in objects]

        async def put_at_once():
            async with anyio.create_task_group() as group:
                for number in range(1000):
                    group.start_soon(repo.put, b"at once %d" % number)

        keys = await count("put_many", 100, repo.put_many(contents))
        assert counts["put_many"] > 5, "requests are counted"
        assert set(await count("stream", 150, read_all())) == set(keys)
        assert all(await count("has_many", 30, repo.has_many(keys)))
        assert all(await count("has_many elsewhere", 30, other.has_many(keys)))
        assert await count("get", 2, other.get(keys[7])) == contents[7]
        assert await count("has", 3, repo.has(keys[0]))
        assert not await count("has not", 3, repo.has("0" * 64))
        await count("1,000 puts at once", 100, put_at_once())
        await other.has(keys[0])
        (late, _) = await repo.put_many([b"late", b"later"])
        assert await count("first get of what another machine has packed", 4, other.get(late)) == b"late"
        print(counts)
        await repo.erase()


@pytest.mark.parametrize("anyio_backend", [("trio", {})], indirect=True)
async def test_many_keys_in_format_1(bucket, proxy, monkeypatch):
    monkeypatch.setattr("objrepo.bucket.backend._NEW_FORMAT", 1)
    async with bucket() as repo:
        await repo.initialise()
        keys = await repo.put_many(b"%d" % number for number in range(10_000))
    async with bucket(endpoint=proxy.url) as repo:
        await repo.is_initialised()
        proxy.taken()
        assert sorted([key async for key in repo.keys()]) == sorted(keys)
        assert len(proxy.taken()) <= 11
        assert (await repo.info(detailed=True)).objects == 10_000
        assert len(proxy.taken()) <= 11
        assert all(await repo.has_many(keys[:7]))
        assert methods(proxy) == {"HEAD": 7}, "for a few keys, nothing is listed"
        for count in (8, 20, 100, 1000):
            absent = [f"{number:064x}" for number in range(count)]
            assert await repo.has_many(keys[:count] + absent) == [True] * count + [False] * count
            assert len(proxy.taken()) <= min(count + 1, 11), (
                "the absent keys are neighbours: one page decides all of them"
            )
        assert await repo.has_many(keys[:30]) == [True] * 30
        assert "HEAD" not in methods(proxy), "a page of so many decides several"
        await repo.delete_many(keys[:1000])
        requests = proxy.taken()
        assert requests.count("POST delete") == 1
        assert len(requests) <= 12
        await repo.erase()
        assert proxy.taken().count("POST delete") <= 11


async def test_one_request_at_a_time(bucket):
    async with bucket(concurrency=1) as repo:
        await repo.initialise()
        keys = await repo.put_many([b"first", b"second", b"third"])
        assert await repo.has_many(keys) == [True] * 3
        async with repo.stream(keys) as objects:
            assert {await stream.read() async for _, stream in objects} == {b"first", b"second", b"third"}


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 4 * 1024 * 1024 - 1, 4 * 1024 * 1024])
async def test_sizes(repo, proxy, size):
    content = content_of(size)
    key = await repo.put(content)
    assert await repo.get(key) == content
    async with repo.open(key, check=True) as stream:
        assert await stream.read() == content
    async with repo.open(key, offset=size) as stream:
        assert await stream.read() == b""
    async with repo.open(key, offset=size + 100, length=0) as stream:
        assert (stream.size, await stream.read()) == (0, b"")
