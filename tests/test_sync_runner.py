"""Running coroutines without an event loop: in place or in the loop of a portal, with Ctrl-C and with `fork`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from objrepo import DiskRepository, RepositoryClosedError
from objrepo.offload import Inline, WorkCancelled, cancel_requested
from objrepo.sync import SyncRepository
from objrepo.sync.runner import InPlace

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


INTERRUPTED_IN_PLACE = """
import contextlib, faulthandler, gc, os, random, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from objrepo import S3Repository
from objrepo.offload import Inline
from objrepo.sync import SyncRepository, copy, export, open_repository
from s3_server import s3_server

folder, kind, operation = Path(sys.argv[2]), *sys.argv[3:]
working, wanted = True, threading.Event()

def interrupt():
    while wanted.wait() and working:
        wanted.clear()
        time.sleep(random.uniform(0, 0.02))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

@contextlib.contextmanager
def repositories():
    other = open_repository(folder / "other")
    other.initialise()
    if kind == "disk":
        yield open_repository(folder / "repository"), other, None
    else:
        with s3_server() as server:
            server.latency = 0.001
            yield SyncRepository(S3Repository(**server.options, concurrency=4, offload=Inline())), other, server

def stream():
    for _, file in repo.stream(keys):
        file.read(10)

def create():
    with repo.create() as writer:
        writer.write(os.urandom(100))
        writer.write(os.urandom(100_000))

def batch():
    with repo.batch() as batch:
        for _ in range(20):
            batch.put(os.urandom(100))

def copy_new():
    repo.put_many([os.urandom(100), os.urandom(300_000)])
    copy(repo, other, check=True)

OPERATIONS = {
    "put": lambda: [repo.put(os.urandom(100)), repo.put(os.urandom(300_000))],
    "put_many": lambda: repo.put_many([os.urandom(100) for _ in range(50)]),
    "get": lambda: [repo.get(key) for key in keys],
    "verify": lambda: repo.verify(),
    "stream": stream,
    "create": create,
    "batch": batch,
    "copy": copy_new,
    "export": lambda: export(repo, folder / "export" / os.urandom(8).hex()),
}

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if kind == "disk" else 0  # the server has its own

faulthandler.dump_traceback_later(100, exit=True)
(folder / "export").mkdir()
interrupter = threading.Thread(target=interrupt)
interrupter.start()
with repositories() as (repo, other, server), repo:
    repo.initialise()
    keys = repo.put_many([os.urandom(100) for _ in range(100)] + [os.urandom(300_000)])
    use = OPERATIONS[operation]
    use()
    before = descriptors()
    interrupted = 0
    while interrupted < 25:
        try:
            wanted.set()
            give_up = time.monotonic() + 10  # Python drops what is raised in a __del__
            while time.monotonic() < give_up:
                use()
        except KeyboardInterrupt:
            interrupted += 1
        assert repo.has_many(keys) == [True] * len(keys)
        assert [file.read(1) for _, file in repo.stream(keys[-2:])]
    for each in (repo, other):
        report = each.verify()
        assert report.ok and not report.leftovers, report
        assert each.statistics().open_objects == 0
    assert descriptors() <= before + 8, descriptors()  # those of packs
    assert not [path for path in folder.rglob(".objrepo-*")]
    assert server is None or not server.uploads
    assert len([thread for thread in threading.enumerate() if thread.name == "objrepo"]) <= (4 if server else 0)
    repo.put(b"usable")
assert not [thread for thread in threading.enumerate() if thread.name == "objrepo"]
working = False
wanted.set()
print("done")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the platform sends no signal to a thread")
@pytest.mark.parametrize("kind", ["disk", "s3"])
@pytest.mark.parametrize(
    "operation", ["put", "put_many", "get", "verify", "stream", "create", "batch", "copy", "export"]
)
def test_interrupts_in_place_leave_nothing_behind(tmp_path, kind, operation):
    command = [sys.executable, "-c", INTERRUPTED_IN_PLACE, Path(__file__).parent, tmp_path, kind, operation]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout == "done\n", done.stderr


def test_a_source_that_blocks_is_interrupted_at_once(tmp_path):
    script = f"""
import os
from objrepo.sync import open_repository

read_end, write_end = os.pipe()
with open_repository({str(tmp_path / "repository")!r}) as repo, open(read_end, "rb") as pipe:
    repo.initialise()
    print("started", flush=True)
    try:
        repo.put(pipe)
    except KeyboardInterrupt:
        print(list(repo.keys()), repo.verify().leftovers)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "started\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=10)
        finally:
            process.kill()
    assert output == "[] ()\n"


class TestCallsThatChange:
    """On the main thread, they end where nothing is left incomplete."""

    @staticmethod
    async def run(function):
        return await Inline().run(function)

    def call(self, function):
        return InPlace().call(self.run, function)

    def test_the_first_interrupt_is_raised_after_the_call(self):
        seen = []

        def change():
            signal.raise_signal(signal.SIGINT)
            seen.append(cancel_requested())

        with pytest.raises(KeyboardInterrupt):
            self.call(change)
        assert seen == [True]
        assert not cancel_requested()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_call_that_stops_early_raises_keyboard_interrupt(self):
        def change():
            signal.raise_signal(signal.SIGINT)
            raise WorkCancelled

        with pytest.raises(KeyboardInterrupt):
            self.call(change)

    def test_the_second_interrupt_is_raised_at_once(self):
        seen = []

        def change():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            seen.append("reached")

        with pytest.raises(KeyboardInterrupt):
            self.call(change)
        assert seen == []

    def test_a_handler_of_the_program_stays(self, monkeypatch):
        seen = []
        former = signal.signal(signal.SIGINT, lambda *_: seen.append(cancel_requested()))
        try:
            assert self.call(lambda: signal.raise_signal(signal.SIGINT)) is None
        finally:
            signal.signal(signal.SIGINT, former)
        assert seen == [False]

    def test_a_handler_that_the_call_installs_stays(self):
        def handler(*_):
            pass

        try:
            self.call(lambda: signal.signal(signal.SIGINT, handler) and None)
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def test_other_threads_are_not_concerned(self):
        with ThreadPoolExecutor(1) as pool:
            assert (
                pool.submit(self.call, lambda: signal.getsignal(signal.SIGINT)).result() is signal.default_int_handler
            )


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


OPENINGS = {
    "open": lambda repo, key: repo.open(key),
    "stream": lambda repo, key: contextmanager(repo.stream)([key]),
    "create": lambda repo, _: repo.create(),
    "batch": lambda repo, _: repo.batch(),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", OPENINGS)
def test_leaving_a_repository_in_a_portal_ends_what_is_still_open(tmp_path, name):
    with SyncRepository(DiskRepository(tmp_path / "repository")) as repo:
        repo.initialise()
        key = repo.put(bytes(300_000))
        opened = OPENINGS[name](repo, key)
        entered = opened.__enter__()
        if name == "batch":
            entered.put(b"content")
        elif name == "create":
            entered.write(b"content")
    with pytest.raises(RepositoryClosedError, match="was closed: use it, and what it opened, inside `with`"):
        opened.__exit__(None, None, None)
    with repo:
        assert list(repo.keys()) == [key]
        assert repo.statistics().open_objects == 0
    assert list((tmp_path / "repository" / "sandbox").iterdir()) == []
