"""Running coroutines without an event loop: in place or in the loop of a portal, with Ctrl-C and with `fork`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

INTERRUPTED = """
import contextlib, pathlib, sys, time
import anyio
import objrepo
from objrepo.sync import SyncRepository

class Slow:
    mode = "rb"
    left = 600

    def read(self, size=-1):
        if self.left == 595:
            print("started", flush=True)
        self.left -= 1
        time.sleep(0.1)
        return bytes(1000) if self.left else b""

class SlowToOpen(objrepo.DiskRepository):
    closed = False

    @contextlib.asynccontextmanager
    async def open(self, *args):
        print("started", flush=True)
        try:
            await anyio.sleep(60)
            yield
        finally:
            self.closed = True

folder = pathlib.Path(sys.argv[1])
repository = SlowToOpen(folder)
with SyncRepository(repository) as backend:
    backend.initialise()
    try:
        if sys.argv[2] == "put":
            backend.put_object_from_filelike(Slow())
        else:
            with backend.open("0" * 64):
                pass
    except KeyboardInterrupt:
        print([*backend.list_objects(), *(folder / "sandbox").iterdir()], repository.closed)
    key = backend.put_object_from_file(objrepo.__file__)
    assert backend.has_object(key)
print("left", flush=True)
"""


@pytest.mark.parametrize("call", ["put", "open"])
def test_a_keyboard_interrupt_cancels_the_call(tmp_path, call):
    command = [sys.executable, "-c", INTERRUPTED, tmp_path / "repository", call]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    assert output == f"[] {call == 'open'}\nleft\n"
    assert process.returncode == 0


OFTEN_INTERRUPTED = """
import faulthandler, io, random, signal, threading, time
import objrepo
from objrepo.sync import SyncRepository

def interrupt():
    while wanted.wait() and working:
        wanted.clear()
        time.sleep(random.uniform(0, 0.002))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

faulthandler.dump_traceback_later(60, exit=True)
working, wanted = True, threading.Event()
interrupter = threading.Thread(target=interrupt)
interrupter.start()
repository = objrepo.MemoryRepository()
with SyncRepository(repository) as backend:
    backend.initialise()
    key = backend.put_object_from_filelike(io.BytesIO(bytes(1_000_000)))
    for _ in range(200):
        try:
            wanted.set()
            while True:
                assert backend.has_object(key)
                with backend.open(key) as handle:
                    assert len(handle.read(200_000)) == 200_000
                for _, stream in backend.iter_object_streams([key]):
                    stream.read(1)
        except KeyboardInterrupt:
            pass
    assert backend.get_object_content(key) == bytes(1_000_000)
    del handle, stream
    print(repository.statistics().open_objects)
working = False
wanted.set()
"""


def test_interrupts_at_any_moment_come_out_and_leave_no_object_open():
    command = [sys.executable, "-c", OFTEN_INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


FORKED = """
import os, sys
import objrepo
from objrepo.sync import SyncRepository

def in_the_child(backend, key, handle):
    for use in (lambda: backend.has_object(key), lambda: backend.open(key).__enter__(), lambda: handle.read(100_000)):
        try:
            use()
        except objrepo.RepositoryError as error:
            print(error, flush=True)
    if sys.argv[2] == "sys.exit":
        sys.exit(0)

with SyncRepository(objrepo.DiskRepository(sys.argv[1])) as backend:
    backend.initialise()
    with open(sys.argv[3], "rb") as source:
        key = backend.put_object_from_filelike(source)
    with backend.open(key) as handle:
        if (child := os.fork()) == 0:
            in_the_child(backend, key, handle)
        else:
            status = os.waitpid(child, 0)[1]
            print("status", status, len(handle.read()), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize("end", ["sys.exit", "leave"])
def test_a_forked_child_gets_an_error_and_ends(tmp_path, end):
    (tmp_path / "source").write_bytes(bytes(1_000_000))
    command = [sys.executable, "-c", FORKED, tmp_path / "repository", end, tmp_path / "source"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    *errors, parent = output.splitlines()
    assert parent == "status 0 1000000"
    assert len(errors) == 3
    assert all("was open when this process was forked" in error for error in errors)
