"""The checks of a repository after its processes were killed at any moment."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from disk_objectstore import Container

from objrepo import DiskRepository
from objrepo.disk import session
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace


class Log:
    """The log of a process that may be killed: a line before and after each operation."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, *keys: str) -> None:
        """Append lines, which remain if the process is killed right after."""
        os.write(self._descriptor, b"".join(f"{word} {key}\n".encode() for key in keys))


class Expected:
    """The objects that must, and that must not, exist according to the logs."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.gone: set[str] = set()

    def read(self, path: Path) -> None:
        """Read a log, in which each key is put once and deleted at most once."""
        lines = path.read_text().splitlines() if path.exists() else []
        words: dict[str, set[str]] = {}
        for line in lines:
            word, key = line.split()
            words.setdefault(key, set()).add(word)
        for key, said in words.items():
            if "deleted" in said:
                self.present.discard(key)
                self.gone.add(key)
            elif "deleting" in said:
                self.present.discard(key)  # it may exist or not
            elif "put" in said:
                self.present.add(key)


def start(function: Callable[[], None]) -> int:
    """Call a function in a child process; return its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001  (the traceback is printed)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def end_of(child: int) -> int:
    """Wait for a child process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(function: Callable[[], None]) -> int:
    """Call a function in a child process; return its exit code."""
    return end_of(start(function))


def order_metadata() -> None:
    """Have this process put as on a file system that orders its metadata, whichever it is on."""
    session.orders_metadata = lambda folder: True


def make(folder: Path, pack_size_target: int) -> None:
    """Initialise a repository."""
    call = InPlace().call
    repo = DiskRepository(folder, Inline())
    call(repo.__aenter__)
    call(lambda: repo.initialise(pack_size_target=pack_size_target))


def check(folder: Path, expected: Expected, *, thoroughly: bool = True) -> None:
    """Open a repository, check that the expected objects exist, and use it.

    :param thoroughly: whether to repack it, too, and to have disk-objectstore validate the result.
    """
    call = InPlace().call
    repo = DiskRepository(folder, Inline())
    call(repo.__aenter__)
    present = sorted(expected.present)
    missing = [key for key, found in zip(present, call(repo.has_many, present), strict=True) if not found]
    assert not missing, f"lost: {missing}"
    for key in present:
        call(repo.get, key, True)
    back = [key for key, found in zip(expected.gone, call(repo.has_many, expected.gone), strict=True) if found]
    assert not back, f"deleted, but present: {back}"
    report = call(repo.verify)
    assert report.ok, report.damaged
    key = call(repo.put, b"written after the kill")
    assert call(repo.get, key) == b"written after the kill"
    more = call(repo.put_many, [b"and", b"on"])
    call(repo.maintain)
    call(repo.delete_many, [key, *more])
    if thoroughly:
        call(repo.maintain, False, False)
        assert all(call(repo.has_many, present))
        assert not any(call(repo.has_many, expected.gone))
        report = call(repo.verify)
        assert report.ok, report.damaged
        call(repo.__aexit__, None, None, None)
        with Container(folder) as container:
            problems = vars(container.validate())
            assert not any(problems.values()), problems
