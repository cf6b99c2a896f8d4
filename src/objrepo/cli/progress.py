"""Progress on standard error: bars where it is a terminal, lines where it is not."""

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

__all__ = ("Reporter", "reporter", "size_of")

_SECONDS_BETWEEN_LINES: Final = 5.0


class Reporter:
    """Shows progress as lines, one now and then and one for the end of each step; thread-safe enough for one worker."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        """Show how far the work has come."""
        now = time.monotonic()
        if now >= self._next or progress.done == progress.total:
            self._next = now + _SECONDS_BETWEEN_LINES
            click.echo(f"{progress.step}: {_amount(progress)}", err=True)

    def echo(self, line: str) -> None:
        """Print a line of the command's own output; what is no text in a file's name comes out as it is there."""
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
    """Show progress for as long as this is entered: a callback, and a place for the command's own lines."""
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
    show = size_of if progress.unit == "bytes" else "{:,}".format
    if progress.total is None:
        return show(progress.done)
    unit = "" if progress.unit == "bytes" else f" {progress.unit}"
    return f"{show(progress.done)} of {show(progress.total)}{unit}"


def size_of(size: int) -> str:
    """Return a number of bytes as people read it, such as ``1.2 MB``."""
    from rich.filesize import decimal

    return decimal(size)
