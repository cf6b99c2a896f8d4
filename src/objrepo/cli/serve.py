"""The command that runs a web server: serve."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import anyio
import click

from objrepo.cli.context import repo_option
from objrepo.offload import Threads
from objrepo.protocol import AsyncRepository
from objrepo.url import open_repository


@click.command()
@repo_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 selects a free one."
)
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A file with the token."
)
@click.option("--max-bytes", type=click.IntRange(1), help="The maximum size of an upload.")
def serve(repo: str, host: str, port: int, token_file: Path | None, max_bytes: int | None) -> int:
    """Serve objects over HTTP.

    Clients that send the token may store and delete objects. The token is read from --token-file or $OBJREPO_TOKEN;
    without one the server is read-only. Ctrl-C shuts it down after the running requests, or after ten seconds.

    \b
    objrepo serve --port 8080
    OBJREPO_TOKEN=secret objrepo serve --host 0.0.0.0
    """
    try:
        import uvicorn

        from objrepo.asgi import ObjectApp
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'objrepo[serve]'") from None
    token = os.environ.get("OBJREPO_TOKEN") if token_file is None else token_file.read_text(encoding="utf-8").strip()
    if token is not None and not token.strip():
        raise click.UsageError(f"{token_file or '$OBJREPO_TOKEN'} is empty: for a read-only server give no token")
    if token is None and not _is_loopback(host):
        raise click.UsageError(f"--host {host} needs a token: set OBJREPO_TOKEN, or give --token-file")
    repository = open_repository(repo, Threads())
    anyio.run(_require_initialised, repository)
    app = ObjectApp(repository, token=token, max_bytes=max_bytes)
    try:
        uvicorn.run(app, host=host, port=port, timeout_graceful_shutdown=10, server_header=False)
    except SystemExit:  # uvicorn has logged why it cannot start, such as that the port is in use
        return 1
    raise KeyboardInterrupt  # uvicorn ends only after a signal, for which it returns


async def _require_initialised(repository: AsyncRepository) -> None:
    async with repository:
        await repository.key_format()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
