"""Thousands of tasks use one repository for a long time: memory, open files and latency stay constant.

    python tests/crash/soak.py [--seconds N] [--tasks N] [--loop asyncio|trio] [--plot soak.png]

They are sampled once a second and plotted; the last quarter of the samples is compared with the second one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from objrepo import DiskRepository, ObjectNotFoundError, RepositoryBusyError

KEPT_KEYS = 20_000
OPERATIONS_A_SECOND = 300
MAX_FILES = 450
MAX_MEMORY = 400 * 1024 * 1024
MAX_GROWTH = 48 * 1024 * 1024
STEADY_AFTER = 60
"""Seconds after which the samples can be compared."""


class Soak:
    """Mixed operations by many tasks, and the samples."""

    def __init__(self, repo: DiskRepository, tasks: int) -> None:
        self.repo = repo
        self.pause = 2 * tasks / OPERATIONS_A_SECOND
        self.keys: list[str] = []
        self.latencies: list[float] = []
        self.samples: list[tuple[float, int, int, float, int]] = []
        self.done = 0

    def content(self) -> bytes:
        return os.urandom(16) * random.choice([1, 60, 60, 60, 5000])

    def some_key(self) -> str:
        return random.choice(self.keys)

    async def put(self) -> None:
        self.keys.append(await self.repo.put(self.content()))

    async def put_many(self) -> None:
        self.keys += await self.repo.put_many([self.content() for _ in range(10)])

    async def put_in_batch(self) -> None:
        async with self.repo.batch() as batch:
            keys = [await batch.put(self.content()) for _ in range(10)]
        self.keys += keys

    async def get(self) -> None:
        await self.repo.get(self.some_key(), check=random.random() < 0.2)

    async def read(self) -> None:
        async with self.repo.open(self.some_key()) as stream:
            async for _ in stream:
                pass

    async def has(self) -> None:
        await self.repo.has_many([self.some_key() for _ in range(5)])

    async def stream(self) -> None:
        async with self.repo.stream(self.some_key() for _ in range(20)) as objects:
            async for _, stream in objects:
                await stream.read()

    async def cancel(self) -> None:
        with anyio.move_on_after(random.uniform(0, 0.01)):
            await random.choice([self.put, self.put_in_batch, self.get, self.read, self.stream])()

    async def task(self, until: float) -> None:
        """Do random operations."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            *[self.put, self.put_many, self.put_in_batch, self.cancel, self.read, self.stream],
            *[self.get, self.has] * 3,
        ]
        while time.monotonic() < until:
            await anyio.sleep(max(min(random.uniform(0, self.pause), until - time.monotonic()), 0))
            start = time.perf_counter()
            with contextlib.suppress(ObjectNotFoundError):  # it was deleted meanwhile
                await random.choice(kinds)()
            self.latencies.append(time.perf_counter() - start)
            self.done += 1

    async def keep_small(self, until: float) -> None:
        """Delete excess objects, and maintain the repository."""
        while time.monotonic() < until:
            await anyio.sleep(1)
            random.shuffle(self.keys)
            extraneous, self.keys = self.keys[KEPT_KEYS:], self.keys[:KEPT_KEYS]
            try:
                await self.repo.delete_many(extraneous)
                await self.repo.maintain(timeout=5)
            except RepositoryBusyError:
                self.keys += extraneous
            except ObjectNotFoundError as error:
                self.keys += [key for key in extraneous if key not in error.keys]

    async def measure(self, until: float) -> None:
        """Sample memory, open files, latency and the number of objects."""
        start = time.monotonic()
        while time.monotonic() < until:
            await anyio.sleep(1)
            latencies, self.latencies = sorted(self.latencies), []
            p99 = latencies[len(latencies) * 99 // 100] if latencies else 0.0
            memory = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
            files = len(os.listdir("/proc/self/fd"))
            self.samples.append((time.monotonic() - start, memory, files, p99, len(self.keys)))


async def soak(folder: Path, seconds: float, tasks: int) -> Soak:
    """Run all tasks."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        work = Soak(repo, tasks)
        work.keys += await repo.put_many(os.urandom(900) for _ in range(KEPT_KEYS))
        until = time.monotonic() + seconds
        async with anyio.create_task_group() as group:
            group.start_soon(work.measure, until)
            group.start_soon(work.keep_small, until)
            for _ in range(tasks):
                group.start_soon(work.task, until)
        report = await repo.verify()
        assert report.damaged == (), report.damaged
    return work


def draw(samples: list[tuple[float, int, int, float, int]], path: Path) -> None:
    """Plot the samples."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    times, memory, files, latency, _ = zip(*samples, strict=True)
    figure, axes = pyplot.subplots(3, sharex=True, figsize=(8, 7))
    for axis, values, title in (
        (axes[0], [value / 2**20 for value in memory], "memory, MiB"),
        (axes[1], files, "open files"),
        (axes[2], [value * 1e3 for value in latency], "p99 latency, ms"),
    ):
        axis.plot(times, values)
        axis.set_ylim(bottom=0)
        axis.set_title(title)
    axes[2].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        work = anyio.run(soak, Path(root) / "repository", arguments.seconds, arguments.tasks, backend=arguments.loop)
    samples = work.samples
    quarter = max(len(samples) // 4, 1)
    before, after = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    memory = [statistics.median(sample[1] for sample in some) for some in (before, after)]
    files = max(sample[2] for sample in samples)
    latency = [statistics.median(sample[3] for sample in some) for some in (before, after)]
    print(
        f"{work.done} operations of {arguments.tasks} tasks in {arguments.seconds:.0f} s: "
        f"memory {memory[0] / 2**20:.0f} MiB, then {memory[1] / 2**20:.0f} MiB; at most {files} open files; "
        f"p99 {latency[0] * 1e3:.0f} ms, then {latency[1] * 1e3:.0f} ms"
    )
    if arguments.plot is not None:
        draw(samples, arguments.plot)
    steady = len(samples) < STEADY_AFTER or (memory[1] < memory[0] + MAX_GROWTH and latency[1] < 3 * latency[0] + 0.1)
    bounded = files < MAX_FILES and max(sample[1] for sample in samples) < MAX_MEMORY
    sys.exit(0 if bounded and steady else 1)


if __name__ == "__main__":
    main()
