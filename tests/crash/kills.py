"""Kill processes that use one repository at random moments, and check what is left.

    python tests/crash/kills.py [--seconds N] [--kills N] [--seed N]

In each round some processes put (singly, concurrently, in bulk, streamed), delete, pack, repack and clean, and log what
was acknowledged. They are killed by SIGKILL; then a new process opens the repository and checks it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import filelock  # noqa: F401  (imported before the fork)
import trio  # noqa: F401
from checking import Expected, Log, check, end_of, in_child, make, order_metadata, start

from objrepo import DiskRepository, RepositoryBusyError

WORKERS = 3
MAX_OBJECTS = 4000


class Worker:
    """One process that uses the repository until it is killed.

    :param name: a prefix of its objects, which makes them unique.
    """

    def __init__(self, folder: Path, log: Log, name: str, rng: random.Random) -> None:
        self.folder = folder
        self.log = log
        self.name = name
        self.rng = rng
        self.made = 0
        self.keys: list[str] = []

    def content(self, size: int) -> bytes:
        """Return bytes that no process has put."""
        self.made += 1
        return f"{self.name} {self.made} ".encode().ljust(size, b".")

    def stored(self, *keys: str) -> None:
        """Log objects whose put has returned."""
        self.log.note("put", *keys)
        self.keys += keys

    async def put(self, repo: DiskRepository) -> None:
        self.stored(await repo.put(self.content(self.rng.choice([10, 5000, 300_000]))))

    async def put_concurrently(self, repo: DiskRepository) -> None:
        async def one(content: bytes) -> None:
            self.stored(await repo.put(content))

        async with anyio.create_task_group() as group:
            for _ in range(self.rng.choice([3, 50])):
                group.start_soon(one, self.content(self.rng.randrange(2000)))

    async def put_many(self, repo: DiskRepository) -> None:
        self.stored(*set(await repo.put_many([self.content(500) for _ in range(self.rng.choice([2, 40]))])))

    async def put_in_batch(self, repo: DiskRepository) -> None:
        async with repo.batch() as batch:
            keys = [await batch.put(self.content(500)) for _ in range(self.rng.choice([2, 40]))]
            if self.rng.random() < 0.3:
                keys += await batch.put_many([self.content(50) for _ in range(1100)])
            keys.append(await batch.put(b"common 1"))
        self.stored(*(key for key in keys if key != keys[-1]))

    async def put_streamed(self, repo: DiskRepository) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(self.rng.choice([1, 20])):
                await anyio.lowlevel.checkpoint()
                yield self.content(70_000)

        self.stored(await repo.put(source()))

    async def put_common(self, repo: DiskRepository) -> None:
        await repo.put_many([b"common 1", b"common 2"])
        await repo.put(b"common 1")

    async def delete(self, repo: DiskRepository) -> None:
        self.rng.shuffle(self.keys)
        some = [self.keys.pop() for _ in range(min(self.rng.choice([1, 30]), len(self.keys)))]
        self.log.note("deleting", *some)
        try:
            await repo.delete_many(some)
        except RepositoryBusyError:
            return
        self.log.note("deleted", *some)

    async def pack(self, repo: DiskRepository) -> None:
        try:
            await repo.maintain(
                compress=self.rng.random() < 0.5, incremental_cleanup=self.rng.random() < 0.5, timeout=1
            )
        except RepositoryBusyError:
            return

    async def repack(self, repo: DiskRepository) -> None:
        await repo.maintain(live=False, timeout=1)

    async def work(self, kinds: list[Callable[[DiskRepository], Awaitable[None]]]) -> None:
        """Do random operations until the process is killed."""
        async with DiskRepository(self.folder, durable=self.rng.random() < 0.5) as repo:
            while True:
                await self.rng.choice(kinds)(repo)

    def run(self, alone: bool) -> None:
        """Work on asyncio or trio."""
        if self.rng.random() < 0.5:
            order_metadata()
        kinds = [self.put, self.put_concurrently, self.put_many, self.put_in_batch, self.put_streamed]
        kinds += [self.put_common, self.delete]
        kinds.append(self.repack if alone else self.pack)
        anyio.run(self.work, kinds, backend=self.rng.choice(["asyncio", "trio"]))


def one_round(folder: Path, number: int, seed: int) -> int:
    """Start workers and kill them; return their number."""
    rng = random.Random(f"{seed} {number}")
    alone = number % 4 == 0  # a repack with live=False needs to be alone
    children = []
    for worker in range(1 if alone else WORKERS):
        name = f"{seed} {number} {worker}"
        log = Log(folder.with_name(f"log {name}"))
        children.append(start(partial(Worker(folder, log, name, random.Random(name)).run, alone)))
    time.sleep(rng.uniform(0.03, 0.4))
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        assert end_of(child) == -signal.SIGKILL, f"a worker of round {number} of seed {seed} was not killed"
    return len(children)


def expected_of(root: Path) -> Expected:
    """Read all logs."""
    expected = Expected()
    for path in root.glob("log *"):
        expected.read(path)
    return expected


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--kills", type=int, default=1_000_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    start = time.monotonic()
    kills = number = acknowledged = 0
    failed = False
    while kills < arguments.kills and time.monotonic() - start < arguments.seconds and not failed:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            assert in_child(partial(make, root / "repository", 2_000_000)) == 0
            expected = Expected()
            while (
                len(expected.present) < MAX_OBJECTS
                and kills < arguments.kills
                and time.monotonic() - start < arguments.seconds
            ):
                kills += one_round(root / "repository", number, arguments.seed)
                number += 1
                expected = expected_of(root)
                thoroughly = number % 20 == 0
                run_checks = partial(check, root / "repository", expected, thoroughly=thoroughly)
                if in_child(run_checks) != 0:
                    kept = Path(tempfile.gettempdir()) / f"broken-{arguments.seed}-{number}"
                    shutil.copytree(root, kept)
                    print(f"round {number} of seed {arguments.seed} failed; its files are in {kept}")
                    failed = True
                    break
            acknowledged += len(expected.present) + len(expected.gone)
    print(
        f"{kills} kills in {number} rounds, {acknowledged} objects acknowledged: "
        + ("FAILED" if failed else "no failure")
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
