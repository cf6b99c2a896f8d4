"""Offloads: threads that run blocking functions, limits, cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
import weakref
from functools import partial

import anyio
import pytest

from helpers import Blocked
from objrepo.offload import BlockingPool, Inline, Threads, WorkCancelled, call_soon, cancel_requested


@pytest.fixture
def make():
    """Make an offload with four threads, or as many as are given."""
    return lambda limit=4: Threads(limit)


async def test_threads_run_elsewhere_and_inline_runs_here(make):
    assert await make().run(threading.get_ident) != threading.get_ident()
    assert await Inline().run(threading.get_ident) == threading.get_ident()
    for offload in (make(), Inline()):
        assert await offload.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await offload.run(divmod, 7, 0)
        assert not await offload.run(cancel_requested)


async def test_a_submitted_call_runs_while_its_caller_goes_on(make):
    offload, blocked = make(), Blocked()
    submitted = await offload.submit(blocked)
    await blocked.is_running()
    ended = anyio.Event()
    submitted.on_end(ended.set)
    blocked.let_go.set()
    await ended.wait()
    assert await submitted.result() == "result"
    failing = await offload.submit(divmod, 7, 0)
    with pytest.raises(ZeroDivisionError):
        await failing.result()


async def test_cancelling_a_submitted_call_waits_for_its_end(make):
    blocked = Blocked()
    submitted = await make().submit(blocked)
    await blocked.is_running()
    threading.Timer(0.02, blocked.let_go.set).start()
    await submitted.cancel()
    assert blocked.ended.is_set()


def test_inline_makes_a_submitted_call_when_its_result_is_awaited():
    done = []

    async def main():
        submitted = await Inline().submit(done.append, 1)
        assert not done
        await submitted.result()
        assert done == [1]

    with pytest.raises(StopIteration):
        main().send(None)


def test_inline_needs_no_loop():
    coroutine = Inline().run(divmod, 7, 2)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == (3, 1)
    done = []
    with pytest.raises(StopIteration):
        Inline().drain(lambda: done.append(1)).send(None)
    assert done


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_limits(make, limit, error):
    with pytest.raises(error, match="limit"):
        make(limit)


async def test_no_more_run_at_a_time_than_the_limit(make):
    offload = make(limit=3)
    running = most = 0
    counting = threading.Lock()

    def work():
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with counting:
            running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(offload.run, work)
    assert most == 3


async def test_a_write_is_shielded(make):
    offload, blocked = make(), Blocked()
    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, blocked)
        await blocked.is_running()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.02)
            blocked.let_go.set()
    assert blocked.ended.is_set()


async def test_an_abandoned_read_discards_its_result_once(make):
    offload, blocked = make(limit=1), Blocked()
    discarded = []

    async def read():
        await offload.run(blocked, abandon_on_cancel=True, discard=discarded.append)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await blocked.is_running()
        group.cancel_scope.cancel()
    assert not blocked.ended.is_set(), "the caller is gone, the worker is not"
    with anyio.move_on_after(0.05) as scope:
        await offload.run(int)
    assert scope.cancelled_caught, "an abandoned call counts until it has ended"
    blocked.let_go.set()
    assert await offload.run(int) == 0
    assert discarded == ["result"]


async def test_drain_waits_for_abandoned_calls(make):
    offload, blocked = make(), Blocked()
    order = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: offload.run(blocked, abandon_on_cancel=True))
        await blocked.is_running()
        group.cancel_scope.cancel()

    async def let_go():
        await anyio.sleep(0.05)
        order.append("let go")
        blocked.let_go.set()

    async with anyio.create_task_group() as group:
        group.start_soon(let_go)
        await offload.drain(lambda: order.append("finished"))
    assert order == ["let go", "finished"]


async def test_drain_is_not_cancelled_before_it_is_done(make):
    done = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await make().drain(lambda: done.append(1))
        await anyio.sleep(1)
        pytest.fail("the cancellation was lost")
    assert done


async def test_what_has_not_started_does_not_start(make):
    offload, blocked = make(limit=1), Blocked()
    started = []
    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, blocked)
        await blocked.is_running()
        with anyio.move_on_after(0.02):
            await offload.run(started.append, 1)
        blocked.let_go.set()
    assert await offload.run(int) == 0
    assert started == []


async def test_a_function_may_ask_whether_its_caller_is_gone(make):
    offload = make()
    running = threading.Event()
    unwound = []

    def work():
        running.set()
        while not cancel_requested():
            time.sleep(0.001)
        unwound.append(1)
        raise WorkCancelled

    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, work)
        await anyio.to_thread.run_sync(running.wait)
        group.cancel_scope.cancel()
    assert unwound


def test_native_cancellation_of_asyncio_is_waited_for_too(make):
    blocked = Blocked()

    async def main():
        offload = make()
        task = asyncio.create_task(offload.run(blocked))
        await blocked.is_running()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        blocked.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert blocked.ended.is_set()

        task = asyncio.create_task(offload.drain(lambda: time.sleep(0.05)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_object_serves_one_loop_after_the_other(make, backend):
    offload = make(limit=1)
    for _ in range(3):
        assert anyio.run(offload.run, int, backend=backend) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_that_outlives_its_loop_ends(make, backend):
    offload, blocked = make(), Blocked()

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: offload.run(blocked, abandon_on_cancel=True))
            await blocked.is_running()
            group.cancel_scope.cancel()
        return anyio.lowlevel.current_token()

    token = anyio.run(main, backend=backend)
    blocked.let_go.set()
    assert blocked.ended.wait(10)
    called = []
    call_soon(token, lambda: called.append(1))
    assert anyio.run(offload.run, int, backend=backend) == 0
    assert called == []


class TestBlockingPool:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
    def test_results_come_in_the_order_of_the_items(self, limit, count):
        pool = BlockingPool(limit)
        free = threading.Semaphore(limit)

        def work(item):
            assert free.acquire(blocking=False), "more at the same time than there may be"
            time.sleep(0.001)
            free.release()
            return item * 2

        assert list(pool.map(work, range(count))) == [item * 2 for item in range(count)]
        pool.close()
        assert list(pool.map(work, range(count))) == [item * 2 for item in range(count)], "and again"
        pool.close()

    def test_an_error_waits_for_what_has_begun(self):
        pool = BlockingPool(4)
        ended = []

        def work(item):
            if item == 1:
                raise KeyError(item)
            time.sleep(0.02)
            ended.append(item)

        with pytest.raises(KeyError):
            list(pool.map(work, range(100)))
        before = list(ended)
        time.sleep(0.05)
        assert ended == before
        assert len(ended) < 100
        pool.close()

    def test_calls_in_the_pool_may_wait_for_others_in_it(self):
        pool = BlockingPool(2)

        def outer(number):
            return sum(pool.map(int, [number] * 5)) + pool.submit(int, number).result()

        assert list(pool.map(outer, range(20))) == [6 * number for number in range(20)]
        pool.close()

    def test_threads_of_the_pool_see_that_the_caller_is_cancelled(self):
        async def main():
            offload, pool = Threads(1), BlockingPool(2)
            running = threading.Barrier(3)
            seen = []

            def wait_for_cancellation(number):
                running.wait(30)
                while not cancel_requested():
                    time.sleep(0.001)
                seen.append(number)

            async with anyio.create_task_group() as group:
                group.start_soon(offload.run, lambda: list(pool.map(wait_for_cancellation, range(2))))
                await anyio.to_thread.run_sync(running.wait)
                group.cancel_scope.cancel()
            assert sorted(seen) == [0, 1]
            pool.close()

        anyio.run(main)

    def test_a_thread_that_cannot_be_started(self, monkeypatch):
        def refuse(thread):
            raise RuntimeError("can't start new thread")

        pool = BlockingPool(4)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(int)
            assert (pool.busy, pool.waiting) == (0, 0)
        assert pool.submit(int).result() == 0
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            assert [item.result() for item in [pool.submit(int, "7") for _ in range(10)]] == [7] * 10
        pool.close()


class TestBatches:
    async def test_calls_that_wait_make_up_the_next_batch(self, make):
        offload = make()
        gate = threading.Event()
        batches = []

        def work(items):
            batches.append(list(items))
            assert gate.wait(30)
            return [item * 2 for item in items]

        call = offload.batched(work, lambda item: item)
        results = {}

        async def one(item):
            results[item] = await call(item)

        async with anyio.create_task_group() as group:
            group.start_soon(one, 0)
            while not batches:
                await anyio.sleep(0.001)
            for item in range(1, 1100):
                group.start_soon(one, item)
            await anyio.wait_all_tasks_blocked()
            assert offload.statistics().calls_waiting == 1099
            gate.set()
        assert [len(batch) for batch in batches] == [1, 1024, 75]
        assert results == {item: item * 2 for item in range(1100)}
        statistics = offload.statistics()
        assert (statistics.batches, statistics.batched_calls, statistics.calls_waiting) == (3, 1100, 0)

    @pytest.mark.parametrize("abandon", [True, False])
    async def test_a_cancelled_call_whose_batch_runs(self, make, abandon):
        offload, blocked = make(), Blocked()
        call = offload.batched(lambda items: [blocked()], lambda item: item, abandon_on_cancel=abandon)
        async with anyio.create_task_group() as group:
            group.start_soon(call, 1)
            await blocked.is_running()
            if not abandon:
                threading.Timer(0.02, blocked.let_go.set).start()
            group.cancel_scope.cancel()
        assert blocked.ended.is_set() != abandon
        blocked.let_go.set()
        await offload.drain()
        assert blocked.ended.is_set()


class TestThreads:
    async def test_threads_end_with_drain_and_start_again(self):
        offload = Threads(3)
        before = set(threading.enumerate())
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(offload.run, time.sleep, 0.001)
            own = {thread for thread in threading.enumerate() if thread.name == "objrepo"} - before
            assert 0 < len(own) <= 3
            await offload.drain(int)
            for thread in own:
                thread.join(10)
                assert not thread.is_alive()

    async def test_drain_waits_for_no_call_of_others(self):
        """Several repositories may share one offload."""
        offload, blocked = Threads(2), Blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(offload.run, blocked)
            await blocked.is_running()
            with anyio.fail_after(10):
                await offload.drain(int)
            assert not blocked.ended.is_set()
            blocked.let_go.set()

    async def test_a_result_is_taken_or_discarded_once(self):
        """The caller is cancelled at the moment at which the result comes."""
        for number in range(100):
            offload = Threads(1)
            discarded, taken = [], []

            def work(number=number):
                time.sleep(number % 7 / 10_000)
                return number

            async def read(offload=offload, work=work, taken=taken, discarded=discarded):
                taken.append(await offload.run(work, abandon_on_cancel=True, discard=discarded.append))

            with anyio.move_on_after(0.0003):
                await read()
            await offload.drain(int)
            assert len(taken) + len(discarded) <= 1
            assert taken + discarded in ([], [number])

    async def test_a_result_that_cannot_be_discarded_ends_no_thread(self, caplog):
        offload, blocked = Threads(1), Blocked()

        def refuse(result):
            raise OSError(5, "Input/output error")

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: offload.run(blocked, abandon_on_cancel=True, discard=refuse))
            await blocked.is_running()
            group.cancel_scope.cancel()
        blocked.let_go.set()
        assert await offload.run(int) == 0
        assert "could not be discarded" in caplog.text

    async def test_functions_see_the_context_of_their_caller(self):
        name = contextvars.ContextVar("name")
        name.set("mine")
        assert await Threads(1).run(name.get) == "mine"

    @pytest.mark.usefixtures("frozen_heap")
    async def test_an_error_is_not_kept_by_its_own_traceback(self):
        class NotedError(Exception):
            pass

        def work():
            raise NotedError

        offload = Threads(1)
        gc.collect()
        gc.disable()
        try:
            seen = None
            try:
                await offload.run(work)
            except NotedError as error:
                seen = weakref.ref(error)
            await offload.run(int)
            assert seen is not None
            assert seen() is None
        finally:
            gc.enable()


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_loops_that_have_ended_are_not_kept_alive(make, backend):
    offload = make()

    async def use():
        await offload.run(int)
        return weakref.ref(anyio.lowlevel.current_token().native_token)

    loop = anyio.run(use, backend=backend)
    for _ in range(100):  # the worker thread may not have returned yet from waking the loop
        gc.collect()
        if loop() is None:
            break
        time.sleep(0.05)
    assert loop() is None


async def test_a_blocking_function_may_run_an_event_loop_of_its_own(make):
    async def answer():
        return 42

    assert await make().run(anyio.run, answer) == 42
    assert await (await make().submit(anyio.run, answer)).result() == 42


async def test_threads_end_when_the_last_function_of_drain_fails(make):
    offload = make()
    with pytest.raises(ZeroDivisionError):
        await offload.drain(lambda: 1 / 0)
    assert not offload._pool._threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_drain_in_a_forked_child_does_not_wait_for_calls_of_its_parent(make):
    async def scenario():
        offload, blocked = make(), Blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(offload.run, blocked, abandon_on_cancel=True))
            await blocked.is_running()
            group.cancel_scope.cancel()
        if (child := os.fork()) == 0:
            signal.alarm(5)  # ends the child if it waits
            asyncio.run(offload.drain(int))
            os._exit(0)
        status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        blocked.let_go.set()
        await offload.drain()
        assert status == (child, 0)

    asyncio.run(scenario())
