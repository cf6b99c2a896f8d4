"""What commands share: options, the repository, and how results and errors are printed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

import anyio
import click

from objrepo.errors import RepositoryError, with_path
from objrepo.offload import Inline, Offload, Threads
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, VerifyReport
from objrepo.sync.runner import InPlace
from objrepo.url import open_repository

P = ParamSpec("P")
CommandT = TypeVar("CommandT", bound=Callable[..., Any] | click.Command)
CommandBody = Callable[Concatenate[AsyncRepository, P], Awaitable[int | None]]


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a flag for the whole command, whether it is before or after the name of the command."""
    context.meta[f"objrepo.{parameter.name}"] = value or context.meta.get(f"objrepo.{parameter.name}", False)


def is_json() -> bool:
    """Say whether the command is to print JSON."""
    return bool(click.get_current_context().meta.get("objrepo.json"))


def is_quiet() -> bool:
    """Say whether the command is to print neither progress nor a summary."""
    return bool(click.get_current_context().meta.get("objrepo.quiet"))


def _repository(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    del parameter
    given = context.find_root().params.get("repo") if value is None else value
    if given == "":
        raise click.UsageError("--repo is empty: give a directory or a URL")
    if chosen := given or os.environ.get("OBJREPO"):
        return os.path.expanduser(chosen)  # noqa: PTH111  (it may be a URL); a shell leaves ~ as it is in --repo=~/PATH
    return ".objrepo" if context.info_name == "init" else _search(context)


def _search(context: click.Context) -> str:
    """Return the repository in this directory or in the nearest one above that has one, as git does."""
    here = Path.cwd()
    for folder in here.parents:
        if (here / ".objrepo").exists():
            break
        found = folder / ".objrepo"
        if (found / "config.json").exists():
            if hasattr(os, "getuid") and found.stat().st_uid != os.getuid():
                raise click.UsageError(f"{found} belongs to another user: to use it, give --repo {found}")
            if not context.resilient_parsing:
                note(f"repository {found}")
            return str(found)
    return ".objrepo"


class OptionDecorator(Protocol):
    """Adds an option to a command, or to the function that becomes one."""

    def __call__(self, command: CommandT, /) -> CommandT: ...


repo_option: OptionDecorator = click.option(
    "--repo",
    callback=_repository,
    show_default="$OBJREPO, else .objrepo here or above",
    help="The repository: a directory or a URL, such as zip:PATH.",
)
json_option: OptionDecorator = click.option(
    "--json", "json", is_flag=True, expose_value=False, callback=_remember, help="Print JSON, for scripts."
)
quiet_option: OptionDecorator = click.option(
    "-q", "--quiet", is_flag=True, is_eager=True, expose_value=False, callback=_remember, help="Print no progress."
)
dry_run_option: OptionDecorator = click.option(
    "--dry-run", is_flag=True, help="Change nothing, and print what would be done."
)
no_check_option: OptionDecorator = click.option(
    "--no-check", is_flag=True, help="Do not compare what is read with the key, which takes time."
)
timeout_option: OptionDecorator = click.option(
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


def location_of(repository: AsyncRepository) -> str:
    """Return what --repo takes for the repository of the command: the path on disk, else what the user gave."""
    return str(getattr(repository, "path", None) or click.get_current_context().params["repo"])


def standard_input() -> BinaryIO:
    """Return standard input, which one argument or option of a command may name.

    :raises click.ClickException: if it is closed.
    :raises click.UsageError: if it was returned before.
    """
    if click.get_current_context().meta.setdefault("objrepo.stdin", True) is False:
        raise click.UsageError("standard input can be read only once: give - only once")
    click.get_current_context().meta["objrepo.stdin"] = False
    if sys.stdin is None:
        raise click.ClickException("standard input is closed")
    return sys.stdin.buffer


def print_report(report: Any, *lines: str, end: str = "\n") -> None:
    """Print a result: with --json as one line of JSON, in which there may be dataclasses, else as lines of text."""
    if is_json():
        lines, end = (json.dumps(report, default=dataclasses.asdict),), "\n"
    with with_path("standard output"):
        for line in lines:
            # Bytes of file names that are not UTF-8 are printed as they are.
            click.echo(f"{line}{end}".encode(errors="surrogateescape"), nl=False)


def damaged_lines(report: CopyReport | VerifyReport) -> list[str]:
    """Return a line for each damaged object."""
    return [f"{damaged.key}  {damaged.reason}" for damaged in report.damaged]


def note(text: str) -> None:
    """Print a line on standard error, unless --quiet is given."""
    if not is_quiet():
        click.echo(f"objrepo: {text}", err=True)


def error_text(error: Exception) -> str:
    """Return the message of an error in one line, with its type if the error is unexpected."""
    if isinstance(error, click.ClickException):
        return error.message
    if isinstance(error, OSError) and not isinstance(error, RepositoryError) and error.strerror:
        return error.strerror if error.filename is None else f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if text and isinstance(error, RepositoryError | OSError | ValueError):
        return text
    return f"{type(error).__name__}: {text} (set OBJREPO_TRACEBACK=1 for the traceback)"


class Failures:
    """Prints the errors of single files or objects, after which a command goes on.

    :ivar status: the exit status of the command: 1 after an error.
    """

    def __init__(self, silent: bool = False) -> None:
        self.status: int = 0
        self._silent = silent

    def __call__(self, error: Exception | str) -> None:
        """Print an error."""
        self.status = 1
        self.warn(error if isinstance(error, str) else error_text(error))

    def warn(self, text: str) -> None:
        """Print a line that does not change the exit status."""
        if not self._silent:
            click.echo(f"objrepo: {text}", err=True)
