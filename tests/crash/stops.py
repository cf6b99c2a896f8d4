"""Kill a process before every call that changes the disk, and check what is left.

These are system calls, as Python makes them, and SQLite statements. For every n until it completes, the process kills
itself with SIGKILL before the n-th call.

    python tests/crash/stops.py [--every N] [NAME...]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import filelock  # noqa: F401  (imported before the fork)
from checking import Expected, Log, check, in_child, order_metadata
from disk_objectstore import CompressMode, Container

from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

FILES = {
    "fcntl",
    "flock",
    "fsync",
    "link",
    "mkdir",
    "open",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "truncate",
    "unlink",
}
WATCHED = FILES | {"write", "flush", "close", "execute", "executemany", "commit", "rollback"}

call = InPlace().call


def opened(folder: Path, durable: bool = True) -> DiskRepository:
    """Open a repository without an event loop."""
    repo = DiskRepository(folder, Inline(), durable=durable)
    call(repo.__aenter__)
    return repo


def prepare(folder: Path, log: Log) -> None:
    """Make a repository of loose, packed, compressed and grouped objects, with copies and deleted ones."""
    repo = opened(folder)
    call(repo.initialise)
    with Container(folder) as container:
        packed = container.add_objects_to_pack([b"packed %d" % number for number in range(6)])
        compressed = container.add_objects_to_pack([b"compressed %d" % n * 100 for n in range(4)], compress=True)
        both = container.add_objects_to_pack([b"both"])
    groups = call(repo.put_many, [b"group %d" % number for number in range(8)])
    loose = [call(repo.put, b"loose %d" % number) for number in range(4)]
    loose.append(call(repo.put, b"both"))
    log.note("put", *packed, *compressed, *both, *groups, *loose)
    for keys in (packed[:2], compressed[:1], groups[:3]):
        call(repo.delete_many, keys)
        log.note("deleted", *keys)
    call(repo.__aexit__, None, None, None)


def put(folder: Path, log: Log, durable: bool = True) -> None:
    repo = opened(folder, durable)
    log.note("put", call(repo.put, b"new"))
    log.note("put", call(repo.put, b"large" * 200_000))
    log.note("put", call(repo.put, [b"in ", b"pieces"]))
    log.note("put", call(repo.put, b"loose 1"))


def put_unflushed(folder: Path, log: Log) -> None:
    put(folder, log, durable=False)


def put_in_one_commit(folder: Path, log: Log) -> None:
    order_metadata()
    put(folder, log)


def put_many(folder: Path, log: Log) -> None:
    repo = opened(folder)
    log.note("put", *call(repo.put_many, [b"new 1", b"loose 2", b"new 2", b"packed 3", b"new 1", b"group 5"]))
    log.note("put", *call(repo.put_many, [b"new 3", b"large" * 20_000]))


def batch(folder: Path, log: Log) -> None:
    repo = opened(folder)
    with InPlace().enter(repo.batch()) as batch:
        keys = [call(batch.put, content) for content in (b"new 1", b"loose 2", b"packed 3", b"group 5")]
        keys += call(batch.put_many, [b"%d" % number for number in range(1100)])
    log.note("put", *keys)
    with suppress(KeyError), InPlace().enter(repo.batch()) as batch:
        call(batch.put_many, [b"never stored %d" % number for number in range(1100)])
        raise KeyError


def put_full(folder: Path, log: Log) -> None:
    """Store groups that begin a new pack each time."""
    config, changed = folder / "config.json", folder / "changed"
    changed.write_text(config.read_text().replace('"pack_size_target": 4294967296', '"pack_size_target": 10'))
    changed.replace(config)
    repo = opened(folder)
    for number in range(2):
        log.note("put", *call(repo.put_many, [b"full %d %d" % (number, each) for each in range(3)]))


def delete(folder: Path, log: Log) -> None:
    repo = opened(folder)
    contents = [b"loose 0", b"packed 2", b"both", b"group 4", b"compressed 2" * 100]
    keys = [key_of(content) for content in contents]
    for some in (keys[:1], keys[1:]):
        log.note("deleting", *some)
        call(repo.delete_many, some)
        log.note("deleted", *some)


def pack(folder: Path, log: Log) -> None:
    call(opened(folder).maintain)


def pack_compressed(folder: Path, log: Log) -> None:
    repo = opened(folder)
    call(lambda: repo.maintain(compress=True, incremental_cleanup=False))


def repack(folder: Path, log: Log) -> None:
    call(opened(folder).maintain, False, False)


def repair(folder: Path, log: Log) -> None:
    repo = opened(folder)
    source = opened(folder.with_name("source"))
    call(source.initialise)
    call(source.put_many, [b"loose 3", b"packed 5"])
    for content in (b"loose 3", b"packed 5"):
        damage(folder, key_of(content))
    call(lambda: repo.repair(live=False, source=source))


def repack_of_disk_objectstore(folder: Path, log: Log) -> None:
    with Container(folder) as container:
        container.repack(compress_mode=CompressMode.KEEP)


def initialise(folder: Path, log: Log) -> None:
    repo = opened(folder.with_name("another"))
    call(repo.initialise)
    Log(folder.with_name("another.log")).note("put", call(repo.put, b"the first"))


SCENARIOS = (
    put,
    put_unflushed,
    put_in_one_commit,
    put_many,
    batch,
    put_full,
    delete,
    pack,
    pack_compressed,
    repack,
    repair,
    initialise,
    repack_of_disk_objectstore,
)


def key_of(content: bytes) -> str:
    """Return the key of a content."""
    import hashlib

    return hashlib.sha256(content).hexdigest()


def damage(folder: Path, key: str) -> None:
    """Change the bytes of an object, loose or packed, in root."""
    import sqlite3

    loose = folder / "loose" / key[:2] / key[2:]
    if loose.exists():
        loose.write_bytes(b"damaged")
        return
    with sqlite3.connect(folder / "packs.idx") as index:
        ((pack_id, offset),) = index.execute("SELECT pack_id, offset FROM db_object WHERE hashkey = ?", (key,))
    index.close()
    with open(folder / "packs" / str(pack_id), "r+b") as file:
        file.seek(offset)
        file.write(b"!")


def killed_at(step: int, scenario: Callable[[Path, Log], None], folder: Path, log: Log) -> Callable[[], None]:
    """Return a function that runs a scenario, and kills its process before call number ``step``."""
    steps = 0

    def on_event(frame: FrameType, event: str, function: Any) -> None:
        nonlocal steps
        if event == "c_call" and function.__name__ in WATCHED:
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        sys.setprofile(on_event)
        scenario(folder, log)
        sys.setprofile(None)

    return run


def look(scenario: Callable[[Path, Log], None], folder: Path, log: Path) -> None:
    """Check the repository after a kill."""
    expected = Expected()
    if scenario is initialise:
        another = folder.with_name("another")
        expected.read(folder.with_name("another.log"))
        call(opened(another).initialise)
        check(another, expected)
        expected = Expected()
    expected.read(log)
    if scenario is repair:
        # Damaged objects are restored or absent; the others are unchanged.
        repo, source = opened(folder), opened(folder.with_name("source"))
        call(source.initialise)
        call(source.put_many, [b"loose 3", b"packed 5"])
        call(lambda: repo.repair(live=False, source=source))
        for content in (b"loose 3", b"packed 5"):
            if not call(repo.has, key_of(content)):
                call(repo.put, content)
    if scenario is repack_of_disk_objectstore:
        call(lambda: opened(folder).repair(live=False))
    check(folder, expected)


def kills(scenario: Callable[[Path, Log], None], every: int) -> Iterator[bool]:
    """Kill a scenario before each call; yield whether the repository is consistent."""
    with tempfile.TemporaryDirectory() as root:
        template = Path(root) / "template"
        assert in_child(lambda: prepare(template, Log(Path(root) / "template.log"))) == 0
        step = 1
        while True:
            run = Path(root) / f"run {step}"
            run.mkdir()
            shutil.copytree(template, run / "repository")
            shutil.copyfile(Path(root) / "template.log", run / "log")
            status = in_child(killed_at(step, scenario, run / "repository", Log(run / "log")))
            assert status in (0, -signal.SIGKILL), f"step {step} was not killed: {status}"
            yield in_child(lambda run=run: look(scenario, run / "repository", run / "log")) == 0
            shutil.rmtree(run)
            if status == 0:
                return
            step += every


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="kill before every N-th call only")
    parser.add_argument("names", nargs="*", help="scenarios; default: all")
    arguments = parser.parse_args()
    failed = 0
    for scenario in SCENARIOS:
        if not arguments.names or scenario.__name__ in arguments.names:
            outcomes = list(kills(scenario, arguments.every))
            failed += outcomes.count(False)
            print(f"{scenario.__name__}: {len(outcomes)} stops, {outcomes.count(False)} inconsistent", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
