"""Ctrl-C at every line of the code that a sync call runs in place, and at random moments of calls."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

import objrepo
from objrepo.offload.interrupts import call_shielded, interruptible
from objrepo.sync import copy, export, open_repository

SOURCE = str(Path(objrepo.__file__).parent)
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="it counts descriptors"),
    # A file that an interrupted read had just opened is closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Interrupter:
    """Sends SIGINT to itself before one of the lines of objrepo that a function runs.

    :ivar lines: how many lines it has run.
    """

    def __init__(self, line):
        self.line = line
        self.lines = 0

    def run(self, function):
        former = sys.gettrace()
        sys.settrace(self.trace)
        try:
            function()
        finally:
            sys.settrace(former)

    def trace(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.line:
                sys.settrace(None)
                frame.f_trace = None
                signal.raise_signal(signal.SIGINT)
        return self.trace


def put(repo, other, folder):
    repo.put(os.urandom(100))


def put_large(repo, other, folder):
    repo.put(os.urandom(300_000))


def put_path(repo, other, folder):
    (folder / "source").write_bytes(os.urandom(100))
    repo.put(folder / "source")


def put_many(repo, other, folder):
    repo.put_many([os.urandom(100), os.urandom(100_000), os.urandom(200)])


def create(repo, other, folder):
    with repo.create() as writer:
        writer.write(os.urandom(100_000))


def batch(repo, other, folder):
    with repo.batch() as batch:
        batch.put(os.urandom(100))
        batch.put_many([os.urandom(100)])


def delete(repo, other, folder):
    (folder / "source").write_bytes(os.urandom(100_000))
    repo.delete(repo.put(folder / "source"))


def read(repo, other, folder):
    keys = list(repo.keys())[-3:]
    repo.has_many(keys)
    for key in keys:
        repo.get(key)
    for key, file in repo.stream(keys):
        file.read(10)
        with repo.open(key, 1) as file:
            file.read(1)


def copy_one(repo, other, folder):
    key = repo.put(os.urandom(100))
    copy(repo, other, [key], check=True)


def export_one(repo, other, folder):
    export(repo, folder / "export" / os.urandom(8).hex(), list(repo.keys())[:2])


def maintain(repo, other, folder):
    repo.put(os.urandom(100_000))
    repo.maintain()


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
@pytest.mark.parametrize(
    "operation",
    [put, put_large, put_path, put_many, create, batch, delete, read, copy_one, export_one, maintain],
    ids=lambda operation: operation.__name__,
)
def test_an_interrupt_at_any_line_leaves_nothing_behind(tmp_path, operation):
    (tmp_path / "export").mkdir()
    with open_repository(tmp_path / "repository") as repo, open_repository(tmp_path / "other") as other:
        repo.initialise()
        other.initialise()
        kept = repo.put_many([b"kept", os.urandom(300_000)])
        whole = Interrupter(None)
        whole.run(lambda: operation(repo, other, tmp_path))
        step = max(whole.lines // 12, 1)
        before = None
        for line in count(1, step):
            interrupter = Interrupter(line)
            try:
                interrupter.run(lambda: operation(repo, other, tmp_path))
            except KeyboardInterrupt:
                pass
            else:
                if interrupter.lines < line:
                    break  # Python drops an interrupt in a `__del__`, so others may end here too
            gc.collect()
            for each in (repo, other):
                report = each.verify(quick=True)
                assert (report.damaged, report.leftovers) == ((), ()), line
                assert each.statistics().open_objects == 0
            assert repo.get(kept[0]) == b"kept"
            assert not list(tmp_path.rglob(".objrepo-*"))
            descriptors = len(os.listdir("/proc/self/fd"))
            before = descriptors if before is None else before
            assert descriptors <= before + 4, f"descriptors are left open at line {line}"
        assert line > 7 * step
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        packs = [path.name for path in (tmp_path / "repository" / "packs").iterdir() if len(path.name) == 7]
        assert packs in ([], ["1000000"]), "a lock of a pack is held"


def test_ctrl_c_just_before_a_source_is_read_interrupts_the_call():
    """Else the read could wait for ever, and only a second Ctrl-C would end it."""
    reads = []

    def put():
        signal.raise_signal(signal.SIGINT)
        interruptible(reads.append, 1)

    with pytest.raises(KeyboardInterrupt):
        call_shielded(put)
    assert reads == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_named_pipe_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open_repository(tmp_path / "repository") as repo:
        repo.initialise()
        timer = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            repo.put(tmp_path / "pipe")
        timer.join()
        assert repo.get(repo.put(b"afterwards")) == b"afterwards"
