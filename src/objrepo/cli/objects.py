"""The commands that store, read and delete objects: put, cat, get, rm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from objrepo.atomic_file import AtomicFile
from objrepo.cli.completion import complete_key, keys_argument
from objrepo.cli.context import json_option, with_repository
from objrepo.cli.progress import reporter
from objrepo.disk import DiskRepository
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.reports import Progress

_BATCH_FILES: Final = 200
"""The files that are open at the same time: every system allows a process at least 256."""


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
@with_repository
async def put(repository: AsyncRepository, paths: tuple[str, ...], json_wanted: bool) -> int:
    """Store files, and print their keys.

    PATH is a file, a directory with all files in it, or - for standard input. The repository is initialised if it does
    not exist. Files that cannot be read are reported, and the others are stored.

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
        total = sum(1 for _ in _files(paths, own, lambda _: None)) if sys.stderr.isatty() else None
        for batch in _batches(_files(paths, own, fail)):
            for path, key in await _store(repository, batch, fail):
                report.echo(json.dumps({"key": key, "path": path}) if json_wanted else f"{key}  {path}")
            done += len(batch)
            if total is not None:
                report(Progress("put", done, max(done, total), "objects"))
    return 1 if failed else 0


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield files in batches. One whose reads may block, such as a pipe, is a batch of its own."""
    for alone, group in groupby(paths, lambda path: path == "-" or not os.path.isfile(path)):  # noqa: PTH113
        while batch := list(islice(group, 1 if alone else _BATCH_FILES)):
            yield batch


async def _store(
    repository: AsyncRepository, paths: list[str], fail: Callable[[object], None]
) -> list[tuple[str, str]]:
    """Store a batch of files; return the path and the key of each one that can be opened."""
    opened: list[tuple[str, Any]] = []
    with ExitStack() as closing:
        for path in paths:
            try:
                file = sys.stdin.buffer if path == "-" else closing.enter_context(open(path, "rb", buffering=0))
            except OSError as error:
                fail(error)
            else:
                opened.append((path, file))
        if len(opened) == 1:  # `put` stores it as a loose file, as AiiDA does
            keys = [await repository.put(opened[0][1])]
        else:
            keys = await repository.put_many([file for _, file in opened])
    return [(path, key) for (path, _), key in zip(opened, keys, strict=True)]


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.option("--offset", type=click.IntRange(0), default=0, help="The first byte to print.")
@click.option("--length", type=click.IntRange(0), help="The maximum number of bytes to print.")
@with_repository
async def cat(repository: AsyncRepository, key: str, offset: int, length: int | None) -> None:
    """Print the bytes of an object.

    \b
    objrepo cat KEY | less
    objrepo cat KEY --offset 1000 --length 24
    """
    async with repository.open(key, offset, length) as stream:
        await _copy(stream, sys.stdout.buffer)


@click.command()
@keys_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=".", help="A file, or a directory for several keys."
)
@with_repository
async def get(repository: AsyncRepository, keys: tuple[str, ...], output: Path) -> None:
    """Copy objects to files. Files in a directory are named by the key.

    \b
    objrepo get KEY -o photo.jpg
    objrepo get KEY KEY -o photos
    """
    to_directory = output.is_dir() or len(keys) > 1
    async with repository.stream(keys) as objects:
        if to_directory:
            output.mkdir(parents=True, exist_ok=True)
        async for key, stream in objects:
            target = output / key if to_directory else output
            with AtomicFile(target, replace=True) as file:
                await _copy(stream, file.file)
                file.publish(durable=False)


@click.command()
@keys_argument
@with_repository
async def rm(repository: AsyncRepository, keys: tuple[str, ...]) -> None:
    """Delete objects: all of them or, if one does not exist, none.

    \b
    objrepo rm KEY KEY
    """
    await repository.delete_many(keys)


def _files(paths: Iterable[str], repository: Path | None, fail: Callable[[object], None]) -> Iterator[str]:
    """Yield the files that paths name, those of a directory in order and without the files of the repository."""
    for path in paths:
        if path == "-" or not os.path.isdir(path):  # noqa: PTH112  (a str is printed as it was given)
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
                    fail(f"skipped {file}: it is not a regular file")


async def _copy(stream: ObjectStream, file: BinaryIO) -> None:
    async for chunk in stream:
        file.write(chunk)
    file.flush()
