"""Kill processes that use one repository at random moments, again and again, and look at what is left.

    python tests/crash/kills.py [--seconds N] [--kills N] [--seed N]

Each round, some processes put (one, many at the same moment, in bulk, streamed), delete, pack, repack and clean, and
write down what was acknowledged. They are killed with SIGKILL; then a fresh process opens the repository and checks it.
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
import filelock  # noqa: F401  (what is imported on the first use is imported now)
import trio  # noqa: F401
from checking import Expected, Log, check, end_of, in_child, make, start

from objrepo import DiskRepository, RepositoryBusyError

WORKERS = 3
OBJECTS_AT_MOST = 4000


class Worker:
    """One process that uses the repository until it is killed.

    :param name: what makes its objects different from those of all others.
    """

    def __init__(self, folder: Path, log: Log, name: str, chance: random.Random) -> None:
        self.folder = folder
        self.log = log
        self.name = name
        self.chance = chance
        self.made = 0
        self.keys: list[str] = []

    def content(self, size: int) -> bytes:
        """Return bytes that nobody has put yet."""
        self.made += 1
        return f"{self.name} {self.made} ".encode().ljust(size, b".")

    def stored(self, *keys: str) -> None:
        """Note objects whose put has returned."""
        self.log.note("put", *keys)
        self.keys += keys

    async def put(self, repo: DiskRepository) -> None:
        self.stored(await repo.put(self.content(self.chance.choice([10, 5000, 300_000]))))

    async def put_together(self, repo: DiskRepository) -> None:
        async def one(content: bytes) -> None:
            self.stored(await repo.put(content))

        async with anyio.create_task_group() as group:
            for _ in range(self.chance.choice([3, 50])):
                group.start_soon(one, self.content(self.chance.randrange(2000)))

    async def put_many(self, repo: DiskRepository) -> None:
        self.stored(*set(await repo.put_many([self.content(500) for _ in range(self.chance.choice([2, 40]))])))

    async def put_streamed(self, repo: DiskRepository) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(self.chance.choice([1, 20])):
                await anyio.lowlevel.checkpoint()
                yield self.content(70_000)

        self.stored(await repo.put(source()))

    async def put_what_others_put(self, repo: DiskRepository) -> None:
        await repo.put_many([b"of all", b"of everybody"])
        await repo.put(b"of all")

    async def delete(self, repo: DiskRepository) -> None:
        self.chance.shuffle(self.keys)
        some = [self.keys.pop() for _ in range(min(self.chance.choice([1, 30]), len(self.keys)))]
        self.log.note("deleting", *some)
        try:
            await repo.delete_many(some)
        except RepositoryBusyError:
            return
        self.log.note("deleted", *some)

    async def pack(self, repo: DiskRepository) -> None:
        try:
            await repo.maintain(
                compress=self.chance.random() < 0.5, incremental_cleanup=self.chance.random() < 0.5, timeout=1
            )
        except RepositoryBusyError:
            return

    async def repack(self, repo: DiskRepository) -> None:
        await repo.maintain(live=False, timeout=1)

    async def work(self, kinds: list[Callable[[DiskRepository], Awaitable[None]]]) -> None:
        """Do one thing after the other."""
        async with DiskRepository(self.folder) as repo:
            while True:
                await self.chance.choice(kinds)(repo)

    def run(self, alone: bool) -> None:
        """Work in a loop of one kind or the other."""
        kinds = [self.put, self.put_together, self.put_many, self.put_streamed, self.put_what_others_put, self.delete]
        kinds.append(self.repack if alone else self.pack)
        anyio.run(self.work, kinds, backend=self.chance.choice(["asyncio", "trio"]))


def one_round(folder: Path, number: int, seed: int) -> int:
    """Start workers, kill them, and check; return how many were killed."""
    chance = random.Random(f"{seed} {number}")
    alone = number % 4 == 0  # who repacks is to be alone
    children = []
    for worker in range(1 if alone else WORKERS):
        name = f"{seed} {number} {worker}"
        log = Log(folder.with_name(f"log {name}"))
        children.append(start(partial(Worker(folder, log, name, random.Random(name)).run, alone)))
    time.sleep(chance.uniform(0.03, 0.4))
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        assert end_of(child) == -signal.SIGKILL, f"a worker of round {number} of seed {seed} ended by itself"
    return len(children)


def expected_of(place: Path) -> Expected:
    """Return what all logs say."""
    expected = Expected()
    for path in place.glob("log *"):
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
            place = Path(name)
            assert in_child(partial(make, place / "repository", 2_000_000)) == 0
            expected = Expected()
            while (
                len(expected.present) < OBJECTS_AT_MOST
                and kills < arguments.kills
                and time.monotonic() - start < arguments.seconds
            ):
                kills += one_round(place / "repository", number, arguments.seed)
                number += 1
                expected = expected_of(place)
                thoroughly = number % 20 == 0
                look = partial(check, place / "repository", expected, thoroughly=thoroughly)
                if in_child(look) != 0:
                    kept = Path(tempfile.gettempdir()) / f"broken-{arguments.seed}-{number}"
                    shutil.copytree(place, kept)
                    print(f"round {number} of seed {arguments.seed} failed; what is left is kept in {kept}")
                    failed = True
                    break
            acknowledged += len(expected.present) + len(expected.gone)
    print(
        f"{kills} kills in {number} rounds, {acknowledged} objects acknowledged: "
        + ("FAILED" if failed else "all is well")
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
