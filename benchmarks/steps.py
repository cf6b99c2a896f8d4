"""The time of each step of a get and of a put: python -m benchmarks.steps."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disk_objectstore import Container

from benchmarks.harness import show
from objrepo.disk.group_commit import put_group
from objrepo.disk.reader import read_at_once
from objrepo.fsync import fsync_file
from objrepo.keys import is_key
from objrepo.sources import read_source
from objrepo.sync import DiskObjectStoreRepositoryBackend

OBJECTS = 10_000


def median(do: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a step."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        do()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(title: str, steps: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Print the times of steps as a table."""
    print(f"\n| {title} | time |\n|---|---|")
    for name, do in steps.items():
        print(f"| {name} | {show(median(do, rounds))} |")


def main(folder: Path) -> None:
    """Measure the steps of a get of a packed object of 1 KiB, of a single put, and of a group of 256."""
    container = Container(folder / "repository")
    container.init_container()
    keys = container.add_objects_to_pack([os.urandom(1024) for _ in range(OBJECTS)], compress=False)
    container.close()
    backend = DiskObjectStoreRepositoryBackend(container)
    with backend._repository.backend.sessions.check_out() as session:
        table("get 1 KiB, packed", steps_of_a_get(backend, session, keys), 5000)
        table("put 1 KiB", steps_of_a_put(backend, folder / "file"), 200)
        table("put 256 × 1 KiB as a group", steps_of_a_group(session, keys), 60)


def steps_of_a_get(backend, session, keys) -> dict[str, Callable[[], Any]]:
    """Return the steps of a get, separate and combined."""
    draw = iter(random.Random(1).choices(keys, k=10**6)).__next__
    descriptor = session.packs.descriptor(0)[0]
    return {
        "check the key": lambda: is_key(draw(), "sha256"),
        "look up the row (SQLite acquires and releases a lock)": lambda: session.index.raw_row(draw()),
        "compare the open pack with the file of its name (`stat`)": lambda: session.packs.descriptor(0),
        "`pread`": lambda: os.pread(descriptor, 1024, random.randrange(9000) * 1024),
        "row, comparison and `pread`": lambda: read_at_once(session, draw()),
        "with a session checked out and in": lambda: backend._repository.backend.get(draw()),
        "with the coroutine: `get_object_content`": lambda: backend.get_object_content(draw()),
    }


def steps_of_a_put(backend, path: Path) -> dict[str, Callable[[], Any]]:
    """Return the steps of a single put."""
    content = os.urandom(1024)

    def write(fsync: bool) -> None:
        with open(path, "wb") as file:
            file.write(content)
            if fsync:
                fsync_file(file)

    return {
        "SHA-256": lambda: hashlib.sha256(content).hexdigest(),
        "write a file": lambda: write(False),
        "write and fsync a file": lambda: write(True),
        "`put`: file, its directory and the parent directory fsynced": lambda: read_source(
            memoryview(os.urandom(1024)), backend._repository.backend.put
        ),
    }


def steps_of_a_group(session, keys) -> dict[str, Callable[[], Any]]:
    """Return the steps of a group commit."""
    content = os.urandom(1024)
    return {
        "SHA-256 of all": lambda: [hashlib.sha256(content).hexdigest() for _ in range(256)],
        "look up the keys in the index": lambda: session.index.present(keys[:256]),
        "all steps: hash, look up, append, fsync, commit": lambda: put_group(
            session, [os.urandom(1024) for _ in range(256)]
        ),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="objrepo-steps-") as temporary:
        main(Path(temporary))
