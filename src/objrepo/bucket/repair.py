"""Repair of the lists of objects in a bucket: the log, the snapshots, and the footers of packs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from objrepo.bucket.client import BucketClient, Listed, MissingError
from objrepo.bucket.encoding import DamagedError, Entry, Span, encode_entry
from objrepo.bucket.lease import Lease, leased
from objrepo.bucket.log import FOLDER, SNAPSHOTS, BrokenLogError, Log, name_of, number_of, numbered
from objrepo.bucket.packs import Packs
from objrepo.bucket.snapshots import write_snapshot
from objrepo.offload import BlockingPool
from objrepo.reports import DamagedObject, RepairStep


class Repair:
    """The repair of one repository; see :meth:`BucketRepository.repair`."""

    def __init__(self, bucket: BucketClient, log: Log, packs: Packs, pool: BlockingPool, location: str) -> None:
        self._bucket = bucket
        self._log = log
        self._packs = packs
        self._pool = pool
        self._location = location

    def run(self, dry_run: bool, rewrite: Callable[[set[bytes]], None]) -> list[RepairStep]:
        """Rebuild the log if it is damaged; else rewrite those packs whose footers are damaged.

        :param rewrite: moves the objects in some packs into new ones.
        """
        lease: AbstractContextManager[Lease | None] = nullcontext() if dry_run else leased(self._bucket, self._location)
        with lease:
            return self._rewrite_damaged(dry_run, rewrite) if self._log_is_intact() else self._make_log(dry_run)

    def damaged_footers(self) -> Iterator[DamagedObject]:
        """Read the footers of all packs; yield those that are damaged."""
        for path, spans, problem in self._footers():
            if spans is None and problem:
                yield DamagedObject(path, problem)

    def _log_is_intact(self) -> bool:
        """Return whether a program without a local index can read the whole log."""
        with TemporaryDirectory(dir=self._log.index.path.parent, prefix="check-") as folder:
            log = Log(self._bucket, self._pool, self._location, Path(folder), "")
            try:
                log.update()
            except BrokenLogError:
                return False
            finally:
                log.close()
        self._log.update()
        return True

    def _rewrite_damaged(self, dry_run: bool, rewrite: Callable[[set[bytes]], None]) -> list[RepairStep]:
        damaged = list(self.damaged_footers())
        if damaged and not dry_run:
            rewrite({bytes.fromhex(each.key.rpartition("/")[2]) for each in damaged})
        return [RepairStep("recovered", each.key, f"{each.reason}; its objects are in new packs") for each in damaged]

    def _make_log(self, dry_run: bool) -> list[RepairStep]:
        """Rebuild the log and the index from the footers of the packs."""
        steps: list[RepairStep] = []
        index = self._log.index
        if not dry_run:
            index.load(0, index.number)
        number = 0
        for path, spans, problem in self._footers():
            if spans is None:
                steps.append(RepairStep("skipped", path, problem or "it is gone"))
            elif not dry_run:
                number += 1
                index.apply(number, Entry(rows={bytes.fromhex(path.rpartition("/")[2]): spans}))
        names = [each.name for folder in (FOLDER, SNAPSHOTS) for each in numbered(self._bucket, folder)]
        # One number is left out, so that no reader takes the new state for the continuation of the old one.
        new = max(map(number_of, names), default=0) + 2
        steps.insert(0, RepairStep("recovered", name_of(new), "it is rebuilt from the packs"))
        if not dry_run:
            with index.scan() as scan:
                write_snapshot(self._bucket, scan, new)
            self._bucket.create_first(name_of(new), encode_entry(Entry()))
            self._bucket.delete(names)
            index.remove()
        return steps

    def _footers(self) -> Iterator[tuple[str, list[Span] | None, str]]:
        """Yield for each pack its name, its objects or None, and what is wrong with it, unless it is gone."""
        return self._pool.map(self._try_to_read_footer, self._packs.list())

    def _try_to_read_footer(self, pack: tuple[bytes, Listed]) -> tuple[str, list[Span] | None, str]:
        name, listed = pack
        try:
            return listed.name, self._packs.read_footer(name, listed.size), ""
        except DamagedError as error:
            return listed.name, None, str(error)
        except MissingError:
            return listed.name, None, ""
