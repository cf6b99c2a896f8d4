"""Repairing a container without losing bytes: damaged copies are moved to its quarantine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

from objrepo.disk.index import NO_ROW, Row
from objrepo.disk.layout import REPACK_PACK
from objrepo.disk.pack_files import read_at
from objrepo.disk.repack import recover_repack
from objrepo.disk.safe_open import safe_open
from objrepo.disk.session import ContainerSession
from objrepo.disk.verify import damages, find_leftovers
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.keys import is_key
from objrepo.reports import RepairStep

_COPY_BYTES: Final = 1024 * 1024
_LOST: Final = ".lost"
"""The suffix of a marker in the quarantine: the object has no intact copy, and is to be taken from a source."""


def quarantine_object(
    session: ContainerSession, key: str, dry_run: bool = False
) -> Literal["restored", "quarantined", "skipped"]:
    """Move a damaged loose file of an object to the quarantine, and copy its damaged bytes in a pack to it.

    :return: ``'restored'`` if another copy is intact, ``'skipped'`` if a copy cannot be read: it may be intact.
    """
    found, intact = damages(session, key)
    if not all(damage.readable for damage in found):
        return "skipped"
    if not dry_run:
        if found and not intact:
            session.layout.quarantine.mkdir(exist_ok=True)
            (session.layout.quarantine / f"{key}{_LOST}").touch()  # durable with the quarantined file
        for damage in found:
            if damage.row is None:
                path = Path(session.layout.loose_name(session.config, key))
                with _quarantined(session, key) as (target, _):
                    os.replace(path, target)  # noqa: PTH105
                fsync_directory(path.parent)
            else:
                with _quarantined(session, f"{key}.packed") as (_, file):
                    file.writelines(_readable(session, damage.row))
    return "restored" if intact else "quarantined"


def drop_damaged(session: ContainerSession, key: str) -> None:
    """Remove the row of a damaged copy of an object that was quarantined, and the mark that the object is lost."""
    found, intact = damages(session, key)
    for damage in found:
        if damage.row is not None and damage.readable:
            session.index.remove_rows([damage.row])
    if intact:
        (session.layout.quarantine / f"{key}{_LOST}").unlink(missing_ok=True)


def lost_keys(session: ContainerSession) -> list[str]:
    """Return the keys of objects that an earlier repair quarantined and could not take from another repository."""
    with suppress(FileNotFoundError):
        names = sorted(path.name.removesuffix(_LOST) for path in session.layout.quarantine.glob(f"*{_LOST}"))
        return [key for key in names if is_key(key, session.config.hash_type)]
    return []


def remove_stale_files(session: ContainerSession, dry_run: bool) -> list[RepairStep]:
    """Remove what interrupted processes left behind; the caller has exclusive use of the container."""
    steps = []
    for leftover in find_leftovers(session):
        if leftover.kind == "temporary file":
            step = RepairStep("removed", leftover.path, "a temporary file of a write that was interrupted")
            if not dry_run:
                try:
                    Path(leftover.path).unlink(missing_ok=True)
                except OSError as error:
                    step = RepairStep("skipped", leftover.path, f"it cannot be removed: {error.strerror}")
            steps.append(step)
    if os.path.exists(session.packs.path(REPACK_PACK)):  # noqa: PTH110
        steps.append(RepairStep("recovered", session.packs.path(REPACK_PACK), "a repack was interrupted"))
        if not dry_run:
            recover_repack(session)
    return steps


@contextmanager
def _quarantined(session: ContainerSession, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a new file in the quarantine, to be written or replaced; it is durable on exit."""
    folder = session.layout.quarantine
    folder.mkdir(exist_ok=True)
    number = 0
    while True:
        path = folder / (f"{name}.{number}" if number else name)
        try:
            file = open(path, "xb")  # noqa: SIM115
            break
        except FileExistsError:
            number += 1
    with file, with_path(path):
        yield path, file
        fsync_file(file)
    fsync_directory(folder)
    fsync_directory(folder.parent)


def _readable(session: ContainerSession, row: Row) -> Iterator[bytes]:
    """Yield the bytes of a packed object up to the first that cannot be read, or its row if that is invalid."""
    if not row.is_valid():
        yield repr(tuple(row)).encode()
        return
    # Errors of reading end the iteration; those of writing do not get here.
    with suppress(OSError, RepositoryError, *NO_ROW), safe_open(session.packs.path(row.pack_id)) as pack:
        for start in range(0, row.length, _COPY_BYTES):
            data = read_at(pack.fileno(), min(_COPY_BYTES, row.length - start), row.offset + start)
            if not data:
                return
            yield data
