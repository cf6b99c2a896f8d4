"""A thousand concurrent tasks, and a single one, on each event loop."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.harness import Results, compare_async
from benchmarks.implementations import AsyncObstore, ContainerPerThread, LowerBound, PlainFiles, WarmContainer, Zarr
from objrepo import DiskRepository

LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
TASKS = 1000


def run(results: Results, folder: Path) -> None:
    """Measure on each event loop."""
    for loop, options in LOOPS.items():
        anyio.run(functools.partial(on_loop, results, folder / loop, loop), **options)


async def on_loop(results: Results, folder: Path, loop: str) -> None:
    """Measure 1,000 concurrent gets, has and puts of 1 KiB, and single gets."""
    contents = [os.urandom(1024) for _ in range(10_000)]
    keys = WarmContainer(folder / "shared").container.add_objects_to_pack(contents, compress=False)
    implementations: dict[str, Any] = {"Container per thread": ContainerPerThread(folder / "shared")}
    if loop != "trio":
        implementations |= {
            "obstore LocalStore async": AsyncObstore(folder / "obstore"),
            "zarr LocalStore": Zarr(folder / "zarr"),
            "files by aiofiles": PlainFiles(folder / "files"),
        }
        for each in list(implementations.values())[1:]:
            for content in contents[:TASKS]:
                await each.put(content)
    rounds = 3 if results.quick else 15
    async with DiskRepository(folder / "shared") as repo:
        implementations = {"objrepo": repo, **implementations}
        notes = {name: getattr(each, "note", "") for name, each in implementations.items()}
        for method in ("get", "has"):
            works = {
                name: functools.partial(concurrently, getattr(each, method), lambda number: keys[:TASKS])
                for name, each in implementations.items()
            }
            await compare_async(results, f"{TASKS} × {method} 1 KiB at once, {loop}", works, rounds, TASKS)
        fresh = [[os.urandom(1024) for _ in range(TASKS)] for _ in range(rounds + 1)]
        works = {
            name: functools.partial(concurrently, each.put, lambda number: fresh[number])
            for name, each in implementations.items()
        }
        await compare_async(results, f"{TASKS} × put 1 KiB at once, {loop}", works, rounds, TASKS, notes)
        await single_gets(results, repo, keys, loop)


async def concurrently(do: Callable[[Any], Any], items: Callable[[int], list[Any]], number: int) -> Any:
    """Call a function for all items concurrently; return the results in the order of the items."""
    given = items(number)
    outcomes: list[Any] = [None] * len(given)

    async def one(index: int) -> None:
        outcomes[index] = await do(given[index])

    async with anyio.create_task_group() as group:
        for index in range(len(given)):
            group.start_soon(one, index)
    return outcomes


async def single_gets(results: Results, repo: DiskRepository, keys: list[str], loop: str) -> None:
    """Compare gets, one after the other, with empty thread calls. A round has 20, as one is too short to be timed."""
    rounds = 20 if results.quick else 100
    read_before, first_read = keys[:100], keys[TASKS:]
    for key in read_before * 2:
        await repo.get(key)
    run_sync = anyio.to_thread.run_sync
    lower_bound = LowerBound(repo.path)

    async def get_again(number: int) -> None:
        for index in range(20):
            await repo.get(read_before[(number * 20 + index) % 100])

    async def get_first(number: int) -> None:
        for key in first_read[number * 20 + 20 : number * 20 + 40]:
            await repo.get(key)

    async def empty_call(number: int) -> None:
        for _ in range(20):
            await run_sync(int)

    async def row_and_pread(number: int) -> None:
        for key in first_read[number * 20 + 20 : number * 20 + 40]:
            await run_sync(lower_bound.get, key)

    implementations = {
        "objrepo, read before": get_again,
        "objrepo, first read": get_first,
        "an empty thread call": empty_call,
        "row + pread in a thread call": row_and_pread,
    }
    await compare_async(results, f"a single get 1 KiB, {loop}", implementations, rounds, 20)
    await delay_of_loop(results, repo, read_before, loop)


async def delay_of_loop(results: Results, repo: DiskRepository, keys: list[str], loop: str) -> None:
    """Measure how late a task is woken while another one does nothing but read, with and without the page cache."""
    for state in ("in the page cache", "not in the page cache"):
        delays: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_for_ever, repo, keys, state == "not in the page cache")
            for _ in range(100 if results.quick else 500):
                start = time.perf_counter()
                await anyio.sleep(0.001)
                delays.append(time.perf_counter() - start - 0.001)
            tasks.cancel_scope.cancel()
        delays.sort()
        print(f"delay of the loop while packed objects are read again, {state}, {loop}", flush=True)
        results.add(f"delay of the loop, reads {state}, {loop}", "p99", [delays[int(len(delays) * 0.99)]])
        results.add(f"delay of the loop, reads {state}, {loop}", "median", [delays[len(delays) // 2]])


async def read_for_ever(repo: DiskRepository, keys: list[str], evict: bool) -> None:
    """Read objects again and again; before each round, drop their packs from the page cache if that is asked for."""
    packs = [os.open(path, os.O_RDONLY) for path in (repo.path / "packs").iterdir() if path.name.isdigit()]
    try:
        while True:
            for pack in packs if evict else ():
                await anyio.to_thread.run_sync(os.posix_fadvise, pack, 0, 0, os.POSIX_FADV_DONTNEED)
            for key in keys:
                await repo.get(key)
    finally:
        for pack in packs:
            os.close(pack)
