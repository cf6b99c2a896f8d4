"""`BucketRepository`: objects in a bucket, whichever store it is in."""

from __future__ import annotations

from typing import Final

from objrepo.bucket.backend import BucketBackend
from objrepo.bucket.options import BucketOptions
from objrepo.offload import Offload, Threads
from objrepo.reports import MaintenanceReport, RepairReport
from objrepo.repository import Repository

_DAY: Final = 24 * 60 * 60.0


class BucketRepository(Repository[BucketBackend]):
    """Keeps objects in a bucket. The classes for the stores differ in their parameters only.

    :param options: where the bucket is, and how it is used.
    :param offload: where the blocking methods run; ``options.concurrency`` worker threads of its own unless given.
    :param check: whether reads of whole objects compare the content with the key, unless called with ``check=False``.
    """

    def __init__(self, options: BucketOptions, offload: Offload | None = None, *, check: bool = False) -> None:
        offload = Threads(options.concurrency) if offload is None else offload
        super().__init__(BucketBackend(options), offload, check=check)

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.backend.location}"

    async def maintain(
        self,
        dry_run: bool = False,
        live: bool = True,
        *,
        uploads_older_than: float = _DAY,
        upgrade: bool = False,
    ) -> MaintenanceReport:
        """Pack small objects, rewrite packs that are mostly unused, and remove unused objects of the bucket.

        Also removed are the parts of uploads that were never completed, which use space but appear in no listing. One
        process maintains a repository at a time; others may read and write meanwhile. If it is killed or cancelled at
        any moment, every object remains readable.

        :param dry_run: whether to count only what would be done.
        :param live: whether others may be writing; then only objects of the bucket that have been unused for a day are
            removed, else all unused ones.
        :param uploads_older_than: the age in seconds from which an upload is removed if others may be writing.
        :param upgrade: whether to move a repository from format 1 to format 2. Programs that have it open must be
            restarted, and releases that do not know format 2 can no longer use it.
        :return: the steps that were taken.
        :raises NotInitialisedError: if the repository does not exist.
        :raises RepositoryBusyError: if another process is maintaining it.
        :raises AccessDeniedError: if the credentials do not permit listing, writing or aborting uploads.
        :raises RepositoryUnavailableError: if the service does not answer within ``retry_timeout``.
        """
        return await super().maintain(dry_run, live, uploads_older_than=uploads_older_than, upgrade=upgrade)

    async def repair(self, dry_run: bool = False, live: bool = True) -> RepairReport:
        """Rebuild the log from the packs, if it is damaged. Other programs must not use the repository.

        A damaged or missing entry of the log, or a damaged snapshot, makes every operation raise an error.
        Deleted objects whose pack still exists are restored too. If only the footers of packs are damaged, which
        ``verify`` finds, the objects of these packs are stored in new packs. Shielded from cancellation.

        :param dry_run: whether to read the packs only.
        :param live: whether others may be using the repository, which only a dry run permits.
        :return: a step ``'recovered'`` for the log or for each damaged pack, and ``'skipped'`` for each pack whose
            objects are not known; none if nothing is damaged.
        :raises NotInitialisedError: if the repository does not exist.
        :raises RepositoryBusyError: if another process is maintaining it.
        :raises RepositoryUnavailableError: if the service does not answer within ``retry_timeout``.
        :raises ValueError: if others may be using it.
        """
        if live and not dry_run:
            raise ValueError(
                f"the index of {self} cannot be rebuilt while other programs use it: end them, then pass live=False"
            )
        steps = await self._open().run(self.backend.rebuild, dry_run)
        return RepairReport(dry_run, tuple(steps))
