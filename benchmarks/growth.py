"""The speed and memory of growing repositories."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Figure, Results, compare
from benchmarks.implementations import Facade

MEMORY = """
import anyio, json, re, sys
from objrepo import DiskRepository

def memory():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) * 1024

async def main():
    keys = json.load(sys.stdin)
    async with DiskRepository(sys.argv[1]) as repo:
        await repo.is_initialised()
        await repo.has("0" * 64)
        before = memory()
        for key in keys:
            await repo.get(key)
        reading = memory()
        count = 0
        async for key in repo.keys():
            count += 1
        print(json.dumps([count, reading - before, memory() - before]))

anyio.run(main)
"""
ROUND = 16
OBJECT_BYTES = 1024
PACK_OBJECTS = 4 * 1024 * 1024
"""Objects of 1 KiB in a pack of 4 GiB, the default size."""


def run(results: Results, folder: Path) -> None:
    """Compare repositories of different sizes."""
    sizes = (10_000, 100_000) if results.quick else (10_000, 100_000, 1_000_000, 10_000_000)
    facades, keys = {}, {}
    for size in sizes:
        facades[size] = Facade(folder / str(size))
        keys[size] = fill(folder / str(size), size)
    rounds = 30 if results.quick else 300
    middle = ROUND * (rounds + 1)
    for method, first, last in (("get", 0, middle), ("has", middle, 2 * middle)):

        def work(size: int, method: str = method, first: int = first, last: int = last):
            do = getattr(facades[size], method)
            chosen = random.Random(3).sample(keys[size], len(keys[size]))[first:last]  # each is read once

            def one_round(number: int) -> None:
                for key in chosen[(number + 1) * ROUND : (number + 2) * ROUND]:
                    do(key)

            return one_round

        works = {f"{size:,} objects": work(size) for size in sizes}
        compare(results, f"growth: {method} 1 KiB", works, rounds, ROUND)
    for size in sizes:
        show_memory(results, folder / str(size), size, keys[size])


def fill(path: Path, size: int) -> list[str]:
    """Add objects of 1 KiB to an empty repository, and return 10,000 of their keys.

    They are rows of the index with random keys and packs that are sparse files: a system reads zeros from its page
    cache as it reads any other bytes. To put ten million objects would take a quarter of an hour.
    """
    draw, chosen = random.Random(size), []

    def rows() -> Iterator[tuple[str, int, int]]:
        for number in range(size):
            key = draw.randbytes(32).hex()
            if number % (size // 10_000) == 0:
                chosen.append(key)
            yield key, number // PACK_OBJECTS, number % PACK_OBJECTS * OBJECT_BYTES

    with closing(sqlite3.connect(path / "packs.idx", isolation_level=None)) as index:
        for statement in ("PRAGMA synchronous = OFF", "DROP INDEX ix_db_object_hashkey", "BEGIN"):
            index.execute(statement)
        columns = "hashkey, pack_id, offset, length, compressed, size"
        values = f"?, ?, ?, {OBJECT_BYTES}, 0, {OBJECT_BYTES}"
        index.executemany(f"INSERT INTO db_object ({columns}) VALUES ({values})", rows())
        index.execute("COMMIT")
        index.execute("CREATE UNIQUE INDEX ix_db_object_hashkey ON db_object (hashkey)")
        index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for pack in range(-(-size // PACK_OBJECTS)):
        (path / "packs" / str(pack)).touch()
        os.truncate(path / "packs" / str(pack), min(size - pack * PACK_OBJECTS, PACK_OBJECTS) * OBJECT_BYTES)
    return chosen


def show_memory(results: Results, path: Path, size: int, keys: list[str]) -> None:
    """Measure the memory that another process takes to get 10,000 objects, and to list all keys."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path], input=json.dumps(keys), check=True, capture_output=True, text=True
    )
    count, reading, listing = json.loads(done.stdout)
    assert count == size
    for what, peak in (("get", reading), ("keys()", listing)):
        print(f"{what} of {size:,} objects: {peak / 1024**2:.1f} MiB above idle")
        mebibytes = peak / 1024**2
        work = f"memory of {what}, MiB above idle"
        results.figures.append(Figure(work, f"{size:,} objects", mebibytes, mebibytes, mebibytes, 1))
