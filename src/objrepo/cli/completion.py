"""What a shell completes: commands, options, and keys of the repository; and the command that switches it on."""

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

__all__ = ("complete_key", "completion")

_SHOWN: Final = 50
_LOOKED_AT: Final = 100_000
"""After how many keys a completion gives up: nobody waits longer for one."""


def complete_key(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return some keys that begin as what is typed does; none where that takes a network, or fails."""
    from objrepo.archive import ArchiveRepository

    del parameter
    try:
        repository = open_repository(context.params.get("repo") or os.environ.get("OBJREPO") or ".objrepo", Inline())
        if not isinstance(repository, DiskRepository | ArchiveRepository):
            return []
        return [CompletionItem(key) for key in InPlace().call(lambda: _keys(repository, incomplete))]
    except (RepositoryError, OSError, ValueError):
        return []


async def _keys(repository: Any, start: str) -> list[str]:
    found: list[str] = []
    async with repository:
        looked_at = 0
        async for key in repository.keys():
            looked_at += 1
            if key.startswith(start):
                found.append(key)
            if len(found) == _SHOWN or looked_at == _LOOKED_AT:
                break
    return found


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that has a shell complete your words.

    That is commands, options, files, and keys of a repository on disk.

    \b
    eval "$(objrepo completion bash)"              # in ~/.bashrc
    objrepo completion fish > ~/.config/fish/completions/objrepo.fish
    """
    made_by = get_completion_class(shell)
    assert made_by is not None, "click knows those three"
    root = click.get_current_context().find_root().command
    click.echo(made_by(root, {}, "objrepo", "_OBJREPO_COMPLETE").source())
