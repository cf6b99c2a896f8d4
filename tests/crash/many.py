"""Many processes use one repository concurrently, while one of them packs, repacks and cleans continuously.

    python tests/crash/many.py [--seconds N] [--seed N]

Each process puts, reads its own objects and those of others, lists and deletes, on asyncio, on trio or without an event
loop. One uses AiiDA's backend if aiida-core is installed, else a ``Container``; another one is ``dostore``. No process
may see a deleted object, miss an existing one, read wrong bytes, or get an undocumented error.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import filelock  # noqa: F401  (imported before the fork)
import trio  # noqa: F401
from checking import Expected, Log, check, end_of, in_child, make, order_metadata, start
from disk_objectstore import Container
from disk_objectstore.exceptions import NotExistent

from objrepo import DiskRepository, ObjectNotFoundError, RepositoryBusyError
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

MAX_FILES = 450  # 32 sessions, with 8 packs and three files of the index each, and some more
MAX_WAL_BYTES = 64 * 1024 * 1024
TRIES = 50


class Others:
    """The logs of all processes."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng

    def some_key(self) -> tuple[Path, str] | None:
        """Return a key that is put and not being deleted, and the log that says so."""
        log = self.rng.choice(list(self.root.glob("log *")))
        expected = Expected()
        expected.read(log)
        return (log, self.rng.choice(sorted(expected.present))) if expected.present else None

    def is_being_deleted(self, log: Path, key: str) -> bool:
        """Return whether an object may be missing, as its deletion has begun."""
        return f"deleting {key}\n" in log.read_text()


def check_bounds(folder: Path) -> None:
    """Check the number of open files and the size of the WAL."""
    assert len(os.listdir("/proc/self/fd")) < MAX_FILES
    wal = folder / "packs.idx-wal"
    assert not wal.exists() or wal.stat().st_size < MAX_WAL_BYTES, wal.stat()


class Member:
    """One of the processes that put, read, list and delete."""

    def __init__(self, root: Path, name: str, until: float) -> None:
        self.folder = root / "repository"
        self.log = Log(root / f"log {name}")
        self.name = name
        self.until = until
        self.rng = random.Random(name)
        self.others = Others(root, self.rng)
        self.mine: list[str] = []
        self.made = 0

    def content(self) -> bytes:
        self.made += 1
        return f"{self.name} {self.made} ".encode().ljust(self.rng.choice([20, 2000, 200_000]), b".")

    def stored(self, *keys: str) -> None:
        self.log.note("put", *keys)
        self.mine += keys

    async def put(self, repo: DiskRepository) -> None:
        self.stored(await repo.put(self.content()))
        self.stored(*await repo.put_many([self.content() for _ in range(5)]))

    async def put_in_batch(self, repo: DiskRepository) -> None:
        async with repo.batch() as batch:
            keys = [await batch.put(self.content()) for _ in range(self.rng.choice([3, 40]))]
        self.stored(*keys)

    async def put_concurrently(self, repo: DiskRepository) -> None:
        async def one(content: bytes) -> None:
            self.stored(await repo.put(content))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(one, self.content())

    async def read(self, repo: DiskRepository) -> None:
        for _ in range(10):
            if (found := self.others.some_key()) is None:
                return
            log, key = found
            try:
                assert await repo.has(key) or self.others.is_being_deleted(log, key), f"{key} is missing"
                await repo.get(key, check=True)
                async with repo.open(key, check=True) as stream:
                    async for _ in stream:
                        pass
            except ObjectNotFoundError:
                assert self.others.is_being_deleted(log, key), f"{key} was lost"

    async def read_mine(self, repo: DiskRepository) -> None:
        async with repo.stream(self.mine) as objects:
            assert {key async for key, _ in objects} == set(self.mine)
        assert all(await repo.has_many(self.mine))

    async def list_all(self, repo: DiskRepository) -> None:
        listed = [key async for key in repo.keys()]
        assert len(listed) == len(set(listed)), "a key was listed twice"
        assert set(self.mine) <= set(listed), "a key was not listed"
        await repo.info()

    async def delete(self, repo: DiskRepository) -> None:
        self.rng.shuffle(self.mine)
        some = [self.mine.pop() for _ in range(min(8, len(self.mine)))]
        self.log.note("deleting", *some)
        while True:
            try:
                await repo.delete_many(some)
                break
            except RepositoryBusyError:
                pass
        self.log.note("deleted", *some)
        assert not any(await repo.has_many(some)), "a deleted object exists"

    async def work(self, offload: Any) -> None:
        kinds = [self.put, self.put_in_batch, self.read, self.read_mine, self.list_all, self.delete]
        if offload is None:
            kinds.append(self.put_concurrently)
        async with DiskRepository(self.folder, offload, durable=self.rng.random() < 0.5) as repo:
            while time.time() < self.until:
                await self.rng.choice(kinds)(repo)
                check_bounds(self.folder)

    def run(self, loop: str | None) -> None:
        if self.rng.random() < 0.5:
            order_metadata()
        if loop is None:
            InPlace().call(self.work, Inline())
        else:
            anyio.run(self.work, None, backend=loop)


class Maintainer(Member):
    """The process that packs, repacks and cleans."""

    async def work(self, offload: Any) -> None:
        async with DiskRepository(self.folder) as repo:
            while time.time() < self.until:
                try:
                    if self.rng.random() < 0.3:
                        # objrepo is not affected by its repack; readers of disk-objectstore have to try again.
                        await repo.maintain(live=False, do_vacuum=False, timeout=1)
                    else:
                        await repo.maintain(compress=self.rng.random() < 0.5, timeout=1)
                except RepositoryBusyError:
                    continue
                check_bounds(self.folder)


class Aiida(Member):
    """AiiDA's backend. It only puts and reads, as it does not lock out maintenance by other processes."""

    def run(self, loop: str | None) -> None:
        put, get = self.functions()
        while time.time() < self.until:
            self.stored(put(io.BytesIO(self.content())))
            if (found := self.others.some_key()) is not None:
                log, key = found
                for _ in range(TRIES):
                    try:
                        content = get(key)
                    except (FileNotFoundError, NotExistent, ValueError):  # a file was moved meanwhile
                        if self.others.is_being_deleted(log, key):
                            break
                        continue
                    import hashlib

                    assert hashlib.sha256(content).hexdigest() == key, f"{key} has wrong bytes"
                    break
                else:
                    raise AssertionError(f"{key} was lost")

    def functions(self) -> tuple[Callable[[io.BytesIO], str], Callable[[str], bytes]]:
        try:
            from aiida.repository.backend.disk_object_store import DiskObjectStoreRepositoryBackend
        except ModuleNotFoundError:
            return self.put_by_container, self.get_by_container
        backend = DiskObjectStoreRepositoryBackend(Container(self.folder))
        return backend.put_object_from_filelike, backend.get_object_content

    def put_by_container(self, source: io.BytesIO) -> str:
        with Container(self.folder) as container:
            return str(container.add_streamed_object(source))

    def get_by_container(self, key: str) -> bytes:
        with Container(self.folder) as container:  # a new one, as it sees the state at its opening
            return bytes(container.get_object_content(key))


class Dostore(Member):
    """The command line of disk-objectstore."""

    def run(self, loop: str | None) -> None:
        command = [str(Path(sys.executable).with_name("dostore")), "--path", str(self.folder)]
        while time.time() < self.until:
            path = self.folder.with_name(f"file {self.name}")
            path.write_bytes(self.content())
            done = subprocess.run([*command, "add-files", str(path)], check=True, capture_output=True, text=True)
            self.stored(done.stdout.splitlines()[-1].split(":")[0])


def member(kind: type[Member], root: Path, name: str, until: float, loop: str | None) -> None:
    kind(root, name, until).run(loop)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    kinds: list[tuple[type[Member], str | None]] = [
        (Maintainer, "asyncio"),
        (Aiida, None),
        (Dostore, None),
        (Member, "asyncio"),
        (Member, "trio"),
        (Member, "asyncio"),
        (Member, None),
        (Member, "trio"),
    ]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        assert in_child(partial(make, root / "repository", 3_000_000)) == 0
        until = time.time() + arguments.seconds
        children = {
            start(partial(member, kind, root, f"{arguments.seed} {number}", until, loop)): kind.__name__
            for number, (kind, loop) in enumerate(kinds)
        }
        failed = []
        for child, kind_name in children.items():
            if end_of(child) != 0:
                failed.append(kind_name)
        expected = Expected()
        for path in root.glob("log *"):
            expected.read(path)
        consistent = in_child(lambda: check(root / "repository", expected)) == 0
        print(
            f"{len(kinds)} processes, {arguments.seconds:.0f} s: {len(expected.present)} objects present, "
            f"{len(expected.gone)} deleted, {len(failed)} processes failed, "
            + ("no failure" if consistent and not failed else "FAILED")
        )
    sys.exit(0 if consistent and not failed else 1)


if __name__ == "__main__":
    main()
