"""Progress on standard error: bars on a terminal, else lines."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from objrepo.cli.context import is_quiet
from objrepo.reports import Progress, count_of, watching_reads

if TYPE_CHECKING:
    import rich.progress

_SILENT_SECONDS: Final = 0.5
_SECONDS_BETWEEN_LINES: Final = 5.0
_LARGE_BYTES: Final = 16 * 1024 * 1024
_WIDE: Final = 80
_KEY_DIGITS: Final = 8


class Reporter:
    """Shows progress: bars on a terminal, else a line every few seconds; nothing in the first half second.

    Several threads may call it.

    :ivar has_shown: whether something was shown.
    """

    def __init__(self) -> None:
        self.has_shown: bool = False
        self._begin = math.inf if is_quiet() else time.monotonic() + _SILENT_SECONDS
        self._next_line = self._begin + _SECONDS_BETWEEN_LINES
        self._lock = threading.Lock()
        self._display: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        if time.monotonic() < self._begin:
            return
        with self._lock:
            display = self._display = self._display or _display()
            task_id = self._tasks.get(progress.step)
            if task_id is None:
                task_id = self._tasks[progress.step] = display.add_task(
                    progress.step, total=progress.total, unit=progress.unit
                )
            display.update(task_id, completed=progress.done, total=progress.total)
            if display.console.is_terminal:
                self.has_shown = True
                display.start()
            elif time.monotonic() >= self._next_line:
                self.has_shown = True
                self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
                click.echo(_line(next(task for task in display.tasks if task.id == task_id)), err=True)

    def read(self, progress: Progress) -> None:
        """Show how far a large object has been read."""
        if progress.total is not None and progress.total >= _LARGE_BYTES:
            key = progress.step[:_KEY_DIGITS]
            self(replace(progress, step=key))
            if progress.done == progress.total and key in self._tasks and self._display is not None:
                with self._lock:
                    self._display.remove_task(self._tasks.pop(key))

    def hide(self) -> None:
        """Remove the bars, so that something can be printed; the next progress shows them again."""
        if self._display is not None and self._display.live.is_started:
            self._display.stop()


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a progress callback. Progress within large objects that are read is shown, too."""
    report = Reporter()
    try:
        with watching_reads(report.read):
            yield report
    finally:
        report.hide()


def _display() -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display
    from rich.table import Column
    from rich.text import Text

    class AmountColumn(ProgressColumn):
        def render(self, task: rich.progress.Task) -> Text:
            return Text(_amount(task, with_total=is_wide))

    console = Console(file=sys.stderr)
    is_wide = console.width >= _WIDE
    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=8)),
        TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True, min_width=4)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        AmountColumn(table_column=one_line),
    ]
    if is_wide:
        columns.insert(1, BarColumn(bar_width=None, table_column=Column(ratio=1)))
    return Display(*columns, console=console, transient=True, expand=True, redirect_stdout=False, redirect_stderr=False)


def _line(task: rich.progress.Task) -> str:
    left = "" if not task.time_remaining else f", {timedelta(seconds=int(task.time_remaining))} left"
    return f"{task.description}: {_amount(task)}{left}"


def _amount(task: rich.progress.Task, with_total: bool = True) -> str:
    done, total, unit = int(task.completed), task.total, task.fields["unit"]
    if unit != "bytes":
        return count_of(done, unit[:-1]) if total is None else f"{done:,} of {count_of(int(total), unit[:-1])}"
    amount = f"{size_of(done)} of {size_of(int(total))}" if with_total and total is not None else size_of(done)
    return f"{amount}, {size_of(int(task.speed))}/s" if task.speed else amount


def size_of(size: int) -> str:
    """Return a number of bytes for people to read, such as ``1.2 MB``."""
    from rich.filesize import decimal

    return decimal(size)
