"""The commands that bring objects elsewhere: copy, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import anyio
import click

from objrepo.cli.progress import reporter, size_of
from objrepo.cli.running import as_json, gracefully, print_json
from objrepo.export import export as export_objects
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport
from objrepo.transfer import copy as copy_objects
from objrepo.url import open_repository

__all__ = ("COMMANDS",)


@click.command()
@click.argument("source")
@click.argument("target")
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@click.option("--delete", is_flag=True, help="Delete from TARGET what SOURCE does not have; needs --deletions.")
@click.option("--deletions", type=click.IntRange(0), help="How many objects that will be, as --dry-run tells it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@as_json
def copy(
    source: str,
    target: str,
    keys: tuple[str, ...],
    delete: bool,
    deletions: int | None,
    dry_run: bool,
    json_wanted: bool,
) -> int:
    """Copy what TARGET does not have, checked on the way; exit with 1 if an object of SOURCE is damaged.

    SOURCE and TARGET are folders or URLs; TARGET is made if it is not there yet. Ctrl-C leaves what was copied; the
    same command goes on from there.

    \b
    objrepo copy .objrepo /mnt/backup
    objrepo copy export.aiida .objrepo
    """

    async def whole() -> int:
        async with open_repository(source) as first, open_repository(target) as second:
            if not await second.is_initialised():
                await second.initialise()
            with reporter() as report:
                done = await copy_objects(
                    first, second, keys or None, delete=delete, deletions=deletions, dry_run=dry_run, progress=report
                )
        told = f"{done.objects:,} objects, {done.copied:,} copied ({size_of(done.size)}), {done.deleted:,} deleted"
        return _tell(done, told, json_wanted)

    return anyio.run(whole)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@click.option("--compress", is_flag=True, help="Deflate the objects.")
@as_json
@gracefully
async def export(repo: AsyncRepository, file: Path, keys: tuple[str, ...], compress: bool, json_wanted: bool) -> int:
    """Write all objects, or some, into the zip FILE, which must not be there yet; exit with 1 if one is damaged.

    An archive like this is a repository that can be read: as zip:FILE, or by its name if that ends in .zip.

    \b
    objrepo export photos.zip
    """
    with reporter() as report:
        done = await export_objects(repo, file, keys or None, compress=compress, progress=report)
    return _tell(done, f"{done.copied:,} objects exported ({size_of(done.size)})", json_wanted)


def _tell(done: CopyReport, line: str, json_wanted: bool) -> int:
    """Print what was done, and return the exit status that goes with it."""
    if json_wanted:
        print_json(dataclasses.asdict(done))
    else:
        for damaged in done.damaged:
            click.echo(f"{damaged.key}  {damaged.reason}")
        click.echo(f"{line}, {len(done.damaged):,} damaged")
    return 0 if done.ok else 1


COMMANDS: Final = (copy, export)
