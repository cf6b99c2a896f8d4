"""Races: contestants take turns at the same work in one process, so that a machine whose speed drifts slows all of them."""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figure:
    """What one contestant took for one kind of work: seconds an operation, median and quartiles of the rounds."""

    work: str
    contestant: str
    median: float
    low: float
    high: float
    rounds: int
    note: str = ""


@dataclass
class Results:
    """All figures of one run."""

    quick: bool
    figures: list[Figure] = field(default_factory=list)

    def add(self, work: str, contestant: str, seconds: list[float], note: str = "") -> None:
        """Add the rounds of a contestant."""
        low, median, high = quartiles(seconds)
        self.figures.append(Figure(work, contestant, median, low, high, len(seconds), note))
        print(f"  {contestant:<34}{show(median):>12}   {show(low)} to {show(high)}  {note}", flush=True)

    def of(self, work: str, contestant: str) -> float:
        """Return a median."""
        return next(each.median for each in self.figures if (each.work, each.contestant) == (work, contestant))

    def works(self) -> list[str]:
        """Name the kinds of work, in their order."""
        return list(dict.fromkeys(each.work for each in self.figures))

    def as_json(self) -> dict[str, Any]:
        """Return what is written to the file."""
        return {"quick": self.quick, "figures": [asdict(each) for each in self.figures]}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def show(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def race(
    results: Results,
    work: str,
    contestants: dict[str, Callable[[int], Any]],
    rounds: int,
    operations: int = 1,
    notes: dict[str, str] | None = None,
) -> None:
    """Have contestants do the same work in turns, and check that all came to the same result.

    :param contestants: by name, what does the work of one round; what it returns is compared.
    :param operations: how many operations one round is.
    """
    print(work, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for name, do in contestants.items():
        do(-1)  # not counted: imports, opens, warms up
        del name
    gc.collect()
    for number in range(rounds):
        outcomes = set()
        for name, do in contestants.items():
            start = time.perf_counter()
            outcome = do(number)
            seconds[name].append((time.perf_counter() - start) / operations)
            outcomes.add(digest(outcome))
        assert len(outcomes - {None}) <= 1, f"{work}: the contestants came to different results"
    for name, values in seconds.items():
        results.add(work, name, values, (notes or {}).get(name, ""))


async def async_race(
    results: Results,
    work: str,
    contestants: dict[str, Callable[[int], Awaitable[Any]]],
    rounds: int,
    operations: int = 1,
    notes: dict[str, str] | None = None,
) -> None:
    """Do the same with contestants that are awaited."""
    print(work, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for do in contestants.values():
        await do(-1)
    gc.collect()
    for number in range(rounds):
        outcomes = set()
        for name, do in contestants.items():
            start = time.perf_counter()
            outcome = await do(number)
            seconds[name].append((time.perf_counter() - start) / operations)
            outcomes.add(digest(outcome))
        assert len(outcomes - {None}) <= 1, f"{work}: the contestants came to different results"
    for name, values in seconds.items():
        results.add(work, name, values, (notes or {}).get(name, ""))


def digest(outcome: Any) -> Any:
    """Return something small that is equal for equal outcomes."""
    if isinstance(outcome, bytes):
        return hashlib.sha256(outcome).digest()
    if isinstance(outcome, list | set):
        return hashlib.sha256("".join(sorted(map(repr, outcome))).encode()).digest()
    return outcome
