"""The command `objrepo`, for use at a terminal and in shell scripts."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

import click

import objrepo
from objrepo.cli.context import error_text, quiet_option
from objrepo.errors import with_path

__all__ = ("command", "run")


class _Interrupted(BaseException):
    """Stands for a KeyboardInterrupt, for which click would print an empty line."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(objrepo.__version__, "-V", "--version", prog_name="objrepo")
@click.option("--repo", help="The repository, as after the command.")
@quiet_option
@click.pass_context
def command(context: click.Context, repo: str | None) -> None:
    """Store files as objects, and read them by their keys.

    The repository is --repo PATH or URL, else $OBJREPO, else .objrepo in this directory or in the nearest one above.

    Exit status: 0 success, 1 failure or not found, 2 invalid usage; after a signal 128 and its number, such as 130 for
    Ctrl-C.
    """
    chosen = command.commands.get(context.invoked_subcommand or "")
    if repo is not None and chosen is not None and all(each.name != "repo" for each in chosen.params):
        raise click.UsageError(f"`objrepo {chosen.name}` takes no --repo: see `objrepo {chosen.name} --help`")


def _add_commands() -> None:
    for module in iter_modules(__path__):
        for each in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(each, click.Command):
                command.add_command(quiet_option(each))


_add_commands()


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; an error is printed in one line.

    :raises KeyboardInterrupt: if a signal ends the command.
    """
    if sys.stdout is None:
        click.echo("objrepo: standard output is closed", err=True)
        return 1
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not hasattr(record, "is_reported"))  # the command prints its report
    handler.addFilter(lambda record: not record.name.startswith("azure."))  # paragraphs about what the error says
    logging.basicConfig(format="objrepo: %(message)s", handlers=[handler])
    try:
        status = int(command.main(list(arguments), prog_name="objrepo", standalone_mode=False) or 0)
        with with_path("standard output"):
            sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except (_Interrupted, click.Abort):
        raise KeyboardInterrupt from None
    except Exception as error:
        if "OBJREPO_TRACEBACK" in os.environ:
            raise
        status = 1
        if not isinstance(error, BrokenPipeError):  # the reader of the output has seen enough
            click.echo(f"objrepo: {_in_terms_of_commands(error_text(error))}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter flushes it again at exit, which must not fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


_PHRASES: Final = (
    (
        r"(?:call|create one with) `?initialise\(\)`?(?: first| or `objrepo init`)?",
        "run `objrepo init`",
    ),
    (r"delete the rest with `erase\(\)`", "delete its directory"),
    (r"`repair\(live=False\)` or ", ""),
    (r"pass anonymous=True", "add ?anonymous=1 to the URL"),
    (r"pass account,", "add ?account=NAME to the URL,"),
)
"""What messages for programs say, and what it is at the command line."""


def _in_terms_of_commands(text: str) -> str:
    """Replace methods and parameters in a message by commands and options, such as ``live=False`` by --not-live."""
    parameters = (each for one in command.commands.values() for each in one.params)
    options = {each.name: each for each in parameters if isinstance(each, click.Option)}

    def as_option(match: re.Match[str]) -> str:
        option, value = options.get(match["name"]), match["value"]
        if option is None or (value is None and "_" not in match["name"]):
            return match[0]
        if value in ("True", "False"):
            return (option.opts if value == "True" else option.secondary_opts or option.opts)[-1]
        return option.opts[-1] if value is None else f"{option.opts[-1]} {value}"

    for pattern, phrase in _PHRASES:
        text = re.sub(pattern, phrase, text)
    return re.sub(r"(?<![\w./?&-])(?P<name>[a-z]+(?:_[a-z]+)*)\b(?![\w./-])(?:='?(?P<value>\w+)'?)?", as_option, text)
