"""Repairing a container without losing bytes: damaged copies are moved to its quarantine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

from objrepo.disk.index import NO_ROW, Row
from objrepo.disk.layout import REPACK_PACK
from objrepo.disk.locks import maintenance_lock
from objrepo.disk.pack_files import read_at
from objrepo.disk.repack import recover_repack
from objrepo.disk.safe_open import safe_open
from objrepo.disk.session import ContainerSession, SessionPool
from objrepo.disk.verify import damages, find_leftovers
from objrepo.errors import RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.keys import is_key
from objrepo.reports import RepairStep

_COPY_BYTES: Final = 1024 * 1024
_LOST: Final = ".lost"
"""The suffix of a marker in the quarantine: the object has no intact copy, and is to be taken from a source."""


def quarantine_object(
    sessions: SessionPool, key: str, dry_run: bool, timeout: float
) -> Literal["restored", "quarantined", "skipped"]:
    """Move a damaged loose file of an object to the quarantine, and copy its damaged bytes in a pack to it.

    :return: ``'restored'`` if another copy is intact, ``'skipped'`` if a copy cannot be read: it may be intact.
    """
    with sessions.check_out() as session, _lock(session, dry_run, timeout):
        found, intact = damages(session, key)
        if not all(damage.readable for damage in found):
            return "skipped"
        if found and not intact and not dry_run:
            session.layout.quarantine.mkdir(exist_ok=True)
            (session.layout.quarantine / f"{key}{_LOST}").touch()  # durable with the quarantined file
        for damage in () if dry_run else found:
            if damage.row is None:
                path = Path(session.layout.loose_name(session.config, key))
                with _quarantined(session, key) as (target, _):
                    os.replace(path, target)  # noqa: PTH105
                fsync_directory(path.parent)
            else:
                with _quarantined(session, f"{key}.packed") as (_, file):
                    file.writelines(_readable(session, damage.row))
        return "restored" if intact else "quarantined"


def drop_damaged(sessions: SessionPool, key: str, timeout: float) -> None:
    """Remove the row of a damaged copy of an object that was quarantined, and the mark that the object is lost."""
    with sessions.check_out() as session, maintenance_lock(session.layout, timeout):
        found, intact = damages(session, key)
        if packed := [damage.row for damage in found if damage.row is not None and damage.readable]:
            session.index.remove_rows(packed)
        if intact:
            (session.layout.quarantine / f"{key}{_LOST}").unlink(missing_ok=True)


def lost_keys(sessions: SessionPool) -> list[str]:
    """Return the keys of objects that an earlier repair quarantined and could not take from another repository."""
    with sessions.check_out() as session, suppress(FileNotFoundError):
        names = sorted(path.name.removesuffix(_LOST) for path in session.layout.quarantine.glob(f"*{_LOST}"))
        return [key for key in names if is_key(key, session.config.hash_type)]
    return []


def remove_stale_files(sessions: SessionPool, dry_run: bool, live: bool, timeout: float) -> list[RepairStep]:
    """Remove locks and what interrupted processes left behind; nothing while others may use the container."""
    with sessions.check_out() as session:
        steps = [RepairStep("removed", str(path), "a stale lock") for path in session.layout.pack_locks()]
        with _lock(session, dry_run, timeout, break_locks=not live):
            if live:
                return []
            for leftover in find_leftovers(session):
                if leftover.kind == "temporary file":
                    step = RepairStep("removed", leftover.path, "a temporary file of a write that was interrupted")
                    try:
                        if not dry_run:
                            Path(leftover.path).unlink(missing_ok=True)
                    except OSError as error:
                        step = RepairStep("skipped", leftover.path, f"it cannot be removed: {error.strerror}")
                    steps.append(step)
            if os.path.exists(session.packs.path(REPACK_PACK)):  # noqa: PTH110
                steps.append(RepairStep("recovered", session.packs.path(REPACK_PACK), "a repack was interrupted"))
                if not dry_run:
                    recover_repack(session)
            return steps


def _lock(
    session: ContainerSession, dry_run: bool, timeout: float, *, break_locks: bool = False
) -> AbstractContextManager[None]:
    return nullcontext() if dry_run else maintenance_lock(session.layout, timeout, break_locks=break_locks)


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
