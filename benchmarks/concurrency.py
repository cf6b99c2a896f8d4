"""A thousand concurrent tasks, and a single one, on each event loop."""

from __future__ import annotations

import functools
import os
import random
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
    """Compare a single get with an empty thread call."""
    chosen = random.Random(2).choices(keys, k=5000)
    run_sync = anyio.to_thread.run_sync

    async def get(number: int) -> None:
        await repo.get(chosen[number])

    async def empty_call(number: int) -> None:
        await run_sync(int)

    lower_bound = LowerBound(repo.path)

    async def row_and_pread(number: int) -> None:
        await run_sync(lower_bound.get, chosen[number])

    implementations = {
        "objrepo": get,
        "an empty thread call": empty_call,
        "row + pread in a thread call": row_and_pread,
    }
    await compare_async(results, f"a single get 1 KiB, {loop}", implementations, 300 if results.quick else 2000)
