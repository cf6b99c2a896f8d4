"""Repairing a container by steps that lose nothing: what is damaged goes to its quarantine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from objrepo.disk.index import NO_ROW, Row
from objrepo.disk.layout import REPACK_PACK
from objrepo.disk.pack_files import read_at
from objrepo.disk.repack import recover_repack
from objrepo.disk.safe_open import safe_open
from objrepo.disk.session import ContainerSession
from objrepo.disk.verify import damages, find_leftovers
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.reports import RepairStep

__all__ = ("drop_damaged", "has_intact_copy", "quarantine_object", "remove_stale_files")

_COPY_BYTES: Final = 1024 * 1024


def has_intact_copy(session: ContainerSession, key: str) -> bool:
    """Say whether one of the copies of an object is as it should be."""
    return damages(session, key)[1]


def quarantine_object(session: ContainerSession, key: str) -> bool:
    """Move a damaged file of an object to the quarantine, and copy its damaged bytes in a pack to it.

    :return: whether another copy is intact.
    """
    found, intact = damages(session, key)
    for damage in found:
        if damage.row is None:
            path = Path(session.layout.loose_name(session.config, key))
            with _quarantined(session, key) as (target, _):
                os.replace(path, target)  # noqa: PTH105
            fsync_directory(path.parent)
        else:
            with _quarantined(session, f"{key}.packed") as (_, file):
                _copy_packed(session, damage.row, file)
    return intact


def drop_damaged(session: ContainerSession, key: str) -> bool:
    """Have the index forget a damaged copy of an object, which was set aside; return whether another one is intact."""
    found, intact = damages(session, key)
    for damage in found:
        if damage.row is not None:
            session.index.remove_row(damage.row)
    return intact


def remove_stale_files(session: ContainerSession, dry_run: bool) -> list[RepairStep]:
    """Take away what others have left that were interrupted; the caller knows that nobody else is at work."""
    steps = []
    for leftover in find_leftovers(session):
        if leftover.kind == "temporary file":
            steps.append(RepairStep("removed", leftover.path, "a temporary file of a write that was interrupted"))
            if not dry_run:
                Path(leftover.path).unlink(missing_ok=True)
    if session.packs.file_id(REPACK_PACK) is not None:
        steps.append(RepairStep("recovered", session.packs.path(REPACK_PACK), "a repack was interrupted"))
        if not dry_run:
            recover_repack(session)
    return steps


@contextmanager
def _quarantined(session: ContainerSession, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a new file in the quarantine, to be written or replaced; on leaving it is on the disk."""
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


def _copy_packed(session: ContainerSession, row: Row, target: BinaryIO) -> None:
    """Copy those bytes of a packed object that can be read."""
    with suppress(OSError, RepositoryError, *NO_ROW), safe_open(session.packs.path(row.pack_id)) as pack:
        for start in range(0, max(row.length, 0), _COPY_BYTES):
            data = read_at(pack.fileno(), min(_COPY_BYTES, row.length - start), row.offset + start)
            if not data:
                break
            target.write(data)
