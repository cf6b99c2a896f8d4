"""What must be true of a repository after any of its users was killed at any moment."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from disk_objectstore import Container

from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace


class Log:
    """What a process that may be killed writes down: a line before and after each thing that it does."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, *keys: str) -> None:
        """Write lines; what was written is there even if the process is killed in the next moment."""
        os.write(self._descriptor, b"".join(f"{word} {key}\n".encode() for key in keys))


class Expected:
    """What is known for certain of the objects that processes have put and deleted."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.gone: set[str] = set()

    def read(self, path: Path) -> None:
        """Learn from a log, in which each key was put once and deleted once at the most."""
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
                self.present.discard(key)  # it may be there or not
            elif "put" in said:
                self.present.add(key)


def start(function: Callable[[], None]) -> int:
    """Call a function in a child process; return the child's number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001  (all that is left to do is to say what it was)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def end_of(child: int) -> int:
    """Wait for a child; return how it ended, as `waitstatus_to_exitcode` says it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(function: Callable[[], None]) -> int:
    """Call a function in a child process; return how that ended."""
    return end_of(start(function))


def make(folder: Path, pack_size_target: int) -> None:
    """Make a repository."""
    call = InPlace().call
    repo = DiskRepository(folder, Inline())
    call(repo.__aenter__)
    call(lambda: repo.initialise(pack_size_target=pack_size_target))


def check(folder: Path, expected: Expected, *, thoroughly: bool = True) -> None:
    """Open a repository as a fresh process does, look for all that must be there, and go on working with it.

    :param thoroughly: whether to repack, too, and to have disk-objectstore look at the result.
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
    assert not back, f"deleted, and there again: {back}"
    report = call(repo.verify)
    assert report.ok, report.damaged
    key = call(repo.put, b"work goes on")
    assert call(repo.get, key) == b"work goes on"
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
