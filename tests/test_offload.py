"""Running: where blocking functions run, how many at a time, and what a cancellation leaves."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref

import anyio
import pytest

from objrepo.offload import BlockingPool, Inline, OwnThreads, Threads, WorkCancelled, call_soon, cancel_requested


@pytest.fixture(params=[Threads, OwnThreads])
def make(request):
    """Make what runs functions on worker threads; all promises are those of both kinds."""
    return lambda limit=4: request.param(limit)


class Blocked:
    """A blocking function that tells when it runs, and ends when it is let go."""

    def __init__(self):
        self.running = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()

    def __call__(self):
        self.running.set()
        assert self.let_go.wait(30)
        self.ended.set()
        return "result"

    async def is_running(self):
        await anyio.to_thread.run_sync(self.running.wait)


async def test_threads_run_elsewhere_and_inline_runs_here(make):
    assert await make().run(threading.get_ident) != threading.get_ident()
    assert await Inline().run(threading.get_ident) == threading.get_ident()
    for offload in (make(), Inline()):
        assert await offload.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await offload.run(divmod, 7, 0)
        assert not await offload.run(cancel_requested)


async def test_ahead_is_at_work_while_its_caller_goes_on(make):
    blocked = Blocked()
    async with make().ahead() as ahead:
        assert await ahead.result() is None
        ahead.start(blocked)
        await blocked.is_running()
        with anyio.move_on_after(0.01):
            await ahead.result()
        blocked.let_go.set()
        assert await ahead.result() == "result"
        ahead.start(divmod, 7, 0)
        with pytest.raises(ZeroDivisionError):
            await ahead.result()
        ahead.start(divmod, 7, 2)
        assert await ahead.result() == (3, 1)


async def test_leaving_ahead_waits_for_what_is_under_way(make):
    blocked = Blocked()
    with pytest.raises(KeyError, match="mine"):
        async with make().ahead() as ahead:
            ahead.start(blocked)
            await blocked.is_running()
            threading.Timer(0.02, blocked.let_go.set).start()
            raise KeyError("mine")
    assert blocked.ended.is_set()


def test_ahead_of_a_caller_without_a_loop():
    done = []

    async def main():
        async with Inline().ahead() as ahead:
            assert await ahead.result() is None
            ahead.start(done.append, 1)
            assert not done
            await ahead.result()
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
        Inline().finish(lambda: done.append(1)).send(None)
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


async def test_a_write_is_waited_for(make):
    offload, blocked = make(), Blocked()
    async with anyio.create_task_group() as group:
        group.start_soon(offload.run, blocked)
        await blocked.is_running()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.02)
            blocked.let_go.set()
    assert blocked.ended.is_set()


async def test_a_read_is_left_and_its_result_discarded(make):
    offload, blocked = make(limit=1), Blocked()
    discarded = []

    async def read():
        await offload.run(blocked, wait=False, discard=discarded.append)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await blocked.is_running()
        group.cancel_scope.cancel()
    assert not blocked.ended.is_set(), "the caller is gone, the worker is not"
    with anyio.move_on_after(0.05) as scope:
        await offload.run(int)
    assert scope.cancelled_caught, "a call that was left counts until it has ended"
    blocked.let_go.set()
    assert await offload.run(int) == 0
    assert discarded == ["result"]


async def test_finish_waits_for_those_that_were_left(make):
    offload, blocked = make(), Blocked()
    order = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: offload.run(blocked, wait=False))
        await blocked.is_running()
        group.cancel_scope.cancel()

    async def let_go():
        await anyio.sleep(0.05)
        order.append("let go")
        blocked.let_go.set()

    async with anyio.create_task_group() as group:
        group.start_soon(let_go)
        await offload.finish(lambda: order.append("finished"))
    assert order == ["let go", "finished"]


async def test_finish_is_not_cancelled_before_it_is_done(make):
    done = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await make().finish(lambda: done.append(1))
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

        task = asyncio.create_task(offload.finish(lambda: time.sleep(0.05)))
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
            group.start_soon(lambda: offload.run(blocked, wait=False))
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


class TestSeveral:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
    def test_results_come_in_the_order_of_the_items(self, limit, count):
        several = BlockingPool(limit)
        free = threading.Semaphore(limit)

        def work(item):
            assert free.acquire(blocking=False), "more at the same time than there may be"
            time.sleep(0.001)
            free.release()
            return item * 2

        assert list(several.each(work, range(count))) == [item * 2 for item in range(count)]
        several.close()
        assert list(several.each(work, range(count))) == [item * 2 for item in range(count)], "and again"
        several.close()

    def test_an_error_waits_for_what_has_begun(self):
        several = BlockingPool(4)
        ended = []

        def work(item):
            if item == 1:
                raise KeyError(item)
            time.sleep(0.02)
            ended.append(item)

        with pytest.raises(KeyError):
            list(several.each(work, range(100)))
        before = list(ended)
        time.sleep(0.05)
        assert ended == before
        assert len(ended) < 100
        several.close()


class TestOwnThreads:
    async def test_its_threads_end_with_it_and_start_again(self):
        offload = OwnThreads(3)
        before = set(threading.enumerate())
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(offload.run, time.sleep, 0.001)
            own = {thread for thread in threading.enumerate() if thread.name.startswith("objrepo")} - before
            assert 0 < len(own) <= 3
            await offload.finish(int)
            assert not any(thread.is_alive() for thread in own)

    async def test_functions_see_the_context_of_their_caller(self):
        name = contextvars.ContextVar("name")
        name.set("mine")
        assert await OwnThreads(1).run(name.get) == "mine"

    async def test_an_error_is_not_kept_by_its_own_traceback(self):
        class NotedError(Exception):
            pass

        def work():
            raise NotedError

        offload = OwnThreads(1)
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
