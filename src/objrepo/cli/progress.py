"""Progress on standard error: bars on a terminal, else lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from objrepo.reports import Progress

if TYPE_CHECKING:
    import rich.progress

__all__ = ("Reporter", "count_of", "reporter", "size_of")

_SECONDS_BETWEEN_LINES: Final = 5.0


class Reporter:
    """Prints a line of progress every few seconds and at the end of each step. One thread calls it at a time."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        now = time.monotonic()
        if now >= self._next or progress.done == progress.total:
            self._next = now + _SECONDS_BETWEEN_LINES
            click.echo(f"{progress.step}: {_amount(progress)}", err=True)

    def echo(self, line: str) -> None:
        """Print a line of output; bytes of file names that are not UTF-8 are printed as they are."""
        click.echo(line.encode(errors="surrogateescape"))


class _Bars(Reporter):
    def __init__(self, display: rich.progress.Progress) -> None:
        super().__init__()
        self._display = display
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._display.add_task(progress.step, amount="")
        task = self._tasks[progress.step]
        self._display.update(task, completed=progress.done, total=progress.total, amount=_amount(progress))

    def echo(self, line: str) -> None:
        if sys.stdout.isatty():
            self._display.console.out(click.format_filename(line), highlight=False)
        else:
            super().echo(line)


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a progress callback, whose ``echo`` prints a line of output without disturbing the bars."""
    if not sys.stderr.isatty():
        yield Reporter()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with Display(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False
    ) as display:
        yield _Bars(display)


def _amount(progress: Progress) -> str:
    show, unit = (size_of, "") if progress.unit == "bytes" else ("{:,}".format, f" {progress.unit}")
    done = show(progress.done)
    return done if progress.total is None else f"{done} of {show(progress.total)}{unit}"


def size_of(size: int) -> str:
    """Return a number of bytes for people to read, such as ``1.2 MB``."""
    from rich.filesize import decimal

    return decimal(size)


def count_of(number: int, noun: str) -> str:
    """Return a number with a noun, such as ``1 object`` or ``2,000 objects``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
