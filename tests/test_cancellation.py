"""Every operation, cancelled wherever it can be cancelled, leaves nothing behind: no thread, file, lock or session."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import anyio
import pytest
from disk_objectstore import Container

from helpers import open_files
from objrepo import DiskRepository
from objrepo.offload import WorkItem
from objrepo.offload.batcher import Batcher
from objrepo.testing.fixtures import content_of

LARGE = content_of(3_000_000)


class AtCheckpoint:
    """Await a coroutine, and call a function as it suspends for the n-th time."""

    def __init__(self, coroutine, number, then):
        self.coroutine = coroutine
        self.number = number
        self.then = then
        self.reached = False

    def __await__(self):
        inner = self.coroutine.__await__()
        step, value = inner.send, None
        suspensions = 0
        while True:
            try:
                yielded = step(value)
            except StopIteration as stop:
                return stop.value
            suspensions += 1
            if suspensions == self.number:
                self.reached = True
                self.then()
            try:
                step, value = inner.send, (yield yielded)
            except BaseException as error:  # noqa: BLE001  (passed on)
                step, value = inner.throw, error


async def chunks():
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        yield LARGE[:700_000]


async def open_and_read(repo, keys):
    async with repo.open(keys[0]) as stream:
        await stream.receive()
        await stream.read()


async def stream_all(repo, keys):
    async with repo.stream(keys) as objects:
        async for _, stream in objects:
            await stream.read()


async def list_all(repo, keys):
    return [key async for key in repo.keys()]


async def put_together(repo, keys):
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(repo.put, b"together %d" % number)


async def get_together(repo, keys):
    async with anyio.create_task_group() as group:
        for key in keys:
            group.start_soon(repo.get, key)


async def put_in_batch(repo, keys):
    async with repo.batch() as batch:
        await batch.put_many(b"of a batch %d" % number for number in range(1100))
        key = await batch.put(b"last")
        await batch.get(key)


async def put_and_delete(repo, keys):
    await repo.delete_many([await repo.put(b"to go"), *await repo.put_many([b"packed to go"])])


OPERATIONS = {
    "put bytes": lambda repo, keys: repo.put(b"content"),
    "put large": lambda repo, keys: repo.put(LARGE[1:]),
    "put async source": lambda repo, keys: repo.put(chunks()),
    "put short async source": lambda repo, keys: repo.put(anyio_stream()),
    "put iterable": lambda repo, keys: repo.put([b"in ", b"pieces"]),
    "put path": lambda repo, keys: repo.put(repo.path / "config.json"),
    "put together": put_together,
    "put_many": lambda repo, keys: repo.put_many(b"many %d" % number for number in range(1500)),
    "put_many async": lambda repo, keys: repo.put_many([b"one", chunks(), b"two"]),
    "batch": put_in_batch,
    "has": lambda repo, keys: repo.has(keys[0]),
    "has_many": lambda repo, keys: repo.has_many(keys),
    "get": lambda repo, keys: repo.get(keys[2]),
    "get large": lambda repo, keys: repo.get(keys[0]),
    "get checked": lambda repo, keys: repo.get(keys[0], check=True),
    "get together": get_together,
    "size": lambda repo, keys: repo.size(keys[0]),
    "hash": lambda repo, keys: repo.hash(keys[0]),
    "open": open_and_read,
    "stream": stream_all,
    "keys": list_all,
    "info": lambda repo, keys: repo.info(detailed=True),
    "uuid": lambda repo, keys: repo.uuid(),
    "delete": put_and_delete,
    "maintain": lambda repo, keys: repo.maintain(),
    "maintain alone": lambda repo, keys: repo.maintain(live=False),
    "verify": lambda repo, keys: repo.verify(),
    "repair": lambda repo, keys: repo.repair(live=False),
    "initialise": lambda repo, keys: repo.initialise(),
}


def anyio_stream():
    async def short():
        await anyio.lowlevel.checkpoint()
        yield b"short"

    return short()


async def filled(repo):
    """Put objects of all kinds; return their keys."""
    keys = [await repo.put(LARGE), await repo.put(b"loose")]
    keys += await repo.put_many(b"packed %d" % number for number in range(4))
    with Container(repo.path) as container:
        keys += container.add_objects_to_pack([LARGE[2:], b"short" * 100], compress=True, do_fsync=False)  # it leaks
    return keys


async def nothing_is_left(repo):
    """Wait until abandoned calls have ended; check that no file, lock or temporary file is left."""
    with anyio.fail_after(20):
        while repo.statistics().workers_busy or repo.statistics().calls_waiting:
            await anyio.sleep(0.001)
    assert repo.statistics().open_objects == 0
    assert os.listdir(repo.path / "sandbox") == []
    assert [name for name in os.listdir(repo.path / "packs") if not name.isdecimal()] == []
    assert list(repo.path.glob("append-*")) == []


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_each_checkpoint(folder, name):
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        keys = await filled(repo)
        number = 0
        while True:
            number += 1
            with anyio.CancelScope() as scope:
                await (at := AtCheckpoint(OPERATIONS[name](repo, keys), number, scope.cancel))
            await nothing_is_left(repo)
            if not at.reached:
                break
            for key in await repo.put_many([b"packed %d" % number for number in range(3)]):
                await repo.get(key, check=True)  # the next operation works
        assert number > 1
        assert (await repo.verify()).damaged == ()
        await repo.maintain(live=False)
        for key in keys:
            await repo.get(key, check=True)
    assert open_files(folder) == []


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_while_a_thread_runs(folder, name, monkeypatch):
    entered, gate = threading.Event(), threading.Event()
    begin, take_batch = WorkItem.begin, Batcher._take_batch

    def hold(begun):
        if begun:
            entered.set()
            assert gate.wait(30)
        return begun

    async with DiskRepository(folder) as repo:
        await repo.initialise()
        keys = await filled(repo)
        monkeypatch.setattr(WorkItem, "begin", lambda item: hold(begin(item)))
        monkeypatch.setattr(Batcher, "_take_batch", lambda batcher: hold(take_batch(batcher)))
        async with anyio.create_task_group() as group:

            async def operate():
                await OPERATIONS[name](repo, keys)

            group.start_soon(operate)
            while not entered.is_set():
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
            threading.Timer(0.02, gate.set).start()
        assert gate.wait(30)
        monkeypatch.undo()
        await nothing_is_left(repo)
        assert (await repo.verify()).damaged == ()
        await OPERATIONS[name](repo, keys)
    assert open_files(folder) == []


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_timeout_at_any_moment_leaves_nothing(folder, name):
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        keys = await filled(repo)
        for microseconds in (0, 30, 100, 300, 1000, 3000):
            with anyio.move_on_after(microseconds / 1e6):
                await OPERATIONS[name](repo, keys)
        await nothing_is_left(repo)
        assert (await repo.verify()).damaged == ()
    assert open_files(folder) == []


async def test_leaving_with_hundreds_of_waiting_operations_leaves_nothing(folder):
    threads = threading.active_count()
    for cancelled in (True, False):
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await filled(repo)
            async with anyio.create_task_group() as group:
                for number in range(300):
                    group.start_soon(repo.put, b"%d" % number)
                    group.start_soon(repo.get, keys[number % len(keys)])
                    group.start_soon(repo.put, [b"%d in pieces" % number])
                await anyio.sleep(0.01)
                if cancelled:
                    group.cancel_scope.cancel()
            await nothing_is_left(repo)
            assert (await repo.verify()).damaged == ()
        assert open_files(folder) == []
    assert threading.active_count() < threads + 40, "workers are used again"


async def test_an_exception_in_the_body(folder):
    with pytest.raises(KeyError, match="mine"):
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await filled(repo)
            with pytest.raises(KeyError, match="mine"):
                async with repo.open(keys[0]):
                    raise KeyError("mine")
            with pytest.raises(KeyError, match="mine"):
                async with repo.stream(keys) as objects:
                    async for _ in objects:
                        raise KeyError("mine")
            with pytest.raises(KeyError, match="mine"):
                async for _ in repo.keys():
                    raise KeyError("mine")
            raise KeyError("mine")
    assert open_files(folder) == []


async def test_erase_cancelled_at_each_checkpoint(tmp_path):
    number = 0
    reached = True
    while reached:
        number += 1
        async with DiskRepository(tmp_path / str(number)) as repo:
            await repo.initialise()
            await filled(repo)
            with anyio.CancelScope() as scope:
                await (at := AtCheckpoint(repo.erase(), number, scope.cancel))
            reached = at.reached
            await repo.initialise()
            assert await repo.get(await repo.put(b"content")) == b"content"
            assert (await repo.verify()).damaged == ()


def test_native_cancellation_of_asyncio(folder):
    async def main():
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await filled(repo)
            for operation in OPERATIONS.values():
                for pause in (0, 0.0005):
                    task = asyncio.create_task(operation(repo, keys))
                    await asyncio.sleep(pause)
                    task.cancel()
                    done, _ = await asyncio.wait([task], timeout=30)
                    assert done
                    assert task.cancelled() or task.exception() is None
                    await nothing_is_left(repo)
            assert (await repo.verify()).damaged == ()
        assert open_files(folder) == []

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 100
