"""The part of a `DiskRepository` that repairs: what is damaged is put aside, and taken from where it is intact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from objrepo.disk.layout import Layout
from objrepo.disk.locks import maintenance_lock
from objrepo.disk.repair import drop_damaged, lost_keys, quarantine_object, remove_stale_files
from objrepo.disk.session import ContainerSession, SessionPool
from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository
from objrepo.reports import ProgressCallback, RepairReport, RepairStep
from objrepo.repository import Repository, log

__all__ = ("Repairable",)

_Mended: TypeAlias = Literal["restored", "refilled", "quarantined", "skipped"]
T = TypeVar("T")


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
        """Verify, and repair without losing bytes.

        A damaged copy goes to the folder ``quarantine`` in the repository. If another copy is intact (loose beside
        packed, or the other way) the object is restored by that; if it is in ``source``, it is put again from there;
        else it is lost, and the next repair with a source looks for it there. A file that cannot be read, as without
        permission, is reported and skipped. The work is shielded from cancellation, which ends it between two objects.

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
        run = self._ready().run
        steps = await run(self._tidy, dry_run, live, timeout)
        lost = [] if source is None else await run(self._in_session, lost_keys)
        report = await self.verify(progress)
        damaged = {damaged.key: damaged for damaged in report.damaged}
        for key, each in damaged.items():
            action, reason = await self._mend(key, dry_run, source, timeout)
            steps.append(RepairStep(action, key, reason or each.reason))
        for key in lost:
            if source is not None and key not in damaged:
                present = await self.has(key)
                refilled = present or await self._refill(key, dry_run, source)
                if refilled and not dry_run:
                    await run(self._maintaining, drop_damaged, key, timeout)
                if not present:
                    action = "refilled" if refilled else "quarantined"
                    steps.append(RepairStep(action, key, "it was lost in an earlier repair"))
        if steps and not dry_run:
            log.warning("repaired %s: %s", self, ", ".join(f"{step.action} {step.subject}" for step in steps))
        return RepairReport(dry_run, tuple(steps))

    async def _mend(
        self, key: str, dry_run: bool, source: AsyncRepository | None, timeout: float
    ) -> tuple[_Mended, str]:
        """Return what was done for an object, and why if it is not its damage."""
        run = self._ready().run
        try:
            action: _Mended = await (
                run(self._in_session, partial(quarantine_object, key=key, dry_run=True))
                if dry_run
                else run(self._maintaining, quarantine_object, key, timeout)
            )
        except RepositoryError:
            raise
        except OSError as error:
            return "skipped", f"it cannot be quarantined: {error}"
        if action == "quarantined" and source is not None and await self._refill(key, dry_run, source):
            action = "refilled"
        if not dry_run and action != "skipped":
            await run(self._maintaining, drop_damaged, key, timeout)
        return action, ""

    async def _refill(self, key: str, dry_run: bool, source: AsyncRepository) -> bool:
        """Put an object again from another repository, if it has an intact copy."""
        try:
            if dry_run:
                return await source.has(key)
            async with source.open(key, check=True) as stream:
                return await self.put(stream) == key
        except ObjectNotFoundError:
            return False
        except (RepositoryError, OSError) as error:
            log.warning("%s was not taken from %s: %s; repair again to retry", key, source, error)
            return False

    def _tidy(self, dry_run: bool, live: bool, timeout: float) -> list[RepairStep]:
        with self._pool.lease() as session:
            locks = [
                RepairStep("removed", str(path), "a lock that was left over") for path in session.layout.pack_locks()
            ]
            if dry_run:
                return [] if live else locks + remove_stale_files(session, dry_run=True)
            with maintenance_lock(session.layout, timeout, break_locks=not live):
                return [] if live else locks + remove_stale_files(session, dry_run=False)

    def _in_session(self, function: Callable[[ContainerSession], T]) -> T:
        with self._pool.lease() as session:
            return function(session)

    def _maintaining(self, function: Callable[[ContainerSession, str], T], key: str, timeout: float) -> T:
        with self._pool.lease() as session, maintenance_lock(session.layout, timeout):
            return function(session, key)
