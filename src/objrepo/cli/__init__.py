"""The command `objrepo`, for use at a terminal and in shell scripts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

import click

import objrepo

__all__ = ("command", "run")

INTERRUPTED = 130
"""The exit status that shells report for a program ended by Ctrl-C."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(objrepo.__version__, prog_name="objrepo")
def command() -> None:
    """Store files as objects, and read them by their keys.

    The repository is --repo PATH or URL, else $OBJREPO, else ./.objrepo.

    Exit status: 0 success, 1 failure or not found, 2 invalid usage, 130 interrupted.
    """


for module in iter_modules(__path__):
    for each in vars(import_module(f"{__name__}.{module.name}")).values():
        if isinstance(each, click.Command):
            command.add_command(each)


def run(arguments: Sequence[str]) -> NoReturn:
    """Run a command line and exit with its status; an error is printed in one line."""
    try:
        status = command.main(list(arguments), prog_name="objrepo", standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has closed it. The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        if "OBJREPO_TRACEBACK" in os.environ:
            raise
        click.echo(f"objrepo: {one_line(error)}", err=True)
        status = 1
    sys.exit(status)


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, with its type if the error is unexpected."""
    text = " ".join(str(error).split())
    if text and isinstance(error, objrepo.RepositoryError | OSError | ValueError):
        return _in_terms_of_commands(text)
    return f"{type(error).__name__}: {text} (set OBJREPO_TRACEBACK=1 for the traceback)"


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

    call = r"(?:call |\w+ one with )?`?(?:await )?(?:\w+\.)?initialise\(\)`?(?: or `objrepo init`)?"
    text = re.sub(call, "run `objrepo init`", text)
    return re.sub(r"(?<![\w./?&-])(?P<name>[a-z]+(?:_[a-z]+)*)\b(?![\w./-])(?:='?(?P<value>\w+)'?)?", as_option, text)
