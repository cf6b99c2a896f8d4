"""`DiskRepository`: objects in a folder that disk-objectstore reads and writes too."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from objrepo.disk.backend import DiskBackend
from objrepo.disk.repair import drop_damaged, lost_keys, quarantine_object, remove_stale_files
from objrepo.disk.stats import DiskInfo, ObjectLocation
from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.keys import require_str
from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository
from objrepo.reports import MaintenanceReport, ProgressCallback, RepairReport, RepairStep, Statistics
from objrepo.repository import REPORTED, Repository, log

_RepairAction: TypeAlias = Literal["restored", "refilled", "quarantined", "skipped"]


class DiskRepository(Repository[DiskBackend]):
    """Keeps objects in a folder that is a ``disk_objectstore.Container``, under the hash of their content.

    AiiDA, ``dostore`` and other processes may read and write the same folder at any time. When ``put`` returns, the
    object is durable: file and directories are fsynced. With ``durable=False`` an object that is stored in a file of
    its own is not: a power failure within the next minute may remove it, or leave a file under its key that is short or
    filled with zeros. Readers see whole objects only, as long as the system runs.

    :param path: the folder; nothing is read or created before the first use.
    :param offload: where the blocking methods run; worker threads unless given.
    :param check: whether every read of a whole object compares the content with the key, unless it is called with
        ``check=False``; a small one before the first byte, a large one at its end.
    :param durable: whether objects in files of their own are fsynced. False is for caches, scratch data and data that
        can be made again. Objects that are stored as a group (``put_many``, ``batch``, many concurrent calls of
        ``put``) go to a pack, which is fsynced once for each group.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offload: Offload | None = None,
        *,
        check: bool = False,
        durable: bool = True,
    ) -> None:
        super().__init__(DiskBackend(path, durable), offload, check=check)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.backend.path

    def statistics(self) -> Statistics:
        """Return what this object is doing at the moment. It may be called at any time, and never blocks."""
        return replace(super().statistics(), idle_connections=self.backend.sessions.idle)

    async def initialise(
        self,
        *,
        clear: bool = False,
        pack_size_target: int | None = None,
        loose_prefix_len: int | None = None,
        hash_type: str | None = None,
        compression_algorithm: str | None = None,
    ) -> None:
        """Create the repository, or do nothing if it exists. Shielded from cancellation.

        The options and their defaults are those of ``Container.init_container`` of disk-objectstore.

        :param clear: whether to delete an existing repository first, with all its objects.
        :param pack_size_target: the size in bytes at which a pack is full; 4 GiB unless given.
        :param loose_prefix_len: how many digits of the key name the folder of a loose object, 0 to 8; 2 unless given.
        :param hash_type: ``'sha256'`` (the default) or ``'sha1'``.
        :param compression_algorithm: ``'zlib+1'`` (the default) to ``'zlib+9'``.
        :raises ValueError: if an option is invalid or contradicts the existing repository.
        :raises TypeError: if an option is of a wrong type.
        :raises FileExistsError: if the folder contains other files than a repository.
        :raises NotADirectoryError: if the path is a file.
        """
        await super().initialise(
            clear=clear,
            pack_size_target=pack_size_target,
            loose_prefix_len=loose_prefix_len,
            hash_type=hash_type,
            compression_algorithm=compression_algorithm,
        )

    async def info(self, detailed: bool = False) -> DiskInfo:
        """Return the state of the repository. Abandoned on cancellation.

        :param detailed: whether to sum up the sizes too, which takes longer.
        :raises NotInitialisedError: if the repository does not exist.
        """
        info = await super().info(detailed)
        assert isinstance(info, DiskInfo), "the backend is a DiskBackend"
        return info

    async def locate(self, key: str) -> ObjectLocation:
        """Return which file holds an object, and where in the file. Abandoned on cancellation.

        :param key: the object.
        :raises ObjectNotFoundError: if the object does not exist.
        """
        return await self._open().run(self.backend.locate, require_str(key), abandon_on_cancel=True)

    async def keys_with_prefix(self, prefix: str) -> list[str]:
        """Return the keys that begin with some digits, without listing all keys. Abandoned on cancellation.

        :param prefix: at least two lower-case hexadecimal digits.
        :return: the keys in order.
        :raises ValueError: if the prefix is something else.
        :raises NotInitialisedError: if the repository does not exist.
        """
        return await self._open().run(self.backend.keys_with_prefix, prefix, abandon_on_cancel=True)

    async def maintain(
        self,
        dry_run: bool = False,
        live: bool = True,
        *,
        pack_loose: bool | None = None,
        do_repack: bool | None = None,
        clean_storage: bool | None = None,
        do_vacuum: bool | None = None,
        compress: bool = False,
        incremental_cleanup: bool = True,
        timeout: float = 0,
        progress: ProgressCallback | None = None,
    ) -> MaintenanceReport:
        """Pack loose objects and, if no other process uses the repository, free space in packs and index.

        A step that is None is run if it is safe. Shielded from cancellation, which ends the work between two objects or
        two packs; its results by then remain.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only packing and removing loose copies is done.
        :param pack_loose: whether to move loose objects into packs. Size of the step: the bytes of these objects.
        :param do_repack: whether to rewrite packs without deleted objects. Size of the step: the bytes it frees.
        :param clean_storage: whether to remove loose files of packed objects. Size of the step: the bytes of these.
        :param do_vacuum: whether to rewrite the index. Size of the step: the bytes of the index.
        :param compress: whether packing compresses objects where that makes them smaller.
        :param incremental_cleanup: whether loose files go as soon as their pack is written, which needs less space,
            or only with ``clean_storage``.
        :param timeout: how many seconds to wait for another packer to end; 0 does not wait.
        :param progress: called for each object that was packed and each pack that was rewritten.
        :return: what each step did, or with ``dry_run`` would do.
        :raises ValueError: if ``do_repack``, ``clean_storage`` or ``do_vacuum`` is asked for with ``live``.
        :raises RepositoryBusyError: if another packer is at work, at once or after ``timeout``.
        :raises CorruptObjectError: if a loose object does not hash to its key; it is not packed.
        """
        return await super().maintain(
            dry_run,
            live,
            pack_loose=pack_loose,
            do_repack=do_repack,
            clean_storage=clean_storage,
            do_vacuum=do_vacuum,
            compress=compress,
            incremental_cleanup=incremental_cleanup,
            timeout=timeout,
            progress=progress,
        )

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
        packed, or the reverse) the object is restored from it; if the object is in ``source``, it is put again from
        there; else it is lost, and the next repair with a source looks for it there. A file that cannot be read is
        reported and skipped. The work is shielded from cancellation, which ends it between two objects.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository. If not, temporary files and locks of killed
            processes are removed and an interrupted repack is finished, too.
        :param source: another repository with the same kind of keys, which damaged objects are taken from.
        :param timeout: how many seconds to wait for a packer to end; 0 does not wait.
        :param progress: called for each group of objects that was verified.
        :return: the changes in their order, or with ``dry_run`` those that would be made.
        :raises ValueError: if the source has other keys.
        :raises RepositoryBusyError: if a packer is at work.
        """
        if source is not None and await source.key_format() != await self.key_format():
            raise ValueError(
                f"cannot repair from {source}: its keys are {await source.key_format()}, not {await self.key_format()}"
            )
        run, sessions = self._open().run, self.backend.sessions
        steps = await run(remove_stale_files, sessions, dry_run, live, timeout)
        lost = [] if source is None else await run(lost_keys, sessions)
        report = await self.verify(progress)
        damaged = {damaged.key: damaged for damaged in report.damaged}
        for key, each in damaged.items():
            action, reason = await self._repair_object(key, dry_run, source, timeout)
            steps.append(RepairStep(action, key, reason or each.reason))
        for key in lost:
            if source is not None and key not in damaged:
                present = await self.has(key)
                refilled = present or await self._refill(key, dry_run, source)
                if refilled and not dry_run:
                    await run(drop_damaged, sessions, key, timeout)
                if not present:
                    action = "refilled" if refilled else "quarantined"
                    steps.append(RepairStep(action, key, "it was lost in an earlier repair"))
        if steps and not dry_run:
            done = ", ".join(f"{step.action} {step.subject}" for step in steps)
            log.warning("repaired %s: %s", self, done, extra=REPORTED)
        return RepairReport(dry_run, tuple(steps))

    async def _repair_object(
        self, key: str, dry_run: bool, source: AsyncRepository | None, timeout: float
    ) -> tuple[_RepairAction, str]:
        """Return what was done for an object, and why if it is not its damage."""
        run, sessions = self._open().run, self.backend.sessions
        try:
            action: _RepairAction = await run(quarantine_object, sessions, key, dry_run, timeout)
        except RepositoryError:
            raise
        except OSError as error:
            return "skipped", f"it cannot be quarantined: {error}"
        if action == "quarantined" and source is not None and await self._refill(key, dry_run, source):
            action = "refilled"
        if not dry_run and action != "skipped":
            await run(drop_damaged, sessions, key, timeout)
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
