"""Maintenance of a container: packing, repacking, cleaning and vacuuming, by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from objrepo.disk.listing import loose_keys, loose_sizes
from objrepo.disk.loose import remove_loose
from objrepo.disk.repack import cut_off_appended, is_disk_full, repack, unreferenced_bytes
from objrepo.disk.safe_open import is_inside, refused
from objrepo.disk.session import ContainerSession
from objrepo.errors import RepositoryError
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.reports import MaintenanceStep, Progress, ProgressCallback, watching_reads

_TRIES: Final = 20
_SLICE: Final = 8192
"""How many loose objects are packed at once: disk-objectstore takes 1 KiB of memory for each, and looks up to 9,500 up
in the index without reading it all."""


class Plan:
    """Which steps of maintenance to take. One that is None is taken unless it is not safe in a live repository.

    The rules are those of ``DiskObjectStoreRepositoryBackend.maintain`` in aiida-core 2.9.

    :raises ValueError: if a requested step is not safe while the repository is live.
    """

    def __init__(
        self,
        live: bool,
        *,
        pack_loose: bool | None = None,
        do_repack: bool | None = None,
        clean_storage: bool | None = None,
        do_vacuum: bool | None = None,
        compress: bool = False,
        incremental_cleanup: bool = True,
    ) -> None:
        asked = {"do_repack": do_repack, "clean_storage": clean_storage, "do_vacuum": do_vacuum}
        unsafe = ", ".join(name for name, value in asked.items() if value)
        if live and unsafe:
            raise ValueError(
                f"not safe while other processes may use the repository: {unsafe}; pass live=False if none does"
            )
        self.pack_loose: bool = pack_loose is not False
        self.do_repack: bool = not live and do_repack is not False
        self.clean_storage: bool = clean_storage is not False
        self.do_vacuum: bool = not live and do_vacuum is not False
        self.compress = compress
        self.incremental_cleanup = incremental_cleanup


def estimate(session: ContainerSession, plan: Plan) -> tuple[MaintenanceStep, ...]:
    """Return the steps of the plan with their objects and bytes, without changing anything."""
    waiting, copies = [0, 0], [0, 0]
    for keys in loose_keys(session):
        packed = session.index.present(keys)
        for key, size in loose_sizes(session, keys).items():
            counter = copies if key in packed else waiting
            counter[0] += 1
            counter[1] += size
    count = session.index.count()
    steps = (
        MaintenanceStep("pack_loose", *waiting),
        MaintenanceStep("do_repack", count, unreferenced_bytes(session)),
        MaintenanceStep("clean_storage", *copies),
        MaintenanceStep("do_vacuum", count, session.layout.index_file.stat().st_size),
    )
    return tuple(step for step in steps if getattr(plan, step.name))


def run(session: ContainerSession, plan: Plan, progress: ProgressCallback | None) -> tuple[MaintenanceStep, ...]:
    """Take the steps of the plan; the caller holds the maintenance lock.

    If the disk is full, a step that fails is taken again after the others, which may free space. Cancellation stops the
    work between two objects or two packs; what was committed by then stays.
    """
    cut_off_appended(session)
    names = [name for name in _STEPS if getattr(plan, name)]
    steps = {}
    failed = []
    for name in names:
        try:
            steps[name] = _STEPS[name](session, plan, progress)
        except (OSError, RepositoryError) as error:
            if not is_disk_full(error):
                raise
            failed.append(name)
    for name in failed:
        steps[name] = _STEPS[name](session, plan, progress)
    return tuple(steps[name] for name in names)


def _pack(session: ContainerSession, plan: Plan, progress: ProgressCallback | None) -> MaintenanceStep:
    packed = _PackProgress(progress, sum(_loose_size(session, keys) for keys in loose_keys(session)))
    count, (size, _) = session.index.count(), session.index.sums()
    cut_off_appended(session)
    try:
        with watching_reads(packed.read):
            for keys in _slices(loose_keys(session)):
                _pack_slice(session, plan, keys)
    finally:
        session.end_transaction()
        cut_off_appended(session)
    packed.finish()
    return MaintenanceStep("pack_loose", session.index.count() - count, session.index.sums()[0] - size)


def _loose_size(session: ContainerSession, keys: list[str]) -> int:
    """Return how many bytes loose objects have.

    :raises UnsafePathError: if one is a symbolic link, which disk-objectstore would follow.
    """
    sizes = 0
    for path in (session.layout.loose_name(session.config, key) for key in keys):
        status = is_inside(path)
        if status is None and os.path.lexists(path):
            raise refused(path)
        sizes += 0 if status is None else status.st_size
    return sizes


def _slices(pages: Iterable[list[str]]) -> Iterator[list[str]]:
    """Yield the keys of pages in lists of one size, the last of which may be shorter."""
    keys = chain.from_iterable(pages)
    while some := list(islice(keys, _SLICE)):
        yield some


def _pack_slice(session: ContainerSession, plan: Plan, keys: list[str]) -> None:
    """Pack some loose objects."""
    from disk_objectstore import CompressMode

    from objrepo.disk.container import store_errors

    for tries_left in range(_TRIES, -1, -1):
        try:
            with store_errors(session.layout.index_file):
                session.container.pack_loose(
                    keys,
                    compress=CompressMode.AUTO if plan.compress else CompressMode.NO,
                    clean_loose_per_pack=plan.incremental_cleanup,
                    do_fsync=False,  # the container fsyncs each pack by itself
                )
            return
        except FileNotFoundError:
            if not tries_left:
                raise
            # Another program has deleted or cleaned a loose object that was about to be packed.
            session.end_transaction()
            cut_off_appended(session)
            keys = list(loose_sizes(session, keys))


def _repack(session: ContainerSession, plan: Plan, progress: ProgressCallback | None) -> MaintenanceStep:
    freed = repack(session, progress)
    return MaintenanceStep("do_repack", session.index.count(), freed)


def _clean(session: ContainerSession, plan: Plan, progress: ProgressCallback | None) -> MaintenanceStep:
    """Remove the loose files of packed objects."""
    objects = size = 0
    for keys in loose_keys(session):
        if cancel_requested():
            raise WorkCancelled
        copies = loose_sizes(session, session.index.present(keys))
        remove_loose(session, copies)
        objects += len(copies)
        size += sum(copies.values())
    return MaintenanceStep("clean_storage", objects, size)


def _vacuum(session: ContainerSession, plan: Plan, progress: ProgressCallback | None) -> MaintenanceStep:
    session.index.vacuum()
    return MaintenanceStep("do_vacuum", session.index.count(), session.layout.index_file.stat().st_size)


_STEPS: Final = {"pack_loose": _pack, "do_repack": _repack, "clean_storage": _clean, "do_vacuum": _vacuum}


class _PackProgress:
    """Reports how many bytes of loose objects have been packed, also within an object, and stops when cancelled."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = self._part = 0
        self._path = ""
        self._report(0)

    def read(self, piece: Progress) -> None:
        """Take what :func:`~objrepo.reports.watching_reads` reports."""
        if cancel_requested():
            raise WorkCancelled
        if piece.step != self._path:
            self._path, self._part = piece.step, 0
        self._done += piece.done - self._part
        self._part = piece.done
        self._report(self._done)

    def finish(self) -> None:
        """Report the end; objects that were packed before or deleted meanwhile were not read."""
        self._report(max(self._total, self._done))

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(Progress("pack_loose", done, max(self._total, done), "bytes"))
