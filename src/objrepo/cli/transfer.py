"""The commands that copy objects between repositories: copy, sync, backup, restore, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import click

from objrepo.cli.context import damaged_lines, dry_run_option, json_option, print_report, with_threaded_repository
from objrepo.cli.keys import ListedKey, keys_argument, require_keys
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.memory import MemoryRepository
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, count_of
from objrepo.transfer import copy as copy_objects
from objrepo.url import open_repository


@click.command()
@click.argument("source")
@click.argument("target")
@keys_argument(required=False)
@click.option("--delete", is_flag=True, help="Delete objects of TARGET that SOURCE does not have; needs --deletions.")
@click.option("--deletions", type=click.IntRange(0), help="The number of deletions that --dry-run has printed.")
@dry_run_option
@json_option
def copy(
    source: str,
    target: str,
    keys: list[ListedKey] | None,
    delete: bool,
    deletions: int | None,
    dry_run: bool,
) -> int:
    """Copy objects that TARGET does not have.

    SOURCE and TARGET are directories or URLs; TARGET is initialised if it does not exist. Every object is compared with
    its key. After Ctrl-C the same command resumes. Exit status 1 if an object of SOURCE is damaged.

    \b
    objrepo copy .objrepo /mnt/backup
    objrepo copy export.aiida .objrepo
    """

    async def main() -> int:
        async with open_repository(source) as first, open_repository(target) as second, MemoryRepository() as empty:
            chosen = await _chosen(first, keys)
            if not dry_run:
                await _initialise(second, like=first)
            elif not await second.is_initialised():
                second = empty
                await empty.initialise()
            done = await _copy(first, second, chosen, delete=delete, deletions=deletions, dry_run=dry_run)
        would = "to be " if dry_run else ""
        copied = f"{done.copied:,} {would}copied ({size_of(done.size)}), {done.deleted:,} {would}deleted"
        return _print(done, f"{count_of(done.objects, 'object')}, {copied}")

    return anyio.run(main)


@click.command()
@click.argument("first")
@click.argument("second")
@json_option
def sync(first: str, second: str) -> int:
    """Copy missing objects between two repositories, both ways.

    FIRST and SECOND are directories or URLs of repositories with the same key format; SECOND is initialised if it does
    not exist. Nothing is deleted: to propagate deletions, use `copy --delete`. After Ctrl-C the same command resumes.

    \b
    objrepo sync .objrepo /mnt/shared
    """

    async def main() -> int:
        async with open_repository(first) as one, open_repository(second) as other:
            await _initialise(other, like=one)
            await _require_same_keys(one, other)
            forward, backward = await _copy(one, other), await _copy(other, one)
        print_report(
            {"first_to_second": forward, "second_to_first": backward},
            *damaged_lines(forward),
            *damaged_lines(backward),
            f"{count_of(forward.copied, 'object')} to {second} ({size_of(forward.size)})",
            f"{count_of(backward.copied, 'object')} to {first} ({size_of(backward.size)})",
        )
        return 0 if forward.ok and backward.ok else 1

    return anyio.run(main)


@click.command()
@click.argument("target")
@click.option("--compress", is_flag=True, help="Compress the objects that are added to an archive.")
@json_option
@with_threaded_repository
async def backup(repo: AsyncRepository, target: str, compress: bool) -> int:
    """Copy new objects to TARGET, and read them back.

    TARGET is a directory, a URL, or an archive whose name ends in .zip; it is initialised if it does not exist. Nothing
    is deleted in TARGET. After Ctrl-C or a kill the same command resumes. An archive replaces the previous one after it
    has been read back. Exit status 1 if an object is damaged: it is not in the backup.

    \b
    objrepo backup /mnt/backup
    objrepo backup photos.zip
    objrepo backup s3://my-bucket/photos
    """
    from objrepo.archive import ArchiveRepository
    from objrepo.exporting import export as export_objects
    from objrepo.exporting import is_tar

    if is_tar(target):
        raise click.UsageError(f"cannot add to {target}: back up to a zip or a directory, or use `objrepo export`")
    opened = open_repository(target)
    if isinstance(opened, ArchiveRepository):
        if opened.path is None:
            raise click.UsageError(f"cannot write {target}: an archive must be a local file")
        key_format = await repo.key_format()
        if key_format != "sha256":
            raise click.UsageError(f"a zip needs keys of sha256, and {repo} has {key_format}: back up to a directory")
        with reporter() as report:
            done = await export_objects(repo, opened.path, compress=compress, update=True, check=True, progress=report)
    else:
        if compress:
            raise click.UsageError("--compress is for archives: compress a repository by `objrepo maintain --compress`")
        async with opened as second:
            await _initialise(second, like=repo)
            await _require_same_keys(repo, second)
            done = await _copy(repo, second, check=True)
    objects = count_of(done.objects, "object")
    return _print(done, f"{objects}, {done.copied:,} new ({size_of(done.size)}), read back")


@click.command()
@click.argument("source")
@keys_argument(required=False)
@click.option("--no-check", is_flag=True, help="Do not read back what is stored, which takes time.")
@json_option
@with_threaded_repository
async def restore(repo: AsyncRepository, source: str, keys: list[ListedKey] | None, no_check: bool) -> int:
    """Copy missing objects from SOURCE, and read them back.

    SOURCE is a backup by `objrepo backup`: a directory, a URL, or an archive, also on a web server. The repository is
    initialised if it does not exist. Every object is compared with its key. After Ctrl-C or a kill the same command
    resumes. Exit status 1 if an object of SOURCE is damaged: it is not restored.

    \b
    objrepo restore /mnt/backup
    objrepo restore photos.zip --repo photos
    """
    async with open_repository(source) as first:
        chosen = await _chosen(first, keys)
        await _initialise(repo, like=first)
        await _require_same_keys(first, repo)
        done = await _copy(first, repo, chosen, check=not no_check)
    objects = count_of(done.objects, "object")
    return _print(done, f"{objects}, {done.copied:,} restored ({size_of(done.size)})")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@keys_argument(required=False)
@click.option("--compress", is_flag=True, help="Compress the objects in a zip.")
@json_option
@with_threaded_repository
async def export(repo: AsyncRepository, file: Path, keys: list[ListedKey] | None, compress: bool) -> int:
    """Write all objects, or those of some keys, to a zip or a tar.

    A FILE that ends in .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz is a tar, any other a zip; it must not exist. A zip can
    be used as a read-only repository: as zip:FILE, or by its name if that ends in .zip. Every object is compared with
    its key. Exit status 1 if one is damaged: it is left out.

    \b
    objrepo export photos.zip
    objrepo export photos.tar.gz KEY KEY
    """
    from objrepo.exporting import export as export_objects

    chosen = await _chosen(repo, keys)
    with reporter() as report:
        done = await export_objects(repo, file, chosen, compress=compress, progress=report)
    return _print(done, f"{count_of(done.copied, 'object')} exported ({size_of(done.size)})")


async def _chosen(repository: AsyncRepository, keys: list[ListedKey] | None) -> list[str] | None:
    """Return the keys that the user gave in full, None for all objects; raise an error before anything is created."""
    return None if keys is None else await require_keys(repository, keys)


async def _copy(source: AsyncRepository, target: AsyncRepository, *keys: Any, **options: Any) -> CopyReport:
    with reporter() as report:
        return await copy_objects(source, target, *keys, progress=report, **options)


async def _initialise(repository: AsyncRepository, like: AsyncRepository) -> None:
    """Initialise a repository that does not exist with the key format of another one, which must exist."""
    key_format = await like.key_format()
    if await repository.is_initialised():
        return
    has_hash_type = isinstance(repository, DiskRepository) and key_format != "uuid4"
    options: dict[str, Any] = {"hash_type": key_format} if has_hash_type else {}
    await repository.initialise(**options)


async def _require_same_keys(one: AsyncRepository, other: AsyncRepository) -> None:
    first, second = await one.key_format(), await other.key_format()
    if first != second or first == "uuid4":
        raise click.UsageError(
            f"an object has different keys in {one} ({first}) and in {other} ({second}): use `objrepo copy`"
        )


def _print(done: CopyReport, line: str) -> int:
    """Print a report, and return the exit status."""
    print_report(done, *damaged_lines(done), f"{line}, {len(done.damaged):,} damaged")
    return 0 if done.ok else 1
