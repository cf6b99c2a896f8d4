"""The command that prints the script of shell completion: completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


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
