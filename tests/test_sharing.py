"""Shared hops: calls that wait at the same moment travel together, and each meets its own result or error."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

from objrepo import DiskRepository, MemoryRepository, ObjectNotFoundError
from objrepo.offload import UNBATCHED, Inline, Threads
from objrepo.testing.fixtures import content_of


class Ferry:
    """A shared function that notes who travelled together, and can be held up."""

    def __init__(self):
        self.trips = []
        self.hold = threading.Event()
        self.hold.set()
        self.at_work = threading.Event()

    def together(self, items):
        self.trips.append(list(items))
        self.at_work.set()
        assert self.hold.wait(30)
        return [ZeroDivisionError(item) if item == 0 else UNBATCHED if item < 0 else item * 2 for item in items]

    def alone(self, item):
        self.trips.append(item)
        return item * 2


@pytest.fixture
def ferry():
    return Ferry()


async def test_a_lone_call_does_not_wait_for_company(ferry):
    assert await Threads().share(ferry.together, 4, ferry.alone) == 8
    assert ferry.trips == [[4]]


async def test_without_a_loop_everybody_is_alone(ferry):
    assert await Inline().share(ferry.together, 4, ferry.alone) == 8
    assert ferry.trips == [4]


@pytest.mark.parametrize("wait", [True, False])
async def test_who_waits_travels_together(ferry, wait):
    offload = Threads()
    results = {}

    async def call(item):
        results[item] = await offload.share(ferry.together, item, ferry.alone, wait=wait)

    async with anyio.create_task_group() as group:
        for item in range(1, 1001):
            group.start_soon(call, item)
    assert results == {item: item * 2 for item in range(1, 1001)}
    assert sorted(item for trip in ferry.trips for item in trip) == list(range(1, 1001))
    assert len(ferry.trips) <= 7
    assert max(map(len, ferry.trips)) == 256


async def test_the_error_of_one_is_its_own(ferry):
    offload = Threads()
    outcomes = {}

    async def call(item):
        try:
            outcomes[item] = await offload.share(ferry.together, item, ferry.alone)
        except ZeroDivisionError as error:
            outcomes[item] = error

    async with anyio.create_task_group() as group:
        for item in range(20):
            group.start_soon(call, item)
    assert isinstance(outcomes.pop(0), ZeroDivisionError)
    assert outcomes == {item: item * 2 for item in range(1, 20)}


async def test_what_would_hold_up_the_others_is_done_alone(ferry):
    offload = Threads()
    async with anyio.create_task_group() as group:
        for item in range(-3, 20):
            if item:
                group.start_soon(offload.share, ferry.together, item, ferry.alone)
    assert sorted(trip for trip in ferry.trips if isinstance(trip, int)) == [-3, -2, -1]


async def test_when_all_fail_together_each_is_done_alone(ferry):
    def broken(items):
        raise OSError("all of them")

    results = []

    async def call(item):
        results.append(await Threads().share(broken, item, ferry.alone))

    async with anyio.create_task_group() as group:
        for item in range(5):
            group.start_soon(call, item)
    assert sorted(results) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("wait", [True, False])
async def test_a_carrier_that_is_cancelled_leaves_nobody_behind(ferry, wait):
    """Cancelled while its hop is at work; the others still get what is theirs."""
    offload = Threads()
    results = []
    scopes = {}

    async def call(item):
        with anyio.CancelScope() as scopes[item]:
            results.append(await offload.share(ferry.together, item, ferry.alone, wait=wait))

    ferry.hold.clear()
    async with anyio.create_task_group() as group:
        for item in range(1, 12):
            group.start_soon(call, item)
        await anyio.to_thread.run_sync(ferry.at_work.wait)
        gone = [trip[0] for trip in ferry.trips]
        for carrier in gone:
            scopes[carrier].cancel()
        await anyio.sleep(0.02)
        ferry.hold.set()
    assert sorted(results) == [item * 2 for item in range(1, 12) if item not in gone]


@pytest.mark.parametrize("wait", [True, False])
async def test_who_has_not_departed_leaves_at_once(ferry, wait):
    offload = Threads()
    results = []

    async def call(item):
        results.append(await offload.share(ferry.together, item, ferry.alone, wait=wait))

    ferry.hold.clear()
    async with anyio.create_task_group() as group:
        for item in (1, 2):
            group.start_soon(call, item)
        await anyio.to_thread.run_sync(ferry.at_work.wait)
        await anyio.sleep(0.02)
        for item in range(3, 30):
            with anyio.move_on_after(0) as scope:
                await call(item)
            assert scope.cancelled_caught
        group.start_soon(call, 30)
        await anyio.sleep(0.02)
        ferry.hold.set()
    assert sorted(results) == [2, 4, 60]
    assert {item for trip in ferry.trips for item in trip} == {1, 2, 30}


async def test_a_hop_that_waits_for_the_limit_is_taken_over(ferry):
    """The one who was to make the hop is cancelled before it could start: another makes it."""
    offload = Threads(limit=1)
    blocked = threading.Event()
    results = []

    async def call(item):
        results.append(await offload.share(ferry.together, item, ferry.alone))

    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, blocked.wait)
        await anyio.sleep(0.02)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(call, 1)
                await anyio.sleep(0.02)
                for item in (2, 3):
                    group.start_soon(call, item)
                await anyio.sleep(0.02)
                scope.cancel()
        blocked.set()
    assert sorted(results) == [4, 6]


@pytest.mark.parametrize("wait", [True, False])
async def test_no_hop_is_handed_to_those_who_are_gone(ferry, wait):
    offload = Threads(limit=1)
    hold, scopes, results = threading.Event(), {}, {}

    async def call(item):
        with anyio.CancelScope() as scopes[item]:
            results[item] = await offload.share(ferry.together, item, ferry.alone, wait=wait)

    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, hold.wait, 30)
        await anyio.wait_all_tasks_blocked()
        for item in range(1, 7):
            group.start_soon(call, item)
            await anyio.wait_all_tasks_blocked()
        for item in (1, 4, 5, 3, 6):  # the carriers among them have boarded those who are gone before
            scopes[item].cancel()
            await anyio.wait_all_tasks_blocked()
        hold.set()
    with anyio.fail_after(10):
        assert await offload.share(ferry.together, 7, ferry.alone, wait=wait) == 14
    assert results == {2: 4}
    assert not offload._lane().crowds


async def test_everybody_is_cancelled_at_random(ferry):
    offload = Threads(limit=2)
    served = []

    async def call(item):
        with anyio.move_on_after(item % 7 / 2000):
            served.append(await offload.share(ferry.together, item, ferry.alone, wait=item % 2 == 0))

    real = ferry.together
    ferry.together = lambda items: (time.sleep(0.001), real(items))[1]
    async with anyio.create_task_group() as group:
        for item in range(1, 400):
            group.start_soon(call, item)
    await offload.finish(lambda: None)
    assert await offload.share(real, 1000, ferry.alone) == 2000
    assert not any(crowd for crowd in offload._lane().crowds.values() if not crowd.idle)


def test_native_cancellation_of_asyncio(ferry):
    async def main():
        offload = Threads()
        ferry.hold.clear()
        tasks = [asyncio.create_task(offload.share(ferry.together, item, ferry.alone)) for item in range(1, 10)]
        await anyio.to_thread.run_sync(ferry.at_work.wait)
        tasks[0].cancel()
        tasks[5].cancel()
        await asyncio.sleep(0.02)
        assert not tasks[0].done(), "a write that is under way is waited for"
        assert tasks[5].done()
        ferry.hold.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(asyncio.CancelledError) == 2
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [4, 6, 8, 10, 14, 16, 18]

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
