"""The commands that read and delete objects: cat, get, rm, prune."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, Final

import click

from objrepo.atomic_file import AtomicFile
from objrepo.cli.context import (
    Failures,
    dry_run_option,
    json_option,
    no_check_option,
    note,
    print_report,
    with_repository,
)
from objrepo.cli.keys import ListedKey, complete_key, full_keys, keys_argument, read_list, require_keys
from objrepo.cli.progress import reporter
from objrepo.errors import CorruptObjectError, with_path
from objrepo.keys import is_key
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.reports import Progress, count_of

_PAGE_KEYS: Final = 1000


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.option("--offset", type=click.IntRange(0), default=0, help="The first byte to print.")
@click.option("--length", type=click.IntRange(0), help="The maximum number of bytes to print.")
@no_check_option
@with_repository
async def cat(repository: AsyncRepository, key: str, offset: int, length: int | None, no_check: bool) -> None:
    """Print the bytes of an object.

    They are compared with the key, unless only a part is printed. Exit status 1 if the object is damaged: one of up to
    256 KiB is then not printed at all, a larger one without its end.

    \b
    objrepo cat KEY | less
    objrepo cat KEY --offset 1000 --length 24
    """
    [full] = await full_keys(repository, [ListedKey(key)])
    to_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)  # another program may be using the terminal
    with reporter() if to_file else nullcontext():
        whole = not offset and length is None
        async with repository.open(full, offset, length, check=whole and not no_check) as stream:
            await _write(stream, sys.stdout.buffer, "standard output")


@click.command()
@keys_argument()
@click.option("-o", "--output", help="A file; a directory, if it exists or ends in /; or - for standard output.")
@click.option("--to", "folder", help="A directory, in which a file has its name in the list, else its key.")
@click.option("-n", "--no-clobber", is_flag=True, help="Keep files that exist, and go on.")
@no_check_option
@json_option
@with_repository
async def get(
    repository: AsyncRepository,
    /,
    keys: list[ListedKey],
    output: str | None,
    folder: str | None,
    no_clobber: bool,
    no_check: bool,
) -> int:
    """Copy objects to files, by default in this directory.

    A leading / is removed from names in a list. A name with .. and one that leads through a symbolic link are refused.

    Every object is compared with its key. Exit status 1 if one is damaged: there is no file of it.

    \b
    objrepo get KEY -o photo.jpg
    objrepo get KEY KEY -o photos/
    objrepo get --from photos.sha256 --to restored
    """
    if output is not None and folder is not None:
        raise click.UsageError("give -o or --to, not both")
    if "" in (output, folder):
        raise click.UsageError("-o or --to is empty: for this directory leave it out")
    full = await require_keys(repository, keys)
    fail = Failures()
    below = None
    targets: dict[str, list[Path | None]] = {key: [] for key in full}  # None is standard output
    if output == "-":
        targets = {key: [None] for key in full}
    elif output and len(keys) == 1 and not output.endswith(os.sep) and not os.path.isdir(output):  # noqa: PTH112
        targets[full[0]] = [Path(output)]
    else:
        below = Path(folder or output or ".")
        for path, key in _paths(below, keys, full, fail).items():
            targets[key].append(path)
    check = not no_check

    async def save(key: str, stream: ObjectStream) -> None:
        for number, target in enumerate(targets.pop(key)):
            try:
                if below is not None and target is not None:
                    _make_parents(below, target)
                async with nullcontext(stream) if number == 0 else repository.open(key, check=check) as each:
                    await _save(each, target, no_clobber)
            except (FileExistsError, NotADirectoryError, IsADirectoryError, click.ClickException) as error:
                fail(error)

    total = len(targets)
    with reporter() as report:
        while left := len(targets):
            try:
                async with repository.stream(list(targets), check) as objects:
                    async for key, stream in objects:
                        await save(key, stream)
                        report(Progress("get", total - len(targets), total, "objects"))
            except CorruptObjectError as error:  # the others are read by another stream
                targets.pop(error.key, None)
                if len(targets) == left:
                    raise
                fail(error)
    return fail.status


def _paths(folder: Path, keys: list[ListedKey], full: list[str], fail: Failures) -> dict[Path, str]:
    """Return the path of each object and its key; of a name that is listed twice, the last key counts."""
    paths = {}
    for each, key in zip(keys, full, strict=True):
        name = key if each.name in (None, "-") else each.name.lstrip("/")
        if not name or ".." in Path(name).parts or "\0" in name:
            fail(f"refused {each.name!r}: a file is written only below {folder}")
        else:
            paths[folder / name] = key
    if any(each.name is not None and each.name.startswith("/") for each in keys):
        note("removed the leading / from names")
    return paths


def _make_parents(folder: Path, path: Path) -> None:
    """Make a directory, and those in it that are above a path, which lead through no symbolic link."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in path.relative_to(folder).parts[:-1]:
        folder /= name
        if folder.is_symlink():
            raise click.ClickException(f"refused {path}: {folder} is a symbolic link")
        folder.mkdir(exist_ok=True)


async def _save(stream: ObjectStream, target: Path | None, no_clobber: bool) -> None:
    """Write an object to a file, which gets its name when it is complete, and print its path."""
    if target is None:
        await _write(stream, sys.stdout.buffer, "standard output")
        return
    if no_clobber and os.path.lexists(target):
        note(f"kept {target}, which exists")
        return
    with AtomicFile(target, replace=not no_clobber) as file:
        await _write(stream, file.file, target)
        file.publish(durable=False)
    print_report({"key": stream.key, "path": str(target), "size": stream.size})


async def _write(stream: ObjectStream, file: BinaryIO, path: object) -> None:
    async for chunk in stream:
        with with_path(path):
            file.write(chunk)
    with with_path(path):
        file.flush()


@click.command()
@keys_argument()
@json_option
@with_repository
async def rm(repository: AsyncRepository, keys: list[ListedKey]) -> None:
    """Delete objects: all of them or, if one does not exist, none.

    \b
    objrepo rm KEY KEY
    objrepo rm --from old.sha256
    """
    full = await full_keys(repository, keys)
    await repository.delete_many(full)
    for key in dict.fromkeys(full):
        print_report({"key": key, "deleted": True})


@click.command()
@click.option(
    "--keep-from", "lists", required=True, multiple=True, metavar="FILE", help="A list of the keys that are kept."
)
@click.option("-z", "--null", is_flag=True, help="The lines of lists end in NUL.")
@click.option("--deletions", type=click.IntRange(0), help="The number of deletions that --dry-run has printed.")
@dry_run_option
@json_option
@with_repository
async def prune(
    repository: AsyncRepository, lists: tuple[str, ...], null: bool, deletions: int | None, dry_run: bool
) -> None:
    """Delete all objects that are not in a list.

    Run it with --dry-run, and then with --deletions and the number that it prints. No other process may store objects
    meanwhile. The space in packs is freed by `objrepo maintain --not-live`.

    \b
    objrepo prune --keep-from photos.sha256 --dry-run
    objrepo prune --keep-from photos.sha256 --deletions 12
    """
    keep = set(await full_keys(repository, [each for path in lists for each in read_list(path, null)]))
    key_format = await repository.key_format()
    for key in keep:
        if not is_key(key, key_format):
            raise click.ClickException(f"{key} in the list is neither a {key_format} key nor abbreviates one")
    extraneous = []
    objects = 0
    async for key in repository.keys():
        objects += 1
        if key not in keep:
            extraneous.append(key)
    if not dry_run:
        if extraneous and len(extraneous) != deletions:
            number = len(extraneous)
            raise click.ClickException(
                f"{count_of(number, 'object')} not in the list: to delete as many, give --deletions {number}"
            )
        with reporter() as report:
            for start in range(0, len(extraneous), _PAGE_KEYS):
                page = extraneous[start : start + _PAGE_KEYS]
                await repository.delete_many(page)
                report(Progress("prune", start + len(page), len(extraneous), "objects"))
    kept = objects - len(extraneous)
    state = {"dry_run": dry_run, "kept": kept, "deleted": len(extraneous), "missing": len(keep) - kept}
    print_report(
        state,
        f"{count_of(kept, 'object')} kept, {state['deleted']:,} {'to be ' if dry_run else ''}deleted, "
        f"{state['missing']:,} in the list but not in the repository",
    )
