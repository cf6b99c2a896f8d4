"""Comparisons: implementations alternate in one process, so that changes of the speed of the machine affect all of them."""

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
    """Seconds per operation of one implementation: median and quartiles of the rounds."""

    work: str
    implementation: str
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

    def add(self, work: str, implementation: str, seconds: list[float], note: str = "") -> None:
        """Add the rounds of a implementation."""
        low, median, high = quartiles(seconds)
        self.figures.append(Figure(work, implementation, median, low, high, len(seconds), note))
        print(f"  {implementation:<34}{show(median):>12}   {show(low)} to {show(high)}  {note}", flush=True)

    def of(self, work: str, implementation: str) -> float:
        """Return a median."""
        return next(each.median for each in self.figures if (each.work, each.implementation) == (work, implementation))

    def works(self) -> list[str]:
        """Return the kinds of work in order."""
        return list(dict.fromkeys(each.work for each in self.figures))

    def as_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        return {"quick": self.quick, "figures": [asdict(each) for each in self.figures]}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def show(seconds: float) -> str:
    """Return a time for people to read."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def compare(
    results: Results,
    work: str,
    implementations: dict[str, Callable[[int], Any]],
    rounds: int,
    operations: int = 1,
    notes: dict[str, str] | None = None,
) -> None:
    """Run implementations of the same work alternately, and check that their results are equal.

    :param implementations: by name, a function that does one round of the work and returns its result.
    :param operations: the number of operations in a round.
    """
    print(work, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for name, do in implementations.items():
        do(-1)  # not counted: it imports, opens and warms up
        del name
    settle()
    for number in range(rounds):
        outcomes = set()
        for name, do in implementations.items():
            start = time.perf_counter()
            outcome = do(number)
            seconds[name].append((time.perf_counter() - start) / operations)
            outcomes.add(digest(outcome))
        assert len(outcomes - {None}) <= 1, f"{work}: the results of the implementations differ"
    for name, values in seconds.items():
        results.add(work, name, values, (notes or {}).get(name, ""))


def settle() -> None:
    """Exclude what has been imported from garbage collections, each of which would take 0.1 s of some round."""
    gc.collect()
    gc.freeze()


async def compare_async(
    results: Results,
    work: str,
    implementations: dict[str, Callable[[int], Awaitable[Any]]],
    rounds: int,
    operations: int = 1,
    notes: dict[str, str] | None = None,
) -> None:
    """Do the same with async functions."""
    print(work, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for do in implementations.values():
        await do(-1)
    settle()
    for number in range(rounds):
        outcomes = set()
        for name, do in implementations.items():
            start = time.perf_counter()
            outcome = await do(number)
            seconds[name].append((time.perf_counter() - start) / operations)
            outcomes.add(digest(outcome))
        assert len(outcomes - {None}) <= 1, f"{work}: the results of the implementations differ"
    for name, values in seconds.items():
        results.add(work, name, values, (notes or {}).get(name, ""))


def digest(outcome: Any) -> Any:
    """Return a small value that is equal for equal outcomes."""
    if isinstance(outcome, bytes):
        return hashlib.sha256(outcome).digest()
    if isinstance(outcome, list | set):
        return hashlib.sha256("".join(sorted(map(repr, outcome))).encode()).digest()
    return outcome
