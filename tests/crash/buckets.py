"""Kill processes that use one bucket at random moments, and check what is left.

    python tests/crash/buckets.py [--kills N] [--seed N]

The bucket is on a test server in memory. In each round some processes, of which some share a local index, put (alone,
at once, in bulk, the same objects), delete, maintain and read, and log what was acknowledged. They are killed by
SIGKILL; sometimes the gateway fails for a moment before that.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

sys.path.append(str(Path(__file__).parent.parent))
from checking import Expected, Log

from objrepo import ObjectNotFoundError, RepositoryBusyError, RepositoryUnavailableError, S3Repository
from s3_server import s3_server

WORKERS = 4
COMMON = [b"common %d" % number for number in range(20)]


async def work(url: str, index: str, log: Log, name: str) -> None:
    """Use the repository until the process is killed."""
    rng = random.Random(name)
    made = 0
    keys: list[str] = []

    def contents(count: int) -> list[bytes]:
        nonlocal made
        made += count
        return [f"{name} {made - number} ".encode() * rng.choice((1, 50)) for number in range(count)]

    async def put_one() -> None:
        keys.append(await repo.put(contents(1)[0]))
        log.note("put", keys[-1])

    async def operate() -> None:
        kind = rng.choice(("put", "put at once", "put_many", "put_many", "common", "delete", "maintain", "read"))
        if kind == "put":
            await put_one()
        elif kind == "put at once":
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(put_one)
        elif kind == "put_many":
            stored = await repo.put_many(contents(rng.choice((2, 100, 1500))))
            log.note("put", *stored)
            keys.extend(stored)
        elif kind == "common":
            log.note("put", *await repo.put_many(rng.sample(COMMON, 10)))
        elif kind == "delete" and keys:
            rng.shuffle(keys)
            some = [keys.pop() for _ in range(min(rng.choice((1, 50)), len(keys)))]
            log.note("deleting", *some)
            await repo.delete_many(some)
            log.note("deleted", *some)
        elif kind == "maintain":
            await repo.maintain()
        elif keys:
            for key in rng.sample(keys, min(3, len(keys))):
                await repo.get(key)

    async with S3Repository("bucket", endpoint=url, access_key_id="a", secret_access_key="b", index=index) as repo:
        while True:
            try:
                await operate()
            except* (RepositoryBusyError, RepositoryUnavailableError):
                pass


async def check(url: str, index: str, expected: Expected) -> None:
    """Check with an index that was there, or a new one, that everything is as the logs say."""
    async with S3Repository("bucket", endpoint=url, access_key_id="a", secret_access_key="b", index=index) as repo:
        present = sorted(expected.present)
        missing = [key for key, found in zip(present, await repo.has_many(present), strict=True) if not found]
        assert not missing, f"lost: {missing}"
        back = [key for key, found in zip(expected.gone, await repo.has_many(expected.gone), strict=True) if found]
        assert not back, f"deleted, but present: {back}"
        async with repo.stream(present, check=True) as objects:
            assert {key async for key, _ in objects} == set(present)
        for key in random.sample(sorted(expected.gone), min(3, len(expected.gone))):
            try:
                await repo.get(key)
            except ObjectNotFoundError:
                continue
            raise AssertionError(f"deleted, but read: {key}")
        listed = [key async for key in repo.keys()]
        assert len(listed) == len(set(listed))
        assert set(present) <= set(listed)
        assert expected.gone.isdisjoint(listed)


async def rounds(kills: int, seed: int, root: Path) -> tuple[int, int]:
    """Start and kill processes, and check after each round; return the numbers of kills and of objects."""
    rng = random.Random(seed)
    killed = number = 0
    with s3_server() as server:
        async with S3Repository(**server.options, index=str(root / "first")) as repo:
            await repo.initialise()
        expected = Expected()
        while killed < kills:
            number += 1
            workers = []
            for worker in range(WORKERS):
                name = f"{seed} {number} {worker}"
                arguments = [server.url, root / f"index {worker // 2 * rng.randrange(3)}", root / f"log {name}", name]
                workers.append(subprocess.Popen([sys.executable, __file__, "--work", *map(str, arguments)]))
            enough = rng.choice((500, 20_000, 150_000))
            while sum(map(os.path.getsize, root.glob(f"log {seed} {number} *"))) < enough:
                time.sleep(0.05)
            for process in rng.sample(workers, len(workers)):
                if rng.random() < 0.3:  # the gateway is gone for a moment
                    server.answer = lambda *_: (503, "SlowDown")
                    time.sleep(rng.uniform(0, 0.1))
                    server.answer = lambda *_: None
                time.sleep(rng.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL, "a worker has ended by itself"
                killed += 1
            server.objects["lease"] = b"{}"  # as if some minutes had passed
            for path in root.glob(f"log {seed} {number} *"):
                expected.read(path)
            for index in ("first", f"new {number}"):
                await check(server.url, str(root / index), expected)
        return killed, len(expected.present) + len(expected.gone)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        _, _, url, index, log, name = sys.argv
        anyio.run(work, url, index, Log(Path(log)), name)
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        kills, objects = anyio.run(rounds, arguments.kills, arguments.seed, Path(name))
    print(f"{kills} kills of seed {arguments.seed}, {objects} objects acknowledged: no failure")


if __name__ == "__main__":
    main()
