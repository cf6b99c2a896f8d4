"""The commands that initialise and maintain a repository: init, maintain, verify, repair."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import click

from objrepo.cli.context import (
    damaged_lines,
    dry_run_option,
    json_option,
    location_of,
    print_report,
    timeout_option,
    with_repository,
    with_threaded_repository,
)
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.protocol import AsyncRepository
from objrepo.reports import RepairReport, count_of
from objrepo.url import open_repository


@click.command()
@click.option("--hash-type", type=click.Choice(["sha256", "sha1"]), help="The hash of keys; default: sha256.")
@click.option("--pack-size-target", type=click.IntRange(1), help="The bytes at which a pack is full; default: 4 GiB.")
@click.option(
    "--loose-prefix-len",
    type=click.IntRange(0, 8),
    help="Digits of a key that name its directory when loose; default: 2.",
)
@click.option(
    "--compression-algorithm", type=click.Choice([f"zlib+{level}" for level in range(1, 10)]), help="Default: zlib+1."
)
@json_option
@with_repository
async def init(repository: AsyncRepository, /, **options: Any) -> None:
    """Initialise a repository, unless it exists.

    \b
    objrepo init --repo photos
    """
    created = not await repository.is_initialised()
    await repository.initialise(**_given(options))
    uuid, location = await repository.uuid(), location_of(repository)
    facts = {"location": location, "uuid": uuid, "key_format": await repository.key_format(), "created": created}
    print_report(facts, f"repository {uuid} at {location}")


@click.command()
@dry_run_option
@click.option(
    "--live/--not-live",
    default=True,
    show_default=True,
    help="Whether other processes may be using the repository.",
)
@click.option("--pack-loose/--no-pack-loose", default=None, help="Move loose objects into packs.")
@click.option("--do-repack/--no-do-repack", default=None, help="Rewrite packs without deleted objects.")
@click.option("--clean-storage/--no-clean-storage", default=None, help="Remove loose files of packed objects.")
@click.option("--do-vacuum/--no-do-vacuum", default=None, help="Rewrite the index.")
@click.option("--compress", is_flag=True, default=None, help="Compress objects when packing them, if that saves space.")
@click.option(
    "--upgrade",
    is_flag=True,
    default=None,
    help="Have a bucket of an earlier release use packs; end other programs first.",
)
@timeout_option
@json_option
@with_threaded_repository
async def maintain(repository: AsyncRepository, /, dry_run: bool, live: bool, timeout: float, **options: Any) -> None:
    """Pack loose objects, and free the space of deleted ones.

    By default it does every step that is safe: it rewrites packs and the index only with --not-live. Ctrl-C stops it
    after the current object or pack.

    \b
    objrepo maintain
    objrepo maintain --not-live --compress
    """
    with reporter() as report:
        if isinstance(repository, DiskRepository):
            options |= {"timeout": timeout, "progress": report}
        done = await repository.maintain(dry_run, live, **_given(options))
    lines = [f"{step.name:<16}{count_of(step.objects, 'object'):>20} {size_of(step.size):>12}" for step in done.steps]
    print_report(done, *lines)


@click.command()
@click.option("--quick", is_flag=True, help="Check only that all bytes exist, without reading and hashing them.")
@json_option
@with_repository
async def verify(repository: AsyncRepository, quick: bool) -> int:
    """Read every object, and compare its hash with its key.

    It also lists the harmless leftovers of deletions and of interrupted processes. Exit status 1 if an object is
    damaged.

    \b
    objrepo verify
    objrepo verify --repo /mnt/backup --json
    """
    with reporter() as report:
        result = await repository.verify(report, quick)
    print_report(
        asdict(result)
        | {"leftovers": [asdict(each) | {"kind": each.kind.replace(" ", "_")} for each in result.leftovers]},
        *damaged_lines(result),
        f"{count_of(result.objects, 'object')}, {size_of(result.size)}: {len(result.damaged):,} damaged",
        *(
            f"harmless leftover: {leftover.kind}, {size_of(leftover.size)}: {leftover.path}"
            for leftover in result.leftovers
        ),
    )
    return 0 if result.ok else 1


@click.command()
@dry_run_option
@click.option("--exclusive", is_flag=True, help="No other process uses the repository: remove its leftovers and locks.")
@click.option("--from", "source", help="A repository from which damaged objects are replaced: a directory or a URL.")
@timeout_option
@json_option
@with_threaded_repository
async def repair(
    repository: AsyncRepository,
    /,
    dry_run: bool,
    exclusive: bool,
    source: str | None,
    timeout: float,
) -> int:
    """Verify the repository, and repair damage.

    In a bucket, --exclusive rebuilds the log from the packs. On disk, a damaged copy of an object is moved
    to the directory `quarantine` of the repository, and replaced by an intact one.
    An object without an intact copy is lost. With --exclusive, files that interrupted commands have left are removed.
    Exit status 1 if an object is lost, or if one is skipped because its files cannot be read or moved.

    \b
    objrepo repair --from /mnt/backup
    """
    from objrepo.bucket import BucketRepository  # imported late: most repositories are on disk

    if isinstance(repository, BucketRepository) and source is None:
        done = await repository.repair(dry_run, not exclusive)
        return _print_repairs(done)
    if not isinstance(repository, DiskRepository):
        raise click.UsageError(f"cannot repair {repository}: it is not a repository on disk")
    async with AsyncExitStack() as stack:
        other = None if source is None else await stack.enter_async_context(open_repository(source))
        with reporter() as report:
            done = await repository.repair(dry_run, not exclusive, source=other, timeout=timeout, progress=report)
    return _print_repairs(done)


def _print_repairs(done: RepairReport) -> int:
    """Print the changes; return the exit status."""
    dry_run = done.dry_run
    skipped = [step for step in done.steps if step.action == "skipped"]
    print_report(
        done,
        *(f"{'would be ' if dry_run else ''}{step.action}: {step.subject}: {step.reason}" for step in done.steps),
        f"{count_of(len(done.steps) - len(skipped), 'change')}{' to be made' if dry_run else ''}, "
        f"{count_of(len(done.lost), 'object')} lost, {len(skipped):,} skipped",
    )
    return 1 if done.lost or skipped else 0


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave: not every repository supports the others."""
    return {name: value for name, value in options.items() if value is not None}
