"""How a command meets its repository: the options that all commands share, and how its coroutine is run."""

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

__all__ = ("as_json", "damaged_lines", "gracefully", "on_repository", "print_json", "print_report", "repo_option")

P = ParamSpec("P")
CommandBody = Callable[Concatenate[AsyncRepository, P], Awaitable[int | None]]

repo_option = click.option(
    "--repo",
    envvar="OBJREPO",
    default=".objrepo",
    show_default="$OBJREPO, else ./.objrepo",
    help="The repository: its folder, or a URL such as zip:PATH.",
)
as_json = click.option("--json", "json_wanted", is_flag=True, help="Print JSON, for programs to read.")


def on_repository(body: CommandBody[P]) -> Callable[..., int | None]:
    """Make a command of a coroutine function that is given the open repository.

    It runs without a loop, so that Ctrl-C reaches whatever is blocked just then: a file, a pipe, the terminal.
    """
    return _command(body, Inline(), lambda whole: InPlace().call(whole))


def gracefully(body: CommandBody[P]) -> Callable[..., int | None]:
    """Make a command likewise, but of one that Ctrl-C asks to end where it has left nothing half-done."""
    return _command(body, Threads(), anyio.run)


def _command(body: CommandBody[P], offload: Offload, run: Callable[[Any], int | None]) -> Callable[..., int | None]:
    @repo_option
    @functools.wraps(body)
    def command(repo: str, *args: P.args, **kwargs: P.kwargs) -> int | None:
        async def whole() -> int | None:
            async with open_repository(repo, offload) as repository:
                return await body(repository, *args, **kwargs)

        return run(whole)

    return command


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value))


def print_report(report: Any, json_wanted: bool, lines: Iterable[str]) -> None:
    """Print the fields of a report as JSON, or the lines that describe it."""
    if json_wanted:
        print_json(dataclasses.asdict(report))
        return
    for line in lines:
        click.echo(line)


def damaged_lines(report: CopyReport | VerifyReport) -> list[str]:
    """Return a line for each damaged object."""
    return [f"{damaged.key}  {damaged.reason}" for damaged in report.damaged]
