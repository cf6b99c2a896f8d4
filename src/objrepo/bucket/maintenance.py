"""Maintenance of a repository with packs. Killed after any request, it leaves every object readable.

Whatever it changes is an entry of the log that is right for the state before it. Only what the log says to be unused is
removed, after the log has said so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple

from objrepo.bucket import log as log_module
from objrepo.bucket.age import Moment
from objrepo.bucket.client import BucketClient, Listed, MissingError
from objrepo.bucket.encoding import (
    HASH_BYTES,
    ROW_BYTES,
    Entry,
    Place,
    decode_location,
)
from objrepo.bucket.lease import Lease, leased
from objrepo.bucket.log import SNAPSHOTS, Log, number_of, numbered
from objrepo.bucket.loose import LooseObjects
from objrepo.bucket.loose import name_of as name_of_loose
from objrepo.bucket.packs import PACK_BYTES, Packs, full_packs, in_order, runs_of
from objrepo.bucket.snapshots import write_snapshot
from objrepo.errors import CorruptObjectError
from objrepo.integrity import check_digest
from objrepo.offload import BlockingPool, WorkCancelled, cancel_requested
from objrepo.reports import MaintenanceStep
from objrepo.streams import MAX_BATCHED_OBJECT_BYTES

_DAY: Final = timedelta(days=1)
_MIN_USED: Final = 0.5
"""A pack of which a smaller part is used is rewritten."""

_SMALL_PACK: Final = PACK_BYTES // 4
_MANY_SMALL_PACKS: Final = 8
"""From so many small packs on, these are put together."""

_ENTRIES_PER_SNAPSHOT: Final = 32
_REPACKED_AT_ONCE: Final = 32 * PACK_BYTES
_BATCH_KEYS: Final = 10_000
_SNAPSHOT_PART: Final = 1024 * 1024


class _Pack(NamedTuple):
    name: bytes
    listed: Listed
    used: int
    objects: int


class Maintenance:
    """The maintenance of one repository; see :meth:`BucketRepository.maintain`."""

    def __init__(
        self, bucket: BucketClient, log: Log, packs: Packs, loose: LooseObjects, pool: BlockingPool, location: str
    ) -> None:
        self._bucket = bucket
        self._log = log
        self._packs = packs
        self._loose = loose
        self._pool = pool
        self._location = location
        self._lease: Lease | None = None
        self._dry_run = False
        self._before: datetime | None = None

    def run(self, dry_run: bool, live: bool) -> list[MaintenanceStep]:
        """Maintain the repository.

        :param dry_run: whether to count only.
        :param live: whether others may be using the repository.
        :raises RepositoryBusyError: if another process maintains it.
        """
        self._dry_run = dry_run
        lease: AbstractContextManager[Lease | None] = nullcontext() if dry_run else leased(self._bucket, self._location)
        with lease as self._lease:
            began = datetime.now(UTC) if self._lease is None else self._lease.began
            self._before = began - _DAY if live else None
            last = self._log.update()
            old = self._old_snapshot(began - _DAY)
            steps = [self._pack_loose(old), self._repack(), self._remove_packs(old if live else last)]
            if not dry_run:
                self._write_snapshot(live)
                self._truncate(live)
        return steps

    # -- loose objects --------------------------------------------------------------------------------------------

    def _pack_loose(self, old: int) -> MaintenanceStep:
        """Pack small loose objects, and remove those that do not count.

        :param old: tombstones of this log entry and earlier ones are forgotten where the loose object is gone. It is a
            day old, as a late copy of the request that has removed it would remove an object that was stored since.
        """
        objects = size = 0
        small: dict[bytes, int] = {}
        hidden: list[bytes] = []
        forgotten: dict[bytes, int] = {}
        after = b""
        for page, end in self._loose.pages():
            self._go_on()
            listed = {bytes.fromhex(key): each.size for key, each in page}
            last = bytes.fromhex(end) if end < "g" else b"\xff" * (HASH_BYTES + 1)
            places, tombstones = self._log.look(listed)
            for key, length in listed.items():
                if key in places or key in tombstones:
                    hidden.append(key)
                elif length <= MAX_BATCHED_OBJECT_BYTES:
                    small[key] = length
                    objects += 1
                    size += length
            with self._log.index.scan() as scan:
                marks = scan.tombstones(after, last)
            forgotten |= {key: number for key, number in marks if number <= old and key not in listed}
            after = last
            if sum(small.values()) >= PACK_BYTES or len(small) + len(hidden) + len(forgotten) >= _BATCH_KEYS:
                self._pack(small, hidden, forgotten)
                small, hidden, forgotten = {}, [], {}
        self._pack(small, hidden, forgotten)
        return MaintenanceStep("pack_loose", objects, size)

    def _pack(self, small: dict[bytes, int], hidden: list[bytes], forgotten: dict[bytes, int]) -> None:
        if self._dry_run or not (small or hidden or forgotten):
            return
        began = Moment()
        contents = {key: content for key, content in self._pool.map(self._read_loose, small) if content is not None}
        written = [self._packs.write(part) for part in full_packs(contents.items())]
        candidates = [*contents, *hidden]
        removed: set[bytes] = set()

        def build() -> Entry:
            nonlocal removed
            if not began.is_recent():  # what was read may have been deleted, and the new packs been removed
                return Entry()
            places, tombstones = self._log.look(candidates)
            rows = {
                pack: [span for span in spans if span.key not in places and span.key not in tombstones]
                for pack, spans in written
            }
            removed = {key for key in candidates if key in places or key in tombstones or key in contents}
            unchanged = self._log.index.tombstones(forgotten)
            return Entry(
                rows={pack: spans for pack, spans in rows.items() if spans},
                # They are set again, so that they are kept until a day after the object was removed.
                tombstones=frozenset(removed & tombstones.keys()),
                forgotten=frozenset(key for key, number in forgotten.items() if unchanged.get(key) == number),
            )

        self._log.transact(build)
        # Later, a tombstone may be forgotten, and the object stored again.
        self._bucket.delete([name_of_loose(key.hex()) for key in sorted(removed)], began)

    def _read_loose(self, key: bytes) -> tuple[bytes, bytes | None]:
        """Return the content of a loose object, None if it is damaged or gone."""
        try:
            return key, self._loose.get(key.hex())
        except (MissingError, CorruptObjectError):
            return key, None

    # -- packs ----------------------------------------------------------------------------------------------------

    def _repack(self) -> MaintenanceStep:
        """Rewrite packs that are mostly unused, and put small ones together."""
        packs = [pack for pack in self._list_packs() if pack.objects and pack.listed.size <= 2 * PACK_BYTES]
        small = [pack for pack in packs if pack.listed.size < _SMALL_PACK]
        chosen = [pack for pack in packs if pack.used < _MIN_USED * pack.listed.size]
        if len(small) >= _MANY_SMALL_PACKS:
            chosen = sorted({*chosen, *small})
        if not self._dry_run:
            left = iter(chosen)
            while group := list(islice(left, _REPACKED_AT_ONCE // PACK_BYTES)):
                self.rewrite({pack.name for pack in group})
        return MaintenanceStep("repack", sum(pack.objects for pack in chosen), sum(pack.used for pack in chosen))

    def _list_packs(self) -> list[_Pack]:
        """Return all packs in the bucket, with how many bytes and objects of each are used."""
        listed = list(self._packs.list())
        used: Counter[int] = Counter()
        objects: Counter[int] = Counter()
        with self._log.index.scan() as scan:
            for _, location in scan.rows():
                pack, _, length = decode_location(location)
                used[pack] += length + ROW_BYTES
                objects[pack] += 1
            ids = {name: number for number, name in scan.packs.items()}
        return [_Pack(name, each, used[ids.get(name, -1)], objects[ids.get(name, -1)]) for name, each in listed]

    def rewrite(self, packs: set[bytes]) -> None:
        """Move what is used of some packs into new ones."""
        places: dict[bytes, Place] = {}
        with self._log.index.scan() as scan:
            ids = {number for number, name in scan.packs.items() if name in packs}
            for key, location in scan.rows():
                pack, offset, length = decode_location(location)
                if pack in ids:
                    places[key] = Place(scan.packs[pack], offset, length)
        for contents in full_packs(self._read(places)):
            self._move(contents, places)

    def _read(self, places: dict[bytes, Place]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the contents at some places, each with its key, but not those that are damaged."""
        for run in runs_of(in_order([key.hex() for key in places], places)):
            self._go_on()
            try:
                found = self._packs.read_together([place for _, place in run if place is not None])
            except MissingError:
                continue  # another process has rewritten the pack
            for (name, _), content in zip(run, found, strict=True):
                with suppress(CorruptObjectError):
                    yield bytes.fromhex(name), check_digest(name, "sha256", content)

    def _move(self, contents: dict[bytes, bytes], places: dict[bytes, Place]) -> None:
        """Move objects into a new pack, unless they are not at their places any longer."""
        began = Moment()
        pack, spans = self._packs.write(contents)

        def build() -> Entry:
            if not began.is_recent() or self._log.index.retired([pack]):
                return Entry()  # maintenance may have removed a pack that no entry has named for a day
            present = self._log.index.places(contents)
            moved = [span for span in spans if present.get(span.key) == places[span.key]]
            return Entry(rows={pack: moved} if moved else {})

        self._log.transact(build)

    def _remove_packs(self, old: int) -> MaintenanceStep:
        """Remove packs that no row names.

        :param old: packs that were retired by this log entry or an earlier one are forgotten once they are gone.
        """
        removed: list[Listed] = []

        def build() -> Entry:
            nonlocal removed
            packs = self._list_packs()
            retired = self._log.index.retired(pack.name for pack in packs)
            unused = [pack for pack in packs if not pack.objects and self._is_old(pack.listed)]
            removed = [pack.listed for pack in packs if not pack.objects and (pack in unused or pack.name in retired)]
            present = {pack.name for pack in packs}
            with self._log.index.scan() as scan:
                gone = frozenset(name for name, number in scan.retired() if number <= old and name not in present)
            return Entry(retired=frozenset(pack.name for pack in unused if pack.name not in retired), gone=gone)

        if self._dry_run:
            build()
        else:
            self._go_on()
            self._log.transact(build)
            self._bucket.delete([each.name for each in removed])
        return MaintenanceStep("remove_packs", len(removed), sum(each.size for each in removed))

    def _is_old(self, listed: Listed) -> bool:
        return self._before is None or listed.modified <= self._before

    # -- the log --------------------------------------------------------------------------------------------------

    def _old_snapshot(self, before: datetime) -> int:
        """Return the number of the latest snapshot that is old, 0 if there is none."""
        found = numbered(self._bucket, SNAPSHOTS)
        return max((number_of(each.name) for each in found if each.modified <= before), default=0)

    def _write_snapshot(self, live: bool) -> None:
        """Write a snapshot, if there are many entries after the last one."""
        last = max((number_of(each.name) for each in numbered(self._bucket, SNAPSHOTS)), default=0)
        self._go_on()
        with self._log.index.scan() as scan:
            if scan.number - last >= (_ENTRIES_PER_SNAPSHOT if live else 1):
                write_snapshot(self._bucket, scan, scan.number)

    def _truncate(self, live: bool) -> None:
        """Remove log entries and snapshots that an old snapshot replaces. The entry of that snapshot stays."""
        snapshots = list(numbered(self._bucket, SNAPSHOTS))
        numbers = [number_of(each.name) for each in snapshots if not live or self._is_old(each)]
        if numbers:
            first = max(numbers)
            entries = numbered(self._bucket, log_module.FOLDER)
            self._remove_before(first, log_module.FOLDER, (each.name for each in entries))
            self._remove_before(first, SNAPSHOTS, (each.name for each in snapshots))

    def _remove_before(self, first: int, folder: str, names: Iterable[str]) -> None:
        end = log_module.name_of(first, folder)
        left = (name for name in names if name < end)
        while batch := list(islice(left, 1000)):
            self._bucket.delete(batch)

    def _go_on(self) -> None:
        """Keep the lease, or stop.

        :raises RepositoryBusyError: if another process has taken over.
        :raises WorkCancelled: if the caller is cancelled.
        """
        if cancel_requested():
            raise WorkCancelled
        if self._lease is not None:
            self._lease.renew()
