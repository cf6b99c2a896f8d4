"""The command that times a repository on the user's own disk: bench."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import click

from objrepo.cli.context import as_json, print_json
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.reports import Progress, ProgressCallback

__all__ = ("bench",)

_SMALL: Final = 1024
_LARGE: Final = 16 * 1024 * 1024
_AT_ONCE: Final = 100
_MANY: Final = 1000


class _Work(NamedTuple):
    """What is timed: ``once`` does it ``times`` times, with ``size`` bytes each."""

    name: str
    size: int
    times: int
    once: Callable[[], Awaitable[Any]]


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    show_default=True,
    help="Where to make the repository that is timed; it is removed again.",
)
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="How long to take.")
@as_json
def bench(folder: Path, seconds: float, json_wanted: bool) -> None:
    """Time a repository on your own disk.

    The table has medians, of one process on asyncio, beside the time that a bare file takes to be flushed there. What
    is read was written just before, so the disk itself is not read.

    \b
    objrepo bench
    objrepo bench --folder /mnt/data --seconds 30
    """

    with tempfile.TemporaryDirectory(prefix=".objrepo-bench-", dir=folder) as place, reporter() as report:
        rows = anyio.run(_timed, Path(place), seconds, report)
    if json_wanted:
        for row in rows:
            print_json(row)
        return
    click.echo(f"{'':<40}{'each':>12}{'a second':>14}")
    for row in rows:
        each = row["seconds"]
        shown = f"{each * 1e6:,.0f} µs" if each < 0.01 else f"{each * 1e3:,.1f} ms"
        rate = size_of(int(row["size"] / each)) if row["size"] > _SMALL else f"{1 / each:,.0f}"
        click.echo(f"{row['work']:<40}{shown:>12}{rate:>14}")


async def _timed(folder: Path, seconds: float, report: ProgressCallback) -> list[dict[str, Any]]:
    from statistics import median  # of all commands this one only needs it

    rows = []
    async with DiskRepository(folder / "repository") as repository:
        await repository.initialise()
        works = await _works(repository, folder / "bare file")
        for number, work in enumerate(works, 1):
            turns: list[float] = []
            end = time.monotonic() + seconds / len(works)
            while not turns or time.monotonic() < end:
                start = time.perf_counter()
                await work.once()
                turns.append((time.perf_counter() - start) / work.times)
            rows.append({"work": work.name, "size": work.size, "seconds": median(turns)})
            report(Progress("bench", number, len(works), "steps"))
    return rows


async def _works(repository: DiskRepository, bare: Path) -> list[_Work]:
    small = await repository.put(os.urandom(_SMALL))
    large = await repository.put(os.urandom(_LARGE))

    async def put() -> None:
        await repository.put(os.urandom(_SMALL))

    async def get() -> None:
        await repository.get(small)

    async def get_large() -> None:
        async with repository.open(large) as stream:
            async for _ in stream:
                pass

    async def put_many() -> None:
        await repository.put_many(os.urandom(_SMALL) for _ in range(_MANY))

    def flush() -> None:
        with open(bare, "wb", buffering=0) as file:
            file.write(os.urandom(_SMALL))
            os.fsync(file.fileno())

    return [
        _Work("a bare file of 1 KiB, flushed", _SMALL, 1, lambda: anyio.to_thread.run_sync(flush)),
        _Work("put 1 KiB, one after the other", _SMALL, 1, put),
        _Work(f"put 1 KiB, {_AT_ONCE} at once", _SMALL, _AT_ONCE, lambda: _at_once(put)),
        _Work(f"put_many, {_MANY:,} of 1 KiB", _SMALL, _MANY, put_many),
        _Work("get 1 KiB, one after the other", _SMALL, 1, get),
        _Work(f"get 1 KiB, {_AT_ONCE} at once", _SMALL, _AT_ONCE, lambda: _at_once(get)),
        _Work("has, one after the other", 0, 1, lambda: repository.has(small)),
        _Work("put 16 MiB", _LARGE, 1, lambda: repository.put(os.urandom(_LARGE))),
        _Work("open and read 16 MiB", _LARGE, 1, get_large),
    ]


async def _at_once(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(function)
