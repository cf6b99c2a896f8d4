"""The commands that only read metadata: has, ls, stat, info, du."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

import click

from objrepo.cli.context import json_option, location_of, print_report, with_repository
from objrepo.cli.keys import ListedKey, full_keys, keys_argument, require_keys
from objrepo.cli.progress import size_of
from objrepo.disk import DiskInfo, DiskRepository
from objrepo.protocol import AsyncRepository

_BATCH_KEYS: Final = 1000
_PARTS: Final = {
    "loose": "loose objects",
    "packs": "packs",
    "deleted": "deleted, still in packs",
    "index": "index",
    "other": "everything else",
}


@click.command()
@keys_argument()
@json_option
@with_repository
async def has(repository: AsyncRepository, keys: list[ListedKey]) -> int:
    """Print for each key whether its object exists.

    Exit status 1 if one does not.

    \b
    objrepo has KEY && echo "it exists"
    objrepo has --from photos.sha256
    """
    all_exist = True
    full = await full_keys(repository, keys)
    for start in range(0, len(full), _BATCH_KEYS):
        batch = full[start : start + _BATCH_KEYS]
        for key, present in zip(batch, await repository.has_many(batch), strict=True):
            all_exist = all_exist and present
            print_report({"key": key, "present": present}, f"{key}  {'yes' if present else 'no'}")
    return 0 if all_exist else 1


@click.command()
@click.option("-l", "--long", "sizes", is_flag=True, help="Print the size in bytes of each object, too.")
@json_option
@with_repository
async def ls(repository: AsyncRepository, sizes: bool) -> None:
    """List the keys of all objects.

    \b
    objrepo ls --long
    objrepo ls | wc -l
    """
    async for key in repository.keys():
        if sizes:
            size = await repository.size(key)
            print_report({"key": key, "size": size}, f"{key}  {size}")
        else:
            print_report({"key": key}, key)


@click.command()
@keys_argument()
@json_option
@with_repository
async def stat(repository: AsyncRepository, keys: list[ListedKey]) -> None:
    """Print the size, hash and, on disk, location of objects.

    \b
    objrepo stat KEY
    """
    for number, key in enumerate(await require_keys(repository, keys)):
        if isinstance(repository, DiskRepository):
            location = dataclasses.asdict(await repository.locate(key))
        else:
            location = {"size": await repository.size(key)}
        facts = {"key": key, "size": location["size"], "sha256": await repository.hash(key)} | location
        shown = {name: ("no", "yes")[value] if isinstance(value, bool) else value for name, value in facts.items()}
        print_report(facts, *([""] if number else []), *_table(shown))


@click.command()
@click.option("--detailed", is_flag=True, help="Include sizes, which takes longer.")
@json_option
@with_repository
async def info(repository: AsyncRepository, detailed: bool) -> None:
    """Print the configuration and the contents of the repository.

    \b
    objrepo info --detailed
    """
    state = dataclasses.asdict(await repository.info(detailed)) | {"location": location_of(repository)}
    shown = {name: size_of(value) if "size" in name and type(value) is int else value for name, value in state.items()}
    print_report(state, *_table(shown))


@click.command()
@json_option
@with_repository
async def du(repository: AsyncRepository) -> None:
    """Print how much space the objects use, and which files use it.

    \b
    objrepo du
    """
    state = await repository.info(detailed=True)
    parts: list[dict[str, Any]] = []
    on_disk = None
    if isinstance(repository, DiskRepository) and isinstance(state, DiskInfo):
        total, on_disk = _space_of(repository.path)
        parts = _parts(state, total)
    lines = [f"{'objects':<28}{state.objects:>12,}{size_of(state.size or 0):>14}"]
    for part in parts:
        count = "" if part["files"] is None else f"{part['files']:,}"
        lines.append(f"  {_PARTS[part['name']]:<26}{count:>12}{size_of(part['size']):>14}")
    if on_disk is not None:
        lines.append(f"{'space on disk':<40}{size_of(on_disk):>14}")
    print_report({"objects": state.objects, "size": state.size, "parts": parts, "on_disk": on_disk}, *lines)


def _parts(state: DiskInfo, total: int) -> list[dict[str, Any]]:
    """Return the parts of a repository, whose sizes add up to ``total``."""
    loose, packs, index = state.loose_size or 0, state.pack_files_size or 0, state.index_size or 0
    return [
        {"name": "loose", "files": state.loose, "size": loose},
        {"name": "packs", "files": state.pack_files, "size": packs},
        {"name": "deleted", "files": None, "size": packs - (state.packed_size_on_disk or 0)},
        {"name": "index", "files": 1, "size": index},
        {"name": "other", "files": None, "size": max(total - loose - packs - index, 0)},
    ]


def _space_of(folder: Path) -> tuple[int, int]:
    """Return the total size of all files in a directory, and the space of the blocks that they use."""
    size = space = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(path, name))
            except FileNotFoundError:  # a temporary file
                continue
            size += status.st_size
            space += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return size, space


def _table(facts: dict[str, Any]) -> list[str]:
    """Return a line for each fact that is known."""
    return [f"{name.replace('_', ' '):<22}{value}" for name, value in facts.items() if value is not None]
