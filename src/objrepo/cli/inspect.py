"""The commands that look and change nothing: has, ls, stat, info, du."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

import click

from objrepo.cli.completion import complete_key
from objrepo.cli.context import as_json, on_repository, print_json, print_report
from objrepo.cli.progress import size_of
from objrepo.disk import DiskInfo, DiskRepository
from objrepo.protocol import AsyncRepository

__all__ = ("du", "has", "info", "ls", "stat")

_HAS_AT_ONCE: Final = 1000


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)
@as_json
@on_repository
async def has(repository: AsyncRepository, keys: tuple[str, ...], json_wanted: bool) -> int:
    """Say of each key whether its object is there.

    Exit with 1 if one is not.

    \b
    objrepo has KEY && echo "it is there"
    """
    everything = True
    for start in range(0, len(keys), _HAS_AT_ONCE):
        some = keys[start : start + _HAS_AT_ONCE]
        for key, present in zip(some, await repository.has_many(some), strict=True):
            everything = everything and present
            if json_wanted:
                print_json({"key": key, "present": present})
            else:
                click.echo(f"{key}  {'yes' if present else 'no'}")
    return 0 if everything else 1


@click.command()
@click.option("-l", "--long", "sizes", is_flag=True, help="Print the size in bytes of each object too.")
@as_json
@on_repository
async def ls(repository: AsyncRepository, sizes: bool, json_wanted: bool) -> None:
    """List the keys of all objects.

    \b
    objrepo ls --long
    objrepo ls | wc -l
    """
    async for key in repository.keys():
        size = await repository.size(key) if sizes else None
        if json_wanted:
            print_json({"key": key} if size is None else {"key": key, "size": size})
        else:
            click.echo(key if size is None else f"{key}  {size}")


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", shell_complete=complete_key)
@as_json
@on_repository
async def stat(repository: AsyncRepository, keys: tuple[str, ...], json_wanted: bool) -> None:
    """Print the size of objects and, on disk, where they are.

    \b
    objrepo stat KEY
    """
    for number, key in enumerate(keys):
        if isinstance(repository, DiskRepository):
            place = dataclasses.asdict(await repository.locate(key))
        else:
            place = {"size": await repository.size(key)}
        facts = {"key": key, "size": place["size"], "sha256": await repository.hash(key)} | place
        if json_wanted:
            print_json(facts)
            continue
        if number:
            click.echo()
        for name, value in facts.items():
            if value is not None:
                click.echo(_line(name, ("no", "yes")[value] if isinstance(value, bool) else value))


@click.command()
@click.option("--detailed", is_flag=True, help="Sum up the sizes too, which takes longer.")
@as_json
@on_repository
async def info(repository: AsyncRepository, detailed: bool, json_wanted: bool) -> None:
    """Print what the repository is and holds.

    \b
    objrepo info --detailed
    """
    state = await repository.info(detailed)
    known = {name: value for name, value in dataclasses.asdict(state).items() if value is not None}
    lines = (_line(name, size_of(value) if "size" in name else value) for name, value in known.items())
    print_report(state, json_wanted, lines)


@click.command()
@as_json
@on_repository
async def du(repository: AsyncRepository, json_wanted: bool) -> None:
    """Print how much space the objects take, and what takes it.

    \b
    objrepo du
    """
    state = await repository.info(detailed=True)
    places: list[dict[str, Any]] = []
    on_disk = None
    if isinstance(repository, DiskRepository) and isinstance(state, DiskInfo):
        total, on_disk = _space_of(repository.path)
        places = _places(state, total)
    if json_wanted:
        print_json({"objects": state.objects, "size": state.size, "places": places, "on_disk": on_disk})
        return
    click.echo(f"{'objects':<28}{state.objects:>12,}{size_of(state.size or 0):>14}")
    for place in places:
        count = "" if place["files"] is None else f"{place['files']:,}"
        click.echo(f"  {place['name']:<26}{count:>12}{size_of(place['size']):>14}")
    if on_disk is not None:
        click.echo(f"{'space on the disk':<40}{size_of(on_disk):>14}")


def _places(state: DiskInfo, total: int) -> list[dict[str, Any]]:
    """Say what the files of a repository are, whose sizes add up to ``total``."""
    loose, packs, index = state.loose_size or 0, state.pack_files_size or 0, state.index_size or 0
    return [
        {"name": "loose objects", "files": state.loose, "size": loose},
        {"name": "packs", "files": state.pack_files, "size": packs},
        {"name": "deleted, still in packs", "files": None, "size": packs - (state.packed_size_on_disk or 0)},
        {"name": "index", "files": 1, "size": index},
        {"name": "everything else", "files": None, "size": max(total - loose - packs - index, 0)},
    ]


def _space_of(folder: Path) -> tuple[int, int]:
    """Return the sizes of all files in a folder, and the space that they take, which is in blocks."""
    size = space = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(path, name))
            except FileNotFoundError:  # a temporary one
                continue
            size += status.st_size
            space += status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
    return size, space


def _line(name: str, value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int) else value
    return f"{name.replace('_', ' '):<22}{shown}"
