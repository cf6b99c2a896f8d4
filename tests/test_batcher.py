"""Batches: calls that wait at the same moment make up one call, and each meets its own result or error."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref

import anyio
import pytest

from objrepo import DiskRepository, MemoryRepository, ObjectNotFoundError
from objrepo.offload import UNBATCHED, Inline, Threads
from objrepo.testing.fixtures import content_of


class Work:
    """A function of a batch that records its batches, and can be held up; and the function of one item."""

    def __init__(self):
        self.batches = []
        self.single = []
        self.hold = threading.Event()
        self.hold.set()
        self.at_work = threading.Event()

    def batch(self, items):
        self.batches.append(list(items))
        self.at_work.set()
        assert self.hold.wait(30)
        return [ZeroDivisionError(item) if item == 0 else UNBATCHED if item < 0 else item * 2 for item in items]

    def one(self, item):
        self.single.append(item)
        return item * 2


@pytest.fixture
def work():
    return Work()


def batched(work, abandon=False, limit=32):
    return Threads(limit).batched(work.batch, work.one, abandon_on_cancel=abandon)


async def test_a_single_call_is_dispatched_immediately(work):
    assert await batched(work)(4) == 8
    assert work.batches == [[4]]


async def test_without_an_event_loop_nothing_is_batched(work):
    assert await Inline().batched(work.batch, work.one)(4) == 8
    assert (work.batches, work.single) == ([], [4])


@pytest.mark.parametrize("abandon", [True, False])
async def test_calls_that_wait_are_batched(work, abandon):
    call, results = batched(work, abandon), {}

    async def one(item):
        results[item] = await call(item)

    async with anyio.create_task_group() as group:
        for item in range(1, 1001):
            group.start_soon(one, item)
    assert results == {item: item * 2 for item in range(1, 1001)}
    assert sorted(item for batch in work.batches for item in batch) == list(range(1, 1001))
    assert max(map(len, work.batches)) <= (256 if abandon else 1024)
    assert len(work.batches) < 100


async def test_each_call_meets_its_own_error(work):
    call, outcomes = batched(work), {}

    async def one(item):
        try:
            outcomes[item] = await call(item)
        except ZeroDivisionError as error:
            outcomes[item] = error

    async with anyio.create_task_group() as group:
        for item in range(20):
            group.start_soon(one, item)
    assert isinstance(outcomes.pop(0), ZeroDivisionError)
    assert outcomes == {item: item * 2 for item in range(1, 20)}


async def test_an_item_that_would_delay_the_others_gets_a_call_of_its_own(work):
    call = batched(work)
    async with anyio.create_task_group() as group:
        for item in range(-3, 20):
            if item:
                group.start_soon(call, item)
    assert sorted(work.single) == [-3, -2, -1]


async def test_a_batch_that_fails_is_repeated_item_by_item(work):
    def broken(items):
        raise OSError("all of them")

    call, results = Threads().batched(broken, work.one), []

    async def one(item):
        results.append(await call(item))

    async with anyio.create_task_group() as group:
        for item in range(5):
            group.start_soon(one, item)
    assert sorted(results) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("abandon", [True, False])
async def test_a_batch_goes_on_for_the_others_when_one_is_cancelled(work, abandon):
    call, results, scopes = batched(work, abandon), [], {}

    async def one(item):
        with anyio.CancelScope() as scopes[item]:
            results.append(await call(item))

    work.hold.clear()
    async with anyio.create_task_group() as group:
        for item in range(1, 12):
            group.start_soon(one, item)
        await anyio.to_thread.run_sync(work.at_work.wait)
        cancelled = [batch[0] for batch in work.batches]
        for item in cancelled:
            scopes[item].cancel()
        await anyio.sleep(0.02)
        work.hold.set()
    assert sorted(results) == [item * 2 for item in range(1, 12) if item not in cancelled]


@pytest.mark.parametrize("abandon", [True, False])
async def test_a_cancelled_call_whose_batch_has_not_started_leaves_at_once(work, abandon):
    call, results = batched(work, abandon, limit=1), []

    async def one(item):
        results.append(await call(item))

    work.hold.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(one, 1)
        await anyio.to_thread.run_sync(work.at_work.wait)
        for item in range(3, 30):
            with anyio.move_on_after(0) as scope:
                await one(item)
            assert scope.cancelled_caught
        group.start_soon(one, 30)
        await anyio.wait_all_tasks_blocked()
        work.hold.set()
    assert sorted(results) == [2, 60]
    assert {item for batch in work.batches for item in batch} == {1, 30}


async def test_a_batch_that_waits_for_a_thread_survives_the_call_that_asked_for_it(work):
    """The first of its calls is cancelled before a thread is free."""
    offload = Threads(limit=1)
    call = offload.batched(work.batch, work.one)
    blocked, results = threading.Event(), []

    async def one(item):
        results.append(await call(item))

    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, blocked.wait)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(one, 1)
                await anyio.wait_all_tasks_blocked()
                for item in (2, 3):
                    group.start_soon(one, item)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        blocked.set()
    assert sorted(results) == [4, 6]


async def test_calls_that_are_cancelled_at_random_leave_nothing_waiting(work):
    offload = Threads(limit=2)

    def slowly(items):
        time.sleep(0.001)
        return work.batch(items)

    calls = [offload.batched(slowly, work.one, abandon_on_cancel=abandon) for abandon in (True, False)]

    async def one(item):
        with anyio.move_on_after(item % 7 / 2000):
            await calls[item % 2](item)

    async with anyio.create_task_group() as group:
        for item in range(1, 400):
            group.start_soon(one, item)
    await offload.drain(int)
    with anyio.fail_after(10):
        assert [await call(1000) for call in calls] == [2000, 2000]
    assert offload.statistics()[:2] == (0, 0)


def test_native_cancellation_of_asyncio(work):
    async def main():
        call = batched(work)
        work.hold.clear()
        tasks = [asyncio.create_task(call(item)) for item in range(1, 10)]
        await anyio.to_thread.run_sync(work.at_work.wait)
        await asyncio.sleep(0.02)
        [running] = work.batches
        tasks[0].cancel()
        tasks[8].cancel()
        await asyncio.sleep(0.02)
        assert not tasks[0].done(), "a write that has begun is shielded"
        assert tasks[8].done() == (9 not in running)
        work.hold.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(asyncio.CancelledError) == 2
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [4, 6, 8, 10, 12, 14, 16]

    asyncio.run(main())


@pytest.mark.parametrize("make", [MemoryRepository, lambda: None], ids=["memory", "disk"])
async def test_gets_of_all_kinds_at_the_same_moment(make, tmp_path):
    repo = make() or DiskRepository(tmp_path / "repository")
    async with repo:
        await repo.initialise()
        contents = {await repo.put(content): content for content in (content_of(3_000_000), b"", b"loose")}
        small = [b"%d" % number for number in range(300)]
        contents |= dict(zip(await repo.put_many(small), small, strict=True))
        await repo.maintain()
        contents[await repo.put(b"loose again")] = b"loose again"
        wrong = []

        async def get(key):
            if key in contents:
                assert await repo.get(key) == contents[key]
                assert await repo.has(key)
            else:
                with pytest.raises(ObjectNotFoundError) as caught:
                    await repo.get(key)
                assert caught.value.keys == (key,)
                assert not await repo.has(key)
                wrong.append(key)

        async with anyio.create_task_group() as group:
            for key in [*contents, "0" * 64, "no key", *contents]:
                group.start_soon(get, key)
        assert sorted(wrong) == ["0" * 64, "no key"]


@pytest.mark.parametrize("outcomes", [0, 3])
async def test_a_batch_with_a_wrong_number_of_outcomes_is_an_error(outcomes):
    call = Threads().batched(lambda items: [1] * outcomes, lambda item: item)
    with anyio.fail_after(10), pytest.raises(RuntimeError, match=f"{outcomes} outcomes for 1 item"):
        await call(4)


async def test_an_error_of_a_batch_is_not_kept_by_its_own_traceback(work):
    class RefusedError(Exception):
        pass

    def refuse(items):
        outcomes = []
        for item in items:
            try:
                raise RefusedError(item)
            except RefusedError as error:
                outcomes.append(error)
        try:
            return outcomes
        finally:
            del outcomes

    call = Threads().batched(refuse, work.one)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(RefusedError) as caught:
            await call(4)
        kept = weakref.ref(caught.value)
        del caught
        for _ in range(1000):
            if kept() is None:
                break
            await anyio.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_batch_of_its_parent(work):
    async def scenario():
        call = batched(work)
        work.hold.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(call, 1)
            await anyio.to_thread.run_sync(work.at_work.wait)
            if (child := os.fork()) == 0:
                work.hold = threading.Event()
                work.hold.set()
                signal.alarm(5)  # ends the child if it waits
                os._exit(asyncio.run(call(4)) != 8)
            status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
            work.hold.set()
        assert status == (child, 0)

    asyncio.run(scenario())
