"""The commands that bring objects elsewhere: copy, sync, backup, restore, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anyio
import click

from objrepo.cli.context import as_json, damaged_lines, gracefully, print_json, print_report
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport
from objrepo.transfer import copy as copy_objects
from objrepo.url import open_repository

__all__ = ("backup", "copy", "export", "restore", "sync")


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
    """Copy what TARGET does not have, checked on the way.

    SOURCE and TARGET are folders or URLs; TARGET is made if it is not there yet. Ctrl-C leaves what was copied; the
    same command goes on from there. Exit with 1 if an object of SOURCE is damaged.

    \b
    objrepo copy .objrepo /mnt/backup
    objrepo copy export.aiida .objrepo
    """

    async def whole() -> int:
        async with open_repository(source) as first, open_repository(target) as second:
            await _make(second, of=first)
            with reporter() as report:
                done = await copy_objects(
                    first, second, keys or None, delete=delete, deletions=deletions, dry_run=dry_run, progress=report
                )
        told = f"{done.objects:,} objects, {done.copied:,} copied ({size_of(done.size)}), {done.deleted:,} deleted"
        return _tell(done, told, json_wanted)

    return anyio.run(whole)


@click.command()
@click.argument("first")
@click.argument("second")
@as_json
def sync(first: str, second: str, json_wanted: bool) -> int:
    """Bring to each of two repositories what only the other has.

    FIRST and SECOND are folders or URLs, both with keys of the same kind; SECOND is made if it is not there yet.
    Nothing is deleted in either: to have one follow the other in that too, use `copy --delete`. Ctrl-C leaves what was
    copied; the same command goes on.

    \b
    objrepo sync .objrepo /mnt/shared
    """

    async def whole() -> int:
        async with open_repository(first) as one, open_repository(second) as other:
            await _make(other, of=one)
            await _require_the_same_keys(one, other)
            with reporter() as report:
                there = await copy_objects(one, other, progress=report)
                back = await copy_objects(other, one, progress=report)
        if json_wanted:
            print_json({"there": dataclasses.asdict(there), "back": dataclasses.asdict(back)})
        else:
            lines = [
                f"{done.copied:,} objects to {to} ({size_of(done.size)})"
                for done, to in ((there, second), (back, first))
            ]
            click.echo("\n".join([*damaged_lines(there), *damaged_lines(back), *lines]))
        return 0 if there.ok and back.ok else 1

    return anyio.run(whole)


@click.command()
@click.argument("target")
@click.option("--compress", is_flag=True, help="Deflate what is added to an archive.")
@as_json
@gracefully
async def backup(repo: AsyncRepository, target: str, compress: bool, json_wanted: bool) -> int:
    """Bring to TARGET what it does not have yet, and read that back.

    TARGET is a folder, a URL, or an archive whose name ends in .zip; it is made if it is not there yet. Nothing is
    deleted there, so that it has every object that was there when a backup was made. After Ctrl-C or a kill the same
    command goes on where it was. An archive takes the place of the one before when all of it has been read back. Exit
    with 1 if an object is damaged: it is not in the backup.

    \b
    objrepo backup /mnt/backup
    objrepo backup photos.zip
    objrepo backup s3://my-bucket/photos
    """
    from objrepo.archive import ArchiveRepository
    from objrepo.export import export as export_objects
    from objrepo.export import is_tar

    if is_tar(target):
        raise click.UsageError(f"{target} could not grow: back up to a zip or a folder, or use `objrepo export`")
    opened = open_repository(target)
    with reporter() as report:
        if isinstance(opened, ArchiveRepository):
            if opened.path is None:
                raise click.UsageError(f"{target} is not on this machine: archives are written here only")
            key_format = await repo.key_format()
            if key_format != "sha256":
                raise click.UsageError(f"a zip has keys of sha256, and {repo} of {key_format}: take a folder")
            done = await export_objects(repo, opened.path, compress=compress, update=True, check=True, progress=report)
        else:
            if compress:
                raise click.UsageError("--compress is for archives: compress a repository by `objrepo maintain`")
            async with opened as second:
                await _make(second, of=repo)
                await _require_the_same_keys(repo, second)
                done = await copy_objects(repo, second, check=True, progress=report)
    return _tell(done, f"{done.objects:,} objects, {done.copied:,} new ({size_of(done.size)}), read back", json_wanted)


@click.command()
@click.argument("source")
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@as_json
@gracefully
async def restore(repo: AsyncRepository, source: str, keys: tuple[str, ...], json_wanted: bool) -> int:
    """Bring back from SOURCE what the repository does not have.

    SOURCE is what `objrepo backup` has written: a folder, a URL, an archive, also one on a web server. The repository
    is made if it is not there. After Ctrl-C or a kill the same command goes on where it was. Exit with 1 if an object
    of SOURCE is damaged: it is not restored.

    \b
    objrepo restore /mnt/backup
    objrepo restore photos.zip --repo photos
    """
    async with open_repository(source) as first:
        await _make(repo, of=first)
        await _require_the_same_keys(first, repo)
        with reporter() as report:
            done = await copy_objects(first, repo, keys or None, check=True, progress=report)
    return _tell(done, f"{done.objects:,} objects, {done.copied:,} restored ({size_of(done.size)})", json_wanted)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@click.option("--compress", is_flag=True, help="Deflate the objects in a zip.")
@as_json
@gracefully
async def export(repo: AsyncRepository, file: Path, keys: tuple[str, ...], compress: bool, json_wanted: bool) -> int:
    """Write all objects, or some, into a zip or a tar.

    A FILE that ends in .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz is a tar, any other a zip; it must not be there yet. A
    zip is a repository that can be read: as zip:FILE, or by its name if that ends in .zip. Exit with 1 if an object is
    damaged: it is left out.

    \b
    objrepo export photos.zip
    objrepo export photos.tar.gz KEY KEY
    """
    from objrepo.export import export as export_objects

    with reporter() as report:
        done = await export_objects(repo, file, keys or None, compress=compress, progress=report)
    return _tell(done, f"{done.copied:,} objects exported ({size_of(done.size)})", json_wanted)


async def _make(repository: AsyncRepository, of: AsyncRepository) -> None:
    """Make a repository that is not there yet, once it is certain that the other one is, with keys of the same kind."""
    key_format = await of.key_format()
    if await repository.is_initialised():
        return
    takes_format = isinstance(repository, DiskRepository) and key_format != "uuid4"
    await repository.initialise(**({"hash_type": key_format} if takes_format else {}))


async def _require_the_same_keys(one: AsyncRepository, other: AsyncRepository) -> None:
    kinds = await one.key_format(), await other.key_format()
    if kinds[0] != kinds[1] or "uuid4" in kinds:
        raise click.UsageError(
            f"the same object has other keys in {one} ({kinds[0]}) and in {other} ({kinds[1]}): use `objrepo copy`"
        )


def _tell(done: CopyReport, line: str, json_wanted: bool) -> int:
    """Print what was done, and return the exit status that goes with it."""
    print_report(done, json_wanted, [*damaged_lines(done), f"{line}, {len(done.damaged):,} damaged"])
    return 0 if done.ok else 1
