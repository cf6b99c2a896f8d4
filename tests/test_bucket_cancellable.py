"""The functions of obstore that can be cancelled: what they read, leave and keep."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextlib import contextmanager, suppress

import obstore
import pytest

from objrepo.bucket.cancellable import CancellableObstore, _Loop
from objrepo.bucket.s3 import S3Options
from objrepo.offload import WorkCancelled, set_cancellable
from s3_server import s3_server

MIB = 1024 * 1024
PART = 5 * MIB
REQUESTS = CancellableObstore(obstore)


class Caller:
    def __init__(self, *, cancelled=False):
        self.cancel_requested = cancelled


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
def store(server):
    return S3Options(**server.options).connect()


@contextmanager
def no_garbage_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_the_chunks_of_an_upload_are_read_in_the_thread_of_the_caller(server, store):
    threads = []

    def chunks():
        for number in range(11):
            threads.append(threading.get_ident())
            yield bytes([number]) * MIB

    REQUESTS.upload(store, "chunks", chunks(), PART)
    assert set(threads) == {threading.get_ident()}
    assert obstore.get(store, "chunks").bytes().to_bytes() == b"".join(bytes([number]) * MIB for number in range(11))


def test_no_chunk_is_read_after_an_upload_was_cancelled(store):
    caller = Caller()
    read = []

    def chunks():
        for number in range(40):
            read.append(number)
            caller.cancel_requested = number == 1
            yield bytes(MIB)

    with set_cancellable(caller), pytest.raises(WorkCancelled):
        REQUESTS.upload(store, "cancelled", chunks(), PART)
    assert read == [0, 1]


@pytest.mark.parametrize("error", [OSError("the source is damaged"), KeyboardInterrupt()])
def test_the_error_of_a_chunk_ends_the_upload(store, error):
    def chunks():
        yield bytes(MIB)
        raise error

    with pytest.raises(type(error)):
        REQUESTS.upload(store, "damaged", chunks(), PART)
    with pytest.raises(FileNotFoundError):
        REQUESTS.head(store, "damaged")


def test_an_error_does_not_keep_the_content_until_the_next_garbage_collection(store):
    content = bytes(MIB)
    REQUESTS.put(store, "exists", content)
    references = sys.getrefcount(content)
    with no_garbage_collection():
        with suppress(obstore.exceptions.AlreadyExistsError):
            REQUESTS.put(store, "exists", content, mode="create")
        for _ in range(100):
            REQUESTS.head(store, "exists")  # obstore drops what its threads have used at a later call
            if sys.getrefcount(content) == references:
                break
        assert sys.getrefcount(content) == references


def test_a_result_that_comes_after_cancellation_is_dropped_at_once():
    class Result:
        pass

    loop = _Loop()
    futures = []

    def start():
        futures.append(asyncio.get_running_loop().create_future())
        return futures[0]

    with set_cancellable(Caller(cancelled=True)), pytest.raises(WorkCancelled):
        loop.wait(start)
    with no_garbage_collection():
        result = Result()
        dropped = weakref.ref(result)
        loop.call_soon_threadsafe(futures.pop().set_result, result)
        del result, loop
        assert dropped() is None


async def test_the_running_loop_is_the_former_one_also_after_an_error():
    former = asyncio.get_running_loop()

    def fail():
        assert asyncio.get_running_loop() is not former
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011  (it has no message)
        _Loop().wait(fail)
    assert asyncio.get_running_loop() is former
