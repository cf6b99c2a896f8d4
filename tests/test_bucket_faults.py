"""Faults between a program and its bucket end in the right result, or in one clear error within the stated time."""

from __future__ import annotations

import hashlib
import time
from itertools import count

import pytest

from objrepo import (
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryUnavailableError,
    S3Repository,
)
from objrepo.bucket import backend, client, log, loose
from objrepo.bucket.s3 import S3Options
from s3_proxy import Fault, proxy_to
from s3_server import s3_server

SECRETS = {"access_key_id": "ACCESSOFMINE", "secret_access_key": "secret-of-mine", "session_token": "token-of-mine"}
TIMEOUT = 2.0
RETRY_TIMEOUT = 0.15
PROMISED = RETRY_TIMEOUT + 2 * TIMEOUT


@pytest.fixture
def anyio_backend():
    """Network faults do not depend on the event loop; the contract is tested on all."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Repeat requests at once, and have small objects be large ones, which are sent and received in parts."""
    monkeypatch.setattr("objrepo.retry.FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backend, "_MAX_SINGLE_REQUEST_BYTES", 1000)
    monkeypatch.setattr(backend, "MAX_BATCHED_OBJECT_BYTES", 100)
    monkeypatch.setattr(S3Options, "list_uploads", lambda *_: [])  # by botocore, which starts slowly
    for module in (backend, client, log, loose):
        monkeypatch.setattr(module, "PART_BYTES", 2000)


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(server):
    with proxy_to(server.url) as proxy:
        yield proxy


@pytest.fixture
def options(proxy, tmp_path):
    return {
        "bucket": "bucket",
        "endpoint": proxy.url,
        "timeout": TIMEOUT,
        "retry_timeout": RETRY_TIMEOUT,
        "index": str(tmp_path / "index"),
        **SECRETS,
    }


@pytest.fixture
def form():
    """The format of the repository."""
    return 2


@pytest.fixture
async def world(server, proxy, options, form, tmp_path):
    server.ignores_conditions = form == 1
    async with (
        S3Repository(**options) as repo,
        S3Repository(**{**options, "endpoint": server.url, "index": str(tmp_path / "other")}) as other,
    ):
        await repo.initialise()
        server.ignores_conditions = False
        yield await World(repo, other, proxy).filled()


class World:
    """A repository behind the proxy, the same one on another machine without it, and what must be in it.

    :ivar objects: what was acknowledged.
    :ivar unknown: the keys of which a put or a deletion was not acknowledged.
    :ivar deleted: the keys whose deletion was acknowledged.
    """

    def __init__(self, repo, other, proxy):
        self.repo = repo
        self.other = other
        self.proxy = proxy
        self.objects = {}
        self.unknown = set()
        self.deleted = set()
        self.number = 0

    async def filled(self):
        contents = [self.content(), self.content(), self.content()]
        self.packed = await self.other.put_many(contents)
        self.objects |= zip(self.packed, contents, strict=True)
        self.loose = await self.stored(self.content())
        self.large = await self.stored(self.content(5000))
        self.loose_ones = [await self.stored(self.content()) for _ in range(6)]
        contents = [self.content() for _ in range(4)]
        self.packed_ones = await self.other.put_many(contents)
        self.objects |= zip(self.packed_ones, contents, strict=True)
        return self

    def content(self, size=20):
        self.number += 1
        return b"%0*d" % (size, self.number)

    async def stored(self, content):
        key = await self.other.put(content)
        self.objects[key] = content
        return key

    async def put(self, contents, put):
        """Put contents by a function, and note what is acknowledged."""
        keys = [hashlib.sha256(content).hexdigest() for content in contents]
        self.unknown |= set(keys)
        assert await put() == keys
        self.unknown -= set(keys)
        self.objects |= zip(keys, contents, strict=True)

    async def delete(self, key):
        del self.objects[key]
        self.unknown.add(key)
        await self.repo.delete(key)
        self.unknown.remove(key)
        self.deleted.add(key)

    def compare(self, listed):
        assert len(listed) == len(set(listed))
        assert self.objects.keys() <= set(listed) <= self.objects.keys() | self.unknown

    async def check(self):
        """Compare everything with what was acknowledged, on the other machine."""
        for key, content in self.objects.items():
            assert await self.other.get(key) == content
        self.compare([key async for key in self.other.keys()])
        assert not any(await self.other.has_many(self.deleted))
        assert (await self.other.verify()).ok


async def put(world):
    content = world.content()
    await world.put([content], lambda: as_list(world.repo.put(content)))


async def as_list(awaitable):
    return [await awaitable]


async def put_again(world):
    assert await world.repo.put(world.objects[world.packed[0]]) == world.packed[0]


async def put_large(world):
    content = world.content(5000)
    await world.put([content], lambda: as_list(world.repo.put(content)))


async def put_many(world):
    contents = [world.content(), world.content(), world.content(300)]
    await world.put(contents, lambda: world.repo.put_many(contents))


async def get(world):
    for key in (world.packed[0], world.loose, world.large):
        assert await world.repo.get(key) == world.objects[key]


async def get_missing(world):
    with pytest.raises(ObjectNotFoundError):
        await world.repo.get("0" * 64)


async def open_range(world):
    for key in (world.packed[0], world.large):
        async with world.repo.open(key, offset=3, length=12) as stream:
            assert await stream.read() == world.objects[key][3:15]


async def stream(world):
    keys = [world.packed[2], world.loose, world.packed[0], world.large]
    async with world.repo.stream(keys) as objects:
        found = {key: await each.read() async for key, each in objects}
    assert found == {key: world.objects[key] for key in keys}


async def has(world):
    assert [await world.repo.has(key) for key in (world.packed[0], world.loose, "0" * 64)] == [True, True, False]


async def has_many(world):
    keys = [*world.objects, *(f"{number:064x}" for number in range(9))]
    assert await world.repo.has_many(keys) == [key in world.objects for key in keys]


async def delete(world):
    await world.delete(world.loose_ones.pop())


async def delete_packed(world):
    await world.delete(world.packed_ones.pop())


async def keys(world):
    world.compare([key async for key in world.repo.keys()])


async def verify(world):
    report = await world.repo.verify()
    assert report.ok
    assert len(world.objects) <= report.objects <= len(world.objects) + len(world.unknown)


async def maintain(world):
    await world.repo.maintain()


OPERATIONS = (
    put,
    put_again,
    put_large,
    put_many,
    get,
    get_missing,
    open_range,
    stream,
    has,
    has_many,
    delete,
    delete_packed,
    keys,
    verify,
    maintain,
)

TEMPORARY = {
    "slow down": Fault(answer=503, headers={"Retry-After": "1"}),
    "lost answer": Fault(answer=500, code="InternalError", performed=True),
    "closed connection": Fault(drop=True),
    "cut body": Fault(cut=1),
    "wrong length": Fault(shorten=1),
    "sent twice": Fault(twice=True),
    "late copy": Fault(copy=True),
}


async def survive_at_each_request(world, server, proxy, fault, operations):
    for operation in operations:
        for position in count():
            numbers = count()
            proxy.requests.clear()
            proxy.faults = lambda *_, n=numbers, p=position: fault if next(n) == p else None
            try:
                await operation(world)
            except Exception as error:
                error.add_note(f"{operation.__name__}, request {position}: {proxy.requests}")
                raise
            if len(proxy.requests) <= position:
                break
            proxy.deliver()
            server.objects.pop("lease", None)  # which would end by itself: the copy may be that of its beginning
    await world.check()


@pytest.mark.parametrize("fault", TEMPORARY)
async def test_a_fault_of_any_one_request_is_survived(world, server, proxy, fault):
    await survive_at_each_request(world, server, proxy, TEMPORARY[fault], OPERATIONS)


@pytest.mark.parametrize("form", [1])
@pytest.mark.parametrize("fault", ["lost answer", "sent twice", "wrong length"])
async def test_the_same_in_format_1(world, server, proxy, fault):
    operations = (put, put_again, put_large, put_many, get, has_many, delete, keys)
    await survive_at_each_request(world, server, proxy, TEMPORARY[fault], operations)


PERMANENT = {name: TEMPORARY[name] for name in ("slow down", "lost answer", "closed connection")}


@pytest.mark.parametrize("fault", PERMANENT)
async def test_a_fault_that_stays_is_one_error_in_time(world, proxy, fault):
    for operation in OPERATIONS:
        proxy.faults = lambda *_: PERMANENT[fault]
        began = time.monotonic()
        with pytest.raises(
            RepositoryUnavailableError, match=r"^s3://bucket at http://127.0.0.1:\d+ is unavailable: ."
        ) as caught:
            await operation(world)
        assert time.monotonic() - began < PROMISED, operation
        assert isinstance(caught.value, ConnectionError)
        check_error(caught.value)
        proxy.fail()
        await operation(world)


def check_error(error):
    assert "\n" not in str(error)
    assert len(str(error)) < 300
    for secret in SECRETS.values():
        assert secret not in str(error) + repr(error.__cause__)
    assert error.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
async def test_a_lease_that_is_damaged_is_taken_over(world, server, content):
    server.objects["lease"] = content
    await world.repo.maintain()
    assert server.objects["lease"] == b"{}"


async def test_a_late_copy_of_a_lease_delays_maintenance_by_minutes(world, server, proxy):
    proxy.faults = lambda method, target: Fault(copy=True) if (method, target) == ("PUT", "/bucket/lease") else None
    await world.repo.maintain()
    server.objects["lease"] = proxy.copies[1].body
    with pytest.raises(RepositoryBusyError, match=r"try again in (299|300) seconds"):
        await world.repo.maintain()
    await world.check()
