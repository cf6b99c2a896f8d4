"""The options that commands share, and the decorators that open the repository of a command."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Concatenate, ParamSpec

import anyio
import click

from objrepo.offload import Inline, Offload, Threads
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, VerifyReport
from objrepo.sync.runner import InPlace
from objrepo.url import open_repository

__all__ = (
    "damaged_lines",
    "dry_run_option",
    "json_option",
    "print_result",
    "repo_option",
    "timeout_option",
    "with_repository",
    "with_threaded_repository",
)

P = ParamSpec("P")
CommandBody = Callable[Concatenate[AsyncRepository, P], Awaitable[int | None]]

repo_option = click.option(
    "--repo",
    envvar="OBJREPO",
    default=".objrepo",
    show_default="$OBJREPO, else ./.objrepo",
    help="The repository: a directory or a URL, such as zip:PATH.",
)
json_option = click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing, and print what would be done.")
timeout_option = click.option(
    "--timeout", type=click.FloatRange(0), default=0, help="Seconds to wait for a lock of another process."
)


def with_repository(body: CommandBody[P]) -> Callable[..., int | None]:
    """Make a command of a coroutine function that takes the open repository.

    It runs without an event loop, so that Ctrl-C interrupts blocking calls: on a file, a pipe, the terminal.
    """
    return _command(body, Inline(), lambda main: InPlace().call(main))


def with_threaded_repository(body: CommandBody[P]) -> Callable[..., int | None]:
    """Make a command likewise, which Ctrl-C cancels: its worker threads stop where nothing is left incomplete."""
    return _command(body, Threads(), anyio.run)


def _command(body: CommandBody[P], offload: Offload, run: Callable[[Any], int | None]) -> Callable[..., int | None]:
    @repo_option
    @functools.wraps(body)
    def command(repo: str, *args: P.args, **kwargs: P.kwargs) -> int | None:
        async def main() -> int | None:
            async with open_repository(repo, offload) as repository:
                return await body(repository, *args, **kwargs)

        return run(main)

    return command


def print_result(result: Any, json_wanted: bool, lines: Iterable[str]) -> None:
    """Print a result, in which there may be dataclasses, as one line of JSON, or the lines that describe it."""
    for line in (json.dumps(result, default=dataclasses.asdict),) if json_wanted else lines:
        click.echo(line)


def damaged_lines(report: CopyReport | VerifyReport) -> list[str]:
    """Return a line for each damaged object."""
    return [f"{damaged.key}  {damaged.reason}" for damaged in report.damaged]
