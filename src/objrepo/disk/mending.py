"""The part of a `DiskRepository` that repairs: what is damaged is put aside, and taken from where it is intact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from objrepo.disk.layout import Layout
from objrepo.disk.locks import maintenance_lock
from objrepo.disk.repair import drop_damaged, has_intact_copy, quarantine_object, remove_stale_files
from objrepo.disk.session import ContainerSession, SessionPool
from objrepo.errors import RepositoryError
from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository
from objrepo.reports import ProgressCallback, RepairReport, RepairStep
from objrepo.repository import Repository, log

__all__ = ("Repairable",)

_Mended: TypeAlias = Literal["restored", "refilled", "quarantined"]


class Repairable(Repository):
    """A repository in a container, which can be repaired.

    :param folder: the container's.
    :param offload: where the blocking work is done.
    """

    def __init__(self, folder: Path, offload: Offload | None) -> None:
        super().__init__(offload)
        self._layout = Layout(folder)
        self._pool = SessionPool(self._layout)

    async def repair(
        self,
        dry_run: bool = False,
        live: bool = True,
        *,
        source: AsyncRepository | None = None,
        timeout: float = 0,
        progress: ProgressCallback | None = None,
    ) -> RepairReport:
        """Verify, and mend what can be mended by steps that lose nothing.

        A damaged copy goes to the folder ``quarantine`` in the repository. If another copy is intact (loose beside
        packed, or the other way) the object is restored by that; if it is in ``source``, it is put again from there;
        else it is gone. Cancellation is waited for, and ends the work between two objects.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository. If not, temporary files and locks that were left over
            are removed and an interrupted repack is finished, too.
        :param source: another repository with the same kind of keys, which damaged objects are taken from.
        :param timeout: how many seconds to wait for a packer to end; 0 does not wait.
        :param progress: told of each stretch of objects that was verified.
        :raises ValueError: if the source has other keys.
        :raises RepositoryBusyError: if a packer is at work.
        """
        if source is not None and await source.key_format() != await self.key_format():
            raise ValueError(
                f"cannot repair from {source}: its keys are {await source.key_format()}, not {await self.key_format()}"
            )
        steps = await self._ready().run(self._tidy, dry_run, live, timeout)
        report = await self.verify(progress)
        for damaged in {damaged.key: damaged for damaged in report.damaged}.values():
            action = await self._mend(damaged.key, dry_run, source, timeout)
            steps.append(RepairStep(action, damaged.key, damaged.reason))
        if steps and not dry_run:
            log.warning("repaired %s: %s", self, ", ".join(f"{step.action} {step.subject}" for step in steps))
        return RepairReport(dry_run, tuple(steps))

    async def _mend(self, key: str, dry_run: bool, source: AsyncRepository | None, timeout: float) -> _Mended:
        run = self._ready().run
        if await (run(self._looking, key) if dry_run else run(self._maintaining, quarantine_object, key, timeout)):
            action: _Mended = "restored"
        else:
            action = "refilled" if source is not None and await self._refill(key, dry_run, source) else "quarantined"
        if not dry_run:
            await run(self._maintaining, drop_damaged, key, timeout)
        return action

    async def _refill(self, key: str, dry_run: bool, source: AsyncRepository) -> bool:
        """Put an object again from another repository, if it has it as it should be."""
        try:
            if dry_run:
                return await source.has(key)
            async with source.open(key, check=True) as stream:
                return await self.put(stream) == key
        except RepositoryError:
            return False

    def _tidy(self, dry_run: bool, live: bool, timeout: float) -> list[RepairStep]:
        with self._pool.lease() as lease:
            locks = [
                RepairStep("removed", str(path), "a lock that was left over") for path in lease.layout.pack_locks()
            ]
            if dry_run:
                return [] if live else locks + remove_stale_files(lease, dry_run=True)
            with maintenance_lock(lease.layout, timeout, break_locks=not live):
                return [] if live else locks + remove_stale_files(lease, dry_run=False)

    def _looking(self, key: str) -> bool:
        with self._pool.lease() as lease:
            return has_intact_copy(lease, key)

    def _maintaining(self, function: Callable[[ContainerSession, str], bool], key: str, timeout: float) -> bool:
        with self._pool.lease() as lease, maintenance_lock(lease.layout, timeout):
            return function(lease, key)
