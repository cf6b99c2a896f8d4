"""A thousand tasks at once, and one alone, on each loop."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.contestants import AsyncObstore, ContainerPerThread, Floor, PlainFiles, WarmContainer, Zarr
from benchmarks.harness import Results, async_race
from objrepo import DiskRepository

LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
TASKS = 1000


def run(results: Results, folder: Path) -> None:
    """Race on each loop."""
    for loop, options in LOOPS.items():
        anyio.run(functools.partial(on_loop, results, folder / loop, loop), **options)


async def on_loop(results: Results, folder: Path, loop: str) -> None:
    """Race at a thousand gets, has and puts of 1 KiB at once, and at one get alone."""
    contents = [os.urandom(1024) for _ in range(10_000)]
    keys = WarmContainer(folder / "shared").container.add_objects_to_pack(contents, compress=False)
    contestants: dict[str, Any] = {"Container per thread": ContainerPerThread(folder / "shared")}
    if loop != "trio":
        contestants |= {
            "obstore LocalStore async": AsyncObstore(folder / "obstore"),
            "zarr LocalStore": Zarr(folder / "zarr"),
            "files by aiofiles": PlainFiles(folder / "files"),
        }
        for each in list(contestants.values())[1:]:
            for content in contents[:TASKS]:
                await each.put(content)
    rounds = 3 if results.quick else 15
    async with DiskRepository(folder / "shared") as repo:
        contestants = {"objrepo": repo, **contestants}
        notes = {name: getattr(each, "note", "") for name, each in contestants.items()}
        for method in ("get", "has"):
            works = {
                name: functools.partial(together, getattr(each, method), lambda number: keys[:TASKS])
                for name, each in contestants.items()
            }
            await async_race(results, f"{TASKS} × {method} 1 KiB at once, {loop}", works, rounds, TASKS)
        fresh = [[os.urandom(1024) for _ in range(TASKS)] for _ in range(rounds + 1)]
        works = {
            name: functools.partial(together, each.put, lambda number: fresh[number])
            for name, each in contestants.items()
        }
        await async_race(results, f"{TASKS} × put 1 KiB at once, {loop}", works, rounds, TASKS, notes)
        await alone(results, repo, keys, loop)


async def together(do: Callable[[Any], Any], items: Callable[[int], list[Any]], number: int) -> Any:
    """Do something for each item at once; the outcomes come in the order of the items."""
    given = items(number)
    outcomes: list[Any] = [None] * len(given)

    async def one(place: int) -> None:
        outcomes[place] = await do(given[place])

    async with anyio.create_task_group() as group:
        for place in range(len(given)):
            group.start_soon(one, place)
    return outcomes


async def alone(results: Results, repo: DiskRepository, keys: list[str], loop: str) -> None:
    """Race a lone get against a hop in which nothing is done."""
    chosen = random.Random(2).choices(keys, k=5000)
    for_nothing = anyio.to_thread.run_sync

    async def get(number: int) -> None:
        await repo.get(chosen[number])

    async def hop(number: int) -> None:
        await for_nothing(int)

    floor = Floor(repo.path)

    async def row_and_pread(number: int) -> None:
        await for_nothing(floor.get, chosen[number])

    contestants = {"objrepo": get, "a hop for nothing": hop, "a hop for row + pread": row_and_pread}
    await async_race(results, f"a lone get 1 KiB, {loop}", contestants, 300 if results.quick else 2000)
