"""The speed of growing repositories, and the memory of a listing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Results, compare
from benchmarks.implementations import Facade
from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

LISTING = """
import anyio, json, re, sys
from objrepo import DiskRepository

def memory():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) * 1024

async def main():
    async with DiskRepository(sys.argv[1]) as repo:
        await repo.is_initialised()
        await repo.has("0" * 64)
        before = memory()
        count = 0
        async for key in repo.keys():
            count += 1
        print(json.dumps([count, memory() - before]))

anyio.run(main)
"""


def run(results: Results, folder: Path) -> None:
    """Compare repositories of different sizes."""
    sizes = (10_000, 100_000) if results.quick else (10_000, 100_000, 1_000_000)
    facades, keys = {}, {}
    for size in sizes:
        path = folder / str(size)
        keys[size] = fill(path, size)
        facades[size] = Facade(path)
    for method in ("get", "has"):

        def work(size: int, method: str = method):
            do = getattr(facades[size], method)
            chosen = random.Random(3).choices(keys[size], k=10_000)

            def one_round(number: int) -> None:
                for key in chosen[number * 20 + 20 : number * 20 + 40]:
                    do(key)

            return one_round

        works = {f"{size:,} objects": work(size) for size in sizes}
        compare(results, f"growth: {method} 1 KiB", works, 30 if results.quick else 300, 20)
    for size in sizes:
        done = subprocess.run(
            [sys.executable, "-c", LISTING, folder / str(size)], check=True, capture_output=True, text=True
        )
        count, peak = json.loads(done.stdout)
        assert count == size
        print(f"keys() of {size:,} objects: {peak / 1024**2:.1f} MiB above idle")
        results.figures.append(type(results.figures[0])(
            "memory of keys(), MiB above idle", f"{size:,} objects", peak / 1024**2, peak / 1024**2, peak / 1024**2, 1
        ))  # fmt: skip


def fill(path: Path, size: int) -> list[str]:
    """Make a repository of ``size`` objects of 1 KiB, and return some of their keys."""
    drive = InPlace()
    repo = DiskRepository(path, Inline())
    drive.call(repo.__aenter__)
    drive.call(repo.initialise)
    chosen: list[str] = []
    for _ in range(0, size, 10_000):
        keys = drive.call(repo.put_many, (os.urandom(1024) for _ in range(10_000)))
        chosen += random.Random(4).sample(keys, 10_000 * 10_000 // size)
    drive.call(repo.__aexit__, None, None, None)
    return chosen
