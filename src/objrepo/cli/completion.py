"""Shell completion of commands, options and keys, and the command that prints its script."""

from __future__ import annotations

import os
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from objrepo.disk import DiskRepository
from objrepo.errors import RepositoryError
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
from objrepo.url import open_repository

__all__ = ("complete_key", "keys_argument")

_MAX_COMPLETIONS: Final = 50
_MAX_KEYS_READ: Final = 100_000
"""A limit on the time that a completion takes in a large repository."""


def complete_key(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return some keys that begin with ``incomplete``; none for repositories on a network, and on errors."""
    from objrepo.archive import ArchiveRepository

    del parameter
    try:
        repository = open_repository(context.params.get("repo") or os.environ.get("OBJREPO") or ".objrepo", Inline())
        if not isinstance(repository, DiskRepository | ArchiveRepository):
            return []
        return [CompletionItem(key) for key in InPlace().call(lambda: _keys(repository, incomplete))]
    except (RepositoryError, OSError, ValueError):
        return []


keys_argument = click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)


async def _keys(repository: Any, start: str) -> list[str]:
    found: list[str] = []
    read = 0
    async with repository:
        async for key in repository.keys():
            read += 1
            if key.startswith(start):
                found.append(key)
            if len(found) == _MAX_COMPLETIONS or read == _MAX_KEYS_READ:
                break
    return found


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that enables completion in a shell.

    It completes commands, options, files, and keys of a repository on disk.

    \b
    eval "$(objrepo completion bash)"              # in ~/.bashrc
    objrepo completion fish > ~/.config/fish/completions/objrepo.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None, "click supports these three shells"
    root = click.get_current_context().find_root().command
    click.echo(complete(root, {}, "objrepo", "_OBJREPO_COMPLETE").source())
