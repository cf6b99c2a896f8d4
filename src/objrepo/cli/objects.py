"""The commands that store, give out and delete objects: put, cat, get, rm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from objrepo.atomic_file import AtomicFile
from objrepo.cli.completion import complete_key
from objrepo.cli.context import as_json, on_repository
from objrepo.cli.progress import reporter
from objrepo.disk import DiskRepository
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.reports import Progress

__all__ = ("cat", "get", "put", "rm")

_FILES_AT_ONCE: Final = 200
"""How many files are open together: systems allow a process 256 at least."""


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@as_json
@on_repository
async def put(repository: AsyncRepository, paths: tuple[str, ...], json_wanted: bool) -> int:
    """Store files, and print their keys.

    A folder stands for all files in it, - for standard input. The repository is made if it is not there yet. What
    cannot be read is reported, and the rest is stored.

    \b
    objrepo put README.md src
    tar c photos | objrepo put -
    """
    await repository.initialise()
    failed = False

    def fail(error: object) -> None:
        nonlocal failed
        failed = True
        click.echo(f"objrepo: {error}", err=True)

    own = repository.path if isinstance(repository, DiskRepository) else None
    done = 0
    with reporter() as report:
        total = None
        if sys.stderr.isatty():
            total = sum(1 for _ in _files(paths, own, lambda _: None))
        for batch in _batches(_files(paths, own, fail)):
            for path, key in await _store(repository, batch, fail):
                report.echo(json.dumps({"key": key, "path": path}) if json_wanted else f"{key}  {path}")
            done += len(batch)
            if total is not None:
                report(Progress("put", done, max(done, total), "objects"))
    return 1 if failed else 0


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    """Give files some at a time; what may have to be waited for, such as a pipe, comes alone."""
    batch: list[str] = []
    for path in paths:
        alone = path == "-" or not os.path.isfile(path)  # noqa: PTH113
        if batch and (alone or len(batch) == _FILES_AT_ONCE):
            yield batch
            batch = []
        batch.append(path)
        if alone:
            yield batch
            batch = []
    if batch:
        yield batch


async def _store(
    repository: AsyncRepository, paths: list[str], fail: Callable[[object], None]
) -> list[tuple[str, str]]:
    """Store files together; return the path and the key of each that can be opened."""
    opened: list[tuple[str, Any]] = []
    with ExitStack() as closing:
        for path in paths:
            try:
                file = sys.stdin.buffer if path == "-" else closing.enter_context(open(path, "rb", buffering=0))
            except OSError as error:
                fail(error)
            else:
                opened.append((path, file))
        if len(opened) == 1:  # alone it is put where AiiDA does, in a file of its own
            keys = [await repository.put(opened[0][1])]
        else:
            keys = await repository.put_many([file for _, file in opened])
    return [(path, key) for (path, _), key in zip(opened, keys, strict=True)]


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.option("--offset", type=click.IntRange(0), default=0, help="How many bytes to leave out at the start.")
@click.option("--length", type=click.IntRange(0), help="How many bytes to print at the most.")
@on_repository
async def cat(repository: AsyncRepository, key: str, offset: int, length: int | None) -> None:
    """Print the bytes of an object.

    \b
    objrepo cat KEY | less
    objrepo cat KEY --offset 1000 --length 24
    """
    async with repository.open(key, offset, length) as stream:
        await _copy(stream, sys.stdout.buffer)


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=".", help="A file, or for several keys a folder."
)
@on_repository
async def get(repository: AsyncRepository, keys: tuple[str, ...], output: Path) -> None:
    """Copy objects to files. In a folder each is named by its key.

    \b
    objrepo get KEY -o photo.jpg
    objrepo get KEY KEY -o photos
    """
    into_folder = output.is_dir() or len(keys) > 1
    async with repository.stream(keys) as objects:
        if into_folder:
            output.mkdir(parents=True, exist_ok=True)
        async for key, stream in objects:
            target = output / key if into_folder else output
            with AtomicFile(target, replace=True) as file:
                await _copy(stream, file.file)
                file.publish(durable=False)


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)
@on_repository
async def rm(repository: AsyncRepository, keys: tuple[str, ...]) -> None:
    """Delete objects: all of them or, if one is not there, none.

    \b
    objrepo rm KEY KEY
    """
    await repository.delete_many(keys)


def _files(paths: Iterable[str], repository: Path | None, fail: Callable[[object], None]) -> Iterator[str]:
    """Name the files that paths stand for. A folder is gone through in order, the repository itself left out."""
    for path in paths:
        if path == "-" or not os.path.isdir(path):  # noqa: PTH112  (a str stays as it was given)
            yield path
            continue
        for folder, folders, names in os.walk(path, onerror=fail):
            if repository is not None and os.path.realpath(folder) == os.path.realpath(repository):
                folders.clear()
                continue
            folders.sort()
            for name in sorted(names):
                file = os.path.join(folder, name)
                if os.path.isfile(file):  # noqa: PTH113
                    yield file
                else:
                    fail(f"{file} is no regular file: it is left out")


async def _copy(stream: ObjectStream, file: BinaryIO) -> None:
    async for chunk in stream:
        file.write(chunk)
    file.flush()
