"""Packing, repacking and cleaning a container, by one packer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from objrepo.disk.group import FIRST_OWN_PACK, own_pack_lock
from objrepo.disk.layout import Layout
from objrepo.disk.listing import loose_keys
from objrepo.disk.pool import Lease
from objrepo.errors import CorruptObjectError, RepositoryBusyError, RepositoryError
from objrepo.offload import OperationAbandoned, is_abandoned
from objrepo.reports import MaintenanceStep, Progress, ProgressCallback

__all__ = ("DELETE_PATIENCE", "Plan", "maintenance_lock", "perform", "store_errors", "survey")

DELETE_PATIENCE: Final = 30.0
"""How many seconds a deletion waits for a packer: a packer would bring back what is deleted under it."""


@dataclass(frozen=True)
class Plan:
    """Which steps of maintenance to take."""

    pack_loose: bool
    do_repack: bool
    clean_storage: bool
    do_vacuum: bool
    compress: bool
    incremental_cleanup: bool

    @classmethod
    def of(
        cls,
        live: bool,
        pack_loose: bool | None,
        do_repack: bool | None,
        clean_storage: bool | None,
        do_vacuum: bool | None,
        compress: bool,
        incremental_cleanup: bool,
    ) -> Plan:
        """Fill in what was left open: everything, or while the repository is live what is safe then.

        The rules are those of ``DiskObjectStoreRepositoryBackend.maintain`` in aiida-core 2.9.

        :raises ValueError: if something is asked for that is not safe while the repository is live.
        """
        asked = {"do_repack": do_repack, "clean_storage": clean_storage, "do_vacuum": do_vacuum}
        unsafe = ", ".join(name for name, value in asked.items() if value)
        if live and unsafe:
            raise ValueError(f"not safe while others may use the repository: {unsafe}; pass live=False if nobody does")
        return cls(
            pack_loose=pack_loose is not False,
            do_repack=not live and do_repack is not False,
            clean_storage=clean_storage is not False,
            do_vacuum=not live and do_vacuum is not False,
            compress=compress,
            incremental_cleanup=incremental_cleanup,
        )


@contextmanager
def maintenance_lock(layout: Layout, timeout: float) -> Iterator[None]:
    """Hold the lock that one packer at a time holds, across threads and processes.

    :param timeout: how many seconds to wait for it; 0 tries once.
    :raises RepositoryBusyError: if somebody else holds it, or if another program is writing to a pack.
    """
    import filelock

    try:
        lock = filelock.FileLock(layout.maintenance_lock).acquire(
            timeout=timeout, poll_interval=0.02, cancel_check=is_abandoned
        )
    except filelock.Timeout:
        if is_abandoned():
            raise OperationAbandoned from None
        raise RepositoryBusyError(
            f"the repository at {layout.folder} is being maintained by somebody else (lock {layout.maintenance_lock})"
        ) from None
    with lock:
        if locks := layout.pack_locks():
            raise RepositoryBusyError(
                f"another program is packing the repository at {layout.folder}, or was killed while it did: "
                f"{locks[0]} exists"
            )
        yield


@contextmanager
def store_errors(layout: Layout) -> Iterator[None]:
    """Turn the errors of disk-objectstore and SQLAlchemy into those of objrepo."""
    from disk_objectstore.exceptions import InconsistentContent
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except InconsistentContent as error:
        raise CorruptObjectError(_key_in(str(error)), str(error)) from error
    except SQLAlchemyError as error:
        cause = error.__cause__ or error
        if "locked" in str(cause):
            raise RepositoryBusyError(f"the index {layout.index_file} is locked by another process") from error
        raise RepositoryError(f"the index {layout.index_file} cannot be written: {cause}") from error


def survey(lease: Lease, plan: Plan) -> tuple[MaintenanceStep, ...]:
    """Say what the plan comes to, without changing anything."""
    steps = []
    loose = _survey_loose(lease)
    if plan.pack_loose:
        steps.append(MaintenanceStep("pack_loose", *loose.waiting))
    packed = lease.index.count()
    if plan.do_repack:
        steps.append(MaintenanceStep("do_repack", packed, _holes(lease)))
    if plan.clean_storage:
        steps.append(MaintenanceStep("clean_storage", *loose.copies))
    if plan.do_vacuum:
        steps.append(MaintenanceStep("do_vacuum", packed, lease.layout.index_file.stat().st_size))
    return tuple(steps)


def perform(lease: Lease, plan: Plan, progress: ProgressCallback | None) -> tuple[MaintenanceStep, ...]:
    """Do what the plan says; the caller holds the maintenance lock.

    A caller that has been cancelled stops it between two objects or two packs; what was committed by then stays.
    """
    steps = []
    with store_errors(lease.layout):
        if plan.pack_loose:
            steps.append(_pack(lease, plan, progress))
        if plan.do_repack:
            steps.append(_repack(lease, progress))
        if plan.clean_storage:
            copies = _survey_loose(lease).copies
            lease.container.clean_storage()
            steps.append(MaintenanceStep("clean_storage", *copies))
        if plan.do_vacuum:
            lease.end_transaction()
            lease.index.vacuum()
            steps.append(MaintenanceStep("do_vacuum", lease.index.count(), lease.layout.index_file.stat().st_size))
    return tuple(steps)


@dataclass(frozen=True)
class _Loose:
    """Objects and bytes of loose files: those not packed yet, and those that are copies of packed objects."""

    waiting: tuple[int, int]
    copies: tuple[int, int]


def _survey_loose(lease: Lease) -> _Loose:
    waiting = [0, 0]
    copies = [0, 0]
    for keys in loose_keys(lease):
        packed = lease.index.present(keys)
        for key in keys:
            try:
                size = lease.layout.loose_path(lease.config, key).stat().st_size
            except FileNotFoundError:
                continue
            counter = copies if key in packed else waiting
            counter[0] += 1
            counter[1] += size
    return _Loose((waiting[0], waiting[1]), (copies[0], copies[1]))


def _holes(lease: Lease) -> int:
    """Return the bytes in packs that belong to no object any more."""
    return max(lease.layout.pack_files_size() - lease.index.sums()[1], 0)


def _pack(lease: Lease, plan: Plan, progress: ProgressCallback | None) -> MaintenanceStep:
    from disk_objectstore import CompressMode

    count, (size, _) = lease.index.count(), lease.index.sums()
    try:
        lease.container.pack_all_loose(
            compress=CompressMode.AUTO if plan.compress else CompressMode.NO,
            callback=_listener("pack_loose", progress),
            clean_loose_per_pack=plan.incremental_cleanup,
            do_fsync=False,  # the container flushes each pack by itself
        )
    finally:
        lease.end_transaction()
    return MaintenanceStep("pack_loose", lease.index.count() - count, lease.index.sums()[0] - size)


def _repack(lease: Lease, progress: ProgressCallback | None) -> MaintenanceStep:
    before = lease.layout.pack_files_size()
    packs = lease.layout.pack_files()
    done = 0
    for path in packs:
        # Between two packs only: a repack of one that is broken off leaves a file that stops the next.
        if is_abandoned():
            raise OperationAbandoned
        size = path.stat().st_size
        _repack_one(lease, path.name)
        done += size
        if progress is not None:
            progress(Progress("do_repack", done, before, "bytes"))
    lease.end_transaction()
    return MaintenanceStep("do_repack", lease.index.count(), max(before - lease.layout.pack_files_size(), 0))


def _repack_one(lease: Lease, name: str) -> None:
    if int(name) < FIRST_OWN_PACK:
        lease.container.repack_pack(name)
        return
    with own_pack_lock(lease.layout.folder, int(name), DELETE_PATIENCE) as locked:
        if not locked:
            raise RepositoryBusyError(f"somebody is writing to pack {name} of the repository at {lease.layout.folder}")
        lease.container.repack_pack(name)


def _listener(step: str, progress: ProgressCallback | None) -> Callable[[str, Any], None]:
    done = total = 0

    def listen(action: str, value: Any) -> None:
        nonlocal done, total
        if is_abandoned():
            raise OperationAbandoned
        if action == "init":
            done, total = 0, int(value["total"])
        elif action == "update":
            done += int(value)
        if progress is not None:
            progress(Progress(step, done, total, "bytes"))

    return listen


def _key_in(message: str) -> str:
    """Return the key that an error of disk-objectstore names, in quotes."""
    return message.split("'")[1] if message.count("'") > 1 else "?"
