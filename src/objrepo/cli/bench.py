"""The command that measures the speed of a repository: bench."""

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

from objrepo.cli.context import is_json, json_option, print_report
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.reports import Progress, ProgressCallback

_SMALL: Final = 1024
_LARGE: Final = 16 * 1024 * 1024
_CONCURRENT: Final = 100
_MANY: Final = 1000


class _Measurement(NamedTuple):
    """A measurement: ``run`` performs ``times`` operations on ``size`` bytes each."""

    name: str
    label: str
    size: int
    times: int
    run: Callable[[], Awaitable[Any]]


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    show_default=True,
    help="The directory in which a temporary repository is made.",
)
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="The duration of the benchmark."
)
@json_option
def bench(folder: Path, seconds: float) -> None:
    """Measure the speed of a repository on your disk.

    The table has the medians of one process on asyncio, and for comparison the time of writing and fsyncing a plain
    file. Objects are read from the page cache, as they were written just before.

    \b
    objrepo bench
    objrepo bench --folder /mnt/data --seconds 30
    """

    with tempfile.TemporaryDirectory(prefix=".objrepo-bench-", dir=folder) as temporary, reporter() as report:
        rows = anyio.run(_timed, Path(temporary), seconds, report)
    if not is_json():
        click.echo(f"{'':<40}{'each':>12}{'per second':>14}")
    for work, each in rows:
        shown = f"{each * 1e6:,.0f} µs" if each < 0.01 else f"{each * 1e3:,.1f} ms"
        rate = size_of(int(work.size / each)) if work.size > _SMALL else f"{1 / each:,.0f}"
        row = {"work": work.name, "size": work.size, "seconds": each}
        print_report(row, f"{work.label:<40}{shown:>12}{rate:>14}")


async def _timed(folder: Path, seconds: float, report: ProgressCallback) -> list[tuple[_Measurement, float]]:
    from statistics import median  # no other command needs it

    rows = []
    async with DiskRepository(folder / "repository") as repository:
        await repository.initialise()
        measurements = await _measurements(repository, folder / "plain file")
        for number, work in enumerate(measurements, 1):
            durations: list[float] = []
            end = time.monotonic() + seconds / len(measurements)
            while not durations or time.monotonic() < end:
                start = time.perf_counter()
                await work.run()
                durations.append((time.perf_counter() - start) / work.times)
            rows.append((work, median(durations)))
            report(Progress("bench", number, len(measurements), "steps"))
    return rows


async def _measurements(repository: DiskRepository, plain: Path) -> list[_Measurement]:
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

    async def write_in_thread() -> None:
        await anyio.to_thread.run_sync(write_and_fsync)

    def write_and_fsync() -> None:
        with open(plain, "wb", buffering=0) as file:
            file.write(os.urandom(_SMALL))
            os.fsync(file.fileno())

    return [
        _Measurement("write_file", "write and fsync a plain file of 1 KiB", _SMALL, 1, write_in_thread),
        _Measurement("put", "put 1 KiB, sequentially", _SMALL, 1, put),
        _Measurement(
            "put_concurrent", f"put 1 KiB, {_CONCURRENT} concurrently", _SMALL, _CONCURRENT, lambda: _concurrently(put)
        ),
        _Measurement("put_many", f"put_many, {_MANY:,} of 1 KiB", _SMALL, _MANY, put_many),
        _Measurement("get", "get 1 KiB, sequentially", _SMALL, 1, get),
        _Measurement(
            "get_concurrent", f"get 1 KiB, {_CONCURRENT} concurrently", _SMALL, _CONCURRENT, lambda: _concurrently(get)
        ),
        _Measurement("has", "has, sequentially", 0, 1, lambda: repository.has(small)),
        _Measurement("put_large", "put 16 MiB", _LARGE, 1, lambda: repository.put(os.urandom(_LARGE))),
        _Measurement("open_large", "open and read 16 MiB", _LARGE, 1, get_large),
    ]


async def _concurrently(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(_CONCURRENT):
            group.start_soon(function)
