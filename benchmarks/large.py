"""Large objects: put and get of 64 MiB, ranges, and the delay of the event loop meanwhile."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import anyio

from benchmarks.concurrency import LOOPS
from benchmarks.harness import Results, compare
from benchmarks.implementations import Aiida, Facade
from objrepo import DiskRepository

MEBIBYTE = 1024 * 1024


def file_of(path: Path, mebibytes: int) -> Path:
    """Write a file of random bytes."""
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MEBIBYTE))
    return path


def run(results: Results, folder: Path) -> None:
    """Measure put and get, then the event loops."""
    folder.mkdir(parents=True)
    rounds = 3 if results.quick else 9
    files = [file_of(folder / f"{number}.bin", 64) for number in range(10)]
    backends = {"objrepo facade": Facade(folder / "objrepo").backend, "aiida-core": Aiida(folder / "aiida").backend}
    compare(
        results,
        "put a file of 64 MiB",
        {name: lambda number, b=b: b.put_object_from_file(files[number]) for name, b in backends.items()},
        rounds,
    )
    key = backends["objrepo facade"].put_object_from_file(files[0])
    compare(
        results,
        "get 64 MiB, loose",
        {name: lambda _, b=b: b.get_object_content(key) for name, b in backends.items()},
        rounds,
    )
    for loop, options in LOOPS.items():
        anyio.run(functools.partial(on_loop, results, folder / loop, loop, files), **options)


async def on_loop(results: Results, folder: Path, loop: str, files: list[Path]) -> None:
    """Measure the delay of the event loop during 8 large puts, and ranges of a large and a small object."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        delays: list[float] = []
        with anyio.CancelScope() as watching:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while True:
                        start = time.perf_counter()
                        await anyio.sleep(0.001)
                        delays.append(time.perf_counter() - start - 0.001)

                async def put_all() -> None:
                    async with anyio.create_task_group() as puts:
                        for file in files[:8]:
                            puts.start_soon(repo.put, file)
                    watching.cancel()

                group.start_soon(watch)
                group.start_soon(put_all)
        delays.sort()
        print(f"delay of the loop while 8 puts of 64 MiB run, {loop}")
        results.add(f"delay of the loop, {loop}", "p99", [delays[int(len(delays) * 0.99)]])
        results.add(f"delay of the loop, {loop}", "median", [delays[len(delays) // 2]])
        await ranges(results, repo, folder, loop)


async def ranges(results: Results, repo: DiskRepository, folder: Path, loop: str) -> None:
    """Compare ranges of 4 KiB of a large object with those of a small one."""
    size = 256 if results.quick else 1024
    large = await repo.put(file_of(folder.with_suffix(".large"), size))
    small = await repo.put(file_of(folder.with_suffix(".small"), 1))
    for state in ("loose", "packed"):
        if state == "packed":
            await repo.maintain()
        seconds: dict[str, list[float]] = {f"of {size} MiB": [], "of 1 MiB": []}
        for number in range(200):
            for name, key in zip(seconds, (large, small), strict=True):
                start = time.perf_counter()
                async with repo.open(key, offset=number * 4096, length=4096) as stream:
                    assert len(await stream.read()) == 4096
                seconds[name].append(time.perf_counter() - start)
        print(f"a range of 4 KiB, {state}, {loop}")
        for name, values in seconds.items():
            results.add(f"a range of 4 KiB, {state}, {loop}", name, values)
