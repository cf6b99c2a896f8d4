"""The command `objrepo`, for a person at a terminal and for shell scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import objrepo
from objrepo.cli import admin, bench, completion, inspect, objects, serve, transfer

__all__ = ("command", "run")

INTERRUPTED = 130
"""What shells report of a program that Ctrl-C has ended."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(objrepo.__version__, prog_name="objrepo")
def command() -> None:
    """Put bytes in, get a key, read them back.

    The repository is --repo PATH or URL, else $OBJREPO, else ./.objrepo.

    Exit status: 0 done, 1 not there or failed, 2 misused, 130 interrupted.
    """


for module in (objects, inspect, admin, transfer, serve, bench, completion):
    for each in vars(module).values():
        if isinstance(each, click.Command):
            command.add_command(each)


def run(arguments: Sequence[str]) -> NoReturn:
    """Run a command line and end the program with its exit status; every error is told in one line."""
    try:
        status = command.main(list(arguments), prog_name="objrepo", standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on; click ends with the same silent 1. The interpreter will flush once more, and must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        if "OBJREPO_TRACEBACK" in os.environ:
            raise
        click.echo(f"objrepo: {one_line(error)}", err=True)
        status = 1
    sys.exit(status)


def one_line(error: Exception) -> str:
    """Return the message of an error, in one line, with its kind where the message alone does not tell."""
    text = " ".join(str(error).split())
    known = isinstance(error, objrepo.RepositoryError | OSError | ValueError)
    return text if known and text else f"{type(error).__name__}: {text} (OBJREPO_TRACEBACK=1 shows where)"
