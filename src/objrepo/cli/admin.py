"""The commands that make a repository and keep it well: init, maintain, verify, repair."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from objrepo.cli.context import as_json, damaged_lines, gracefully, on_repository, print_report
from objrepo.cli.progress import reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.protocol import AsyncRepository
from objrepo.url import open_repository

__all__ = ("init", "maintain", "repair", "verify")


@click.command()
@click.option("--hash-type", help="sha256, which it is unless given, or sha1.")
@click.option("--pack-size-target", type=int, help="From which size in bytes on a pack is full; 4 GiB unless given.")
@click.option(
    "--loose-prefix-len", type=int, help="How many digits of a key name a loose object's folder; 2 unless given."
)
@click.option("--compression-algorithm", help="zlib+1, which it is unless given, to zlib+9.")
@on_repository
async def init(repository: AsyncRepository, /, **options: Any) -> None:
    """Make a repository, or do nothing where it is made already.

    \b
    objrepo init --repo photos
    """
    await repository.initialise(**_given(options))
    click.echo(f"repository {await repository.uuid()} at {(await repository.info()).location}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--live/--not-live", default=True, show_default=True, help="Whether others may be using the repository.")
@click.option("--pack-loose/--no-pack-loose", default=None, help="Move loose objects into packs.")
@click.option("--do-repack/--no-do-repack", default=None, help="Rewrite packs without what was deleted.")
@click.option("--clean-storage/--no-clean-storage", default=None, help="Remove loose files of packed objects.")
@click.option("--do-vacuum/--no-do-vacuum", default=None, help="Rewrite the index.")
@click.option("--compress", is_flag=True, default=None, help="Compress the objects that are worth it when packing.")
@click.option("--timeout", type=click.FloatRange(0), default=0, help="How many seconds to wait for another packer.")
@as_json
@gracefully
async def maintain(
    repository: AsyncRepository, /, dry_run: bool, live: bool, timeout: float, json_wanted: bool, **options: Any
) -> None:
    """Move small files into packs; free what deletions left.

    Every step that is safe is taken, unless the options say otherwise: packing always, rewriting packs and index
    without holes only with --not-live. Ctrl-C ends the work between two objects or two packs.

    \b
    objrepo maintain
    objrepo maintain --not-live --compress
    """
    with reporter() as report:
        if isinstance(repository, DiskRepository):
            options |= {"timeout": timeout, "progress": report}
        done = await repository.maintain(dry_run, live, **_given(options))
    lines = (f"{step.name:<16}{step.objects:>12,} objects {size_of(step.size):>12}" for step in done.steps)
    print_report(done, json_wanted, lines)


@click.command()
@click.option("--quick", is_flag=True, help="Look only at whether the bytes are there, not at what they are.")
@as_json
@on_repository
async def verify(repository: AsyncRepository, quick: bool, json_wanted: bool) -> int:
    """Read every object back and compare it with its key.

    What was left behind by deletions and by whoever was interrupted is listed, too. It does no harm. Exit with 1 if an
    object is damaged.

    \b
    objrepo verify
    objrepo verify --repo /mnt/backup --json
    """
    with reporter() as report:
        result = await repository.verify(report, quick)
    lines = damaged_lines(result)
    lines.append(f"{result.objects:,} objects, {size_of(result.size)}: {len(result.damaged):,} damaged")
    lines += [f"{each.kind}, {size_of(each.size)}: {each.path}" for each in result.leftovers]
    print_report(result, json_wanted, lines)
    return 0 if result.ok else 1


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--exclusive", is_flag=True, help="Nobody else is using the repository: remove what others left over.")
@click.option("--from", "source", help="A repository to take damaged objects from: its folder or URL.")
@click.option("--timeout", type=click.FloatRange(0), default=0, help="How many seconds to wait for another packer.")
@as_json
@gracefully
async def repair(
    repository: AsyncRepository,
    /,
    dry_run: bool,
    exclusive: bool,
    source: str | None,
    timeout: float,
    json_wanted: bool,
) -> int:
    """Verify, and mend what can be mended.

    No step loses anything. Damaged copies go to the folder `quarantine` in the repository. Exit with 1 if an object is
    lost.

    \b
    objrepo repair --from /mnt/backup
    """
    if not isinstance(repository, DiskRepository):
        raise click.UsageError(f"{repository} cannot be repaired: only a repository on disk can")
    async with nullcontext() if source is None else open_repository(source) as other:
        with reporter() as report:
            done = await repository.repair(dry_run, not exclusive, source=other, timeout=timeout, progress=report)
    lines = [f"{step.action} {step.subject}: {step.reason}" for step in done.steps]
    print_report(done, json_wanted, [*lines, f"{len(done.steps):,} steps, {len(done.lost):,} objects lost"])
    return 1 if done.lost else 0


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out the options that were not given, which not every repository has."""
    return {name: value for name, value in options.items() if value is not None}
