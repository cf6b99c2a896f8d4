"""Operations on a bucket that does not answer end within a second when they are cancelled, and leave nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from itertools import count

import anyio
import pytest

from helpers import open_files
from objrepo import ObjectNotFoundError, S3Repository
from objrepo.bucket import backend, client, loose
from objrepo.bucket.s3 import S3Options
from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.testing.fixtures import content_of
from s3_proxy import Fault, proxy_to
from s3_server import s3_server

MIB = 1024 * 1024
LARGE = content_of(5 * MIB // 2)
SILENCE = 20.0
"""How long the proxy does not answer; the timeouts of the repository are longer."""

SLOW_MACHINE = 6.0
"""How many seconds may pass instead of one: less than the silence."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(server):
    with proxy_to(server.url) as proxy:
        yield proxy
        proxy.resume()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in (backend, client, loose):
        monkeypatch.setattr(module, "PART_BYTES", MIB)
    monkeypatch.setattr(backend, "_MAX_SINGLE_REQUEST_BYTES", MIB)
    monkeypatch.setattr(client, "_ABORT_SECONDS", 4.0)  # on a slow machine, botocore starts slowly


@pytest.fixture
def options(server, proxy, tmp_path):
    return {
        **server.options,
        "endpoint": proxy.url,
        "timeout": 60,
        "retry_timeout": 60,
        "index": str(tmp_path / "index"),
    }


class World:
    def __init__(self, repo, keys, number):
        self.repo = repo
        self.loose, self.packed, _, self.large = keys
        self.number = number * 100

    def content(self, size=20):
        self.number += 1
        return b"%0*d" % (size, self.number)

    async def open(self):
        async with self.repo.open(self.large, offset=MIB // 2) as stream:
            await stream.read()

    async def stream(self):
        async with self.repo.stream([self.packed, self.loose]) as objects:
            async for _, stream in objects:
                await stream.read()

    async def delete(self):
        with suppress(ObjectNotFoundError):  # a request that was cancelled may have been performed
            await self.repo.delete(self.loose)

    async def keys(self):
        return [key async for key in self.repo.keys()]


OPERATIONS = {
    "put": lambda world: world.repo.put(world.content()),
    "put large": lambda world: world.repo.put(world.content() + LARGE),
    "put_many": lambda world: world.repo.put_many([world.content(), world.content(), world.content(100_000)]),
    "get": lambda world: world.repo.get(world.packed),
    "get large": lambda world: world.repo.get(world.large),
    "open": World.open,
    "stream": World.stream,
    "has": lambda world: world.repo.has(world.loose),
    "has_many": lambda world: world.repo.has_many([world.loose, world.packed, *(f"{n:064x}" for n in range(9))]),
    "delete": World.delete,
    "keys": World.keys,
    "verify": lambda world: world.repo.verify(),
    "maintain": lambda world: world.repo.maintain(),
}


POSITIONS = {"put large": (2, 3, 6), "verify": (0, 3), "maintain": (0, 4, 8)}
"""The requests of some operations that are met with silence; of the others, all."""


@pytest.fixture
def earlier_threads():
    """The threads that other tests have left."""
    return set(threading.enumerate())


def new_threads(earlier, *names):
    """Return the threads of these names that have begun since, after those that are ending have ended."""
    for _ in range(200):
        found = [thread for thread in threading.enumerate() if thread.name in names and thread not in earlier]
        if not found:
            break
        time.sleep(0.005)
    return found


async def cancelled_at(world, proxy, operation, position):
    """Cancel an operation while it waits for the answer to one of its requests; return whether it had so many."""
    numbers = count()
    proxy.reached.clear()
    proxy.faults = lambda *_: Fault(silence=SILENCE) if next(numbers) == position else None
    async with anyio.create_task_group() as group:
        ended = anyio.Event()

        async def run():
            try:
                await OPERATIONS[operation](world)
            finally:
                ended.set()

        group.start_soon(run)
        while not ended.is_set() and not proxy.reached.is_set():
            await anyio.sleep(0.005)
        began = time.monotonic()
        group.cancel_scope.cancel()
    return proxy.reached.is_set(), time.monotonic() - began


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_is_cancelled_while_it_waits_for_any_of_its_requests(
    server, proxy, options, operation, tmp_path, earlier_threads
):
    other = S3Repository(**server.options, index=str(tmp_path / "other"))  # on another machine, without the proxy
    async with other:
        await other.initialise()
        keys = [await other.put(b"loose"), *(await other.put_many([b"packed", b"more"])), await other.put(LARGE)]
        uuid = await other.uuid()
    for position in POSITIONS.get(operation, count()):
        async with S3Repository(**options) as repo:
            await repo.has(keys[0])
            reached, took = await cancelled_at(World(repo, keys, position), proxy, operation, position)
            assert took < SLOW_MACHINE, f"request {position}: {proxy.requests[-3:]}"
            began = time.monotonic()
        assert time.monotonic() - began < SLOW_MACHINE, f"leaving, request {position}: {proxy.requests[-3:]}"
        assert new_threads(earlier_threads, "objrepo") == []
        assert open_files(tmp_path / "index") == []
        proxy.resume()
        server.objects.pop("lease", None)  # which would end by itself, where the request for it comes late
        assert new_threads(earlier_threads, "objrepo", "objrepo request") == [], (
            "a list of uploads is not cancelled, but left alone"
        )
        if not reached:
            break
    assert len(server.uploads) == (operation == "put large"), (
        "the one whose first request was delayed until it was cancelled"
    )
    assert {name.partition(".")[0][: len(uuid)] for name in os.listdir(tmp_path / "index")} == {uuid}
    async with other:
        assert operation == "delete" or await other.get(keys[0]) == b"loose"
        assert (await other.verify()).ok
        if server.uploads:
            await other.maintain(live=False)
            assert server.uploads == {}


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize("name", ["get", "has", "put"])
def test_an_interrupt_ends_a_call_without_an_event_loop(server, proxy, options, name):
    interrupt = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    with SyncRepository(S3Repository(**options, offload=Inline())) as repo:
        repo.initialise()
        key = repo.put(b"content")
        calls = {"get": lambda: repo.get(key), "has": lambda: repo.has(key), "put": lambda: repo.put(b"other")}
        proxy.faults = lambda *_: Fault(silence=SILENCE)
        began = time.monotonic()
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            calls[name]()
        assert time.monotonic() - began < SLOW_MACHINE
        proxy.resume()
        assert repo.get(key) == b"content"


async def test_a_call_in_place_works_where_an_event_loop_is_running(options):
    with SyncRepository(S3Repository(**options, offload=Inline())) as repo:
        repo.initialise()
        key = repo.put(b"content")
        await anyio.sleep(0)
        assert repo.get(key) == b"content"
        assert list(repo.keys()) == [key]


async def test_an_operation_is_cancelled_while_it_waits_for_credentials(options, monkeypatch, earlier_threads):
    """Which a service of the machine issues, that may not answer."""
    searching, answered = threading.Event(), threading.Event()

    def connect(self, retries=0):
        searching.set()
        answered.wait(SILENCE)

    monkeypatch.setattr(S3Options, "connect", connect)
    async with S3Repository(**options) as repo, anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(repo.get, "0" * 64)
        while not searching.is_set():
            await anyio.sleep(0.005)
        began = time.monotonic()
        group.cancel_scope.cancel()
    assert time.monotonic() - began < SLOW_MACHINE, "the repository is left too"
    answered.set()
    assert new_threads(earlier_threads, "objrepo", "objrepo request") == []
