"""The blocking methods of repositories in a bucket."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final, TypeVar, cast

from objrepo.backend import LIST_PAGE_SIZE, Backend
from objrepo.batch import BatchBackend
from objrepo.bucket import log as log_module
from objrepo.bucket import packs as packs_module
from objrepo.bucket.age import Moment
from objrepo.bucket.client import BucketClient, MissingError
from objrepo.bucket.encoding import Entry, Place, Span
from objrepo.bucket.lease import LEASE, RELEASED
from objrepo.bucket.listing import Item, pages, totals
from objrepo.bucket.local_index import cache_folder
from objrepo.bucket.log import Found, Log, begin_log
from objrepo.bucket.loose import LooseObjects, key_of, name_of
from objrepo.bucket.maintenance import Maintenance
from objrepo.bucket.options import BucketOptions, Upload
from objrepo.bucket.packs import Packs, Planned, full_packs, in_order, runs_of
from objrepo.bucket.repair import Repair
from objrepo.errors import CorruptObjectError, NotInitialisedError, ObjectNotFoundError, RepositoryError
from objrepo.hashed_source import hash_source, unchanged_chunks
from objrepo.integrity import check_digest, combined, verify
from objrepo.keys import is_key, valid_keys
from objrepo.offload import BlockingPool
from objrepo.protocol import BinaryReader, Source
from objrepo.range_reader import PART_BYTES, Buffer, RangeRequestFile
from objrepo.reports import (
    DamagedObject,
    Leftover,
    MaintenanceReport,
    MaintenanceStep,
    RepairStep,
    RepositoryInfo,
    VerifyReport,
)
from objrepo.sources import read_up_to
from objrepo.streams import (
    BATCH_BYTES,
    CHUNK_BYTES,
    MAX_BATCHED_OBJECT_BYTES,
    OpenedObject,
    RangeHandle,
    fill_batch,
)

T = TypeVar("T")

_logger: Final = logging.getLogger("objrepo")

_MARKER: Final = "objrepo.json"
_NEW_FORMAT: Final = 2
_FOLDERS: Final = tuple(f"{name}/" for name in (log_module.FOLDER, log_module.SNAPSHOTS, packs_module.FOLDER))
_MAX_SINGLE_REQUEST_BYTES: Final = PART_BYTES // 2
_DAY: Final = 24 * 60 * 60.0


class BucketBackend(Backend):
    """See :class:`~objrepo.bucket.repository.BucketRepository`."""

    def __init__(self, options: BucketOptions) -> None:
        self._options = options
        self._bucket = BucketClient(options)
        self.pool: BlockingPool | None = BlockingPool(options.concurrency)
        self._threads = self.pool
        self._loose = LooseObjects(self._bucket, self._threads)
        self._packs = Packs(self._bucket)
        self._opening = threading.Lock()
        self._marker: dict[str, Any] | None = None
        self._opened_log: Log | None = None
        self._temporary: TemporaryDirectory[str] | None = None

    def __reduce__(self) -> tuple[type[BucketBackend], tuple[BucketOptions]]:
        return type(self), (self._options,)

    @property
    def batches_puts(self) -> bool:  # type: ignore[override]
        return self._marker is None or bool(self._marker["objrepo"] != 1)

    @property
    def location(self) -> str:
        return self._options.url

    # -- the repository as a whole ------------------------------------------------------------------------------

    def initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"a repository in a bucket has no options, got {', '.join(options)}")
        if self._read_marker() is not None:
            return
        other = next((each.name for each in self._bucket.list().next_page() if not _is_ours(each.name)), None)
        if other is not None:
            raise ValueError(f"{self.location} contains other files, such as {other!r}: use another prefix")
        form = _NEW_FORMAT if self._bucket.supports_conditions(LEASE, RELEASED) else 1
        if form == 2:
            begin_log(self._bucket)
        marker = {"objrepo": form, "uuid": str(uuid.uuid4()), "key_format": "sha256"}
        self._bucket.create(_MARKER, json.dumps(marker).encode())
        self._require_marker()

    def is_initialised(self) -> bool:
        try:
            return self._read_marker() is not None
        except NotInitialisedError:
            return False

    def uuid(self) -> str | None:
        marker = self._read_marker() if self.is_initialised() else None
        return None if marker is None else str(marker["uuid"])

    def key_format(self) -> str:
        return str(self._require_marker()["key_format"])

    def info(self, detailed: bool) -> RepositoryInfo:
        marker = self._require_marker()
        log = self._log()
        if log is not None:
            objects, total = totals(log, self._loose)
        else:
            objects = total = 0
            for page, _ in self._loose.pages():
                objects += len(page)
                total += sum(each.size for _, each in page)
        return RepositoryInfo(
            location=self.location,
            uuid=marker["uuid"],
            key_format=marker["key_format"],
            objects=objects,
            size=total if detailed else None,
        )

    def maintain(
        self, *, dry_run: bool, live: bool, uploads_older_than: float = _DAY, upgrade: bool = False
    ) -> MaintenanceReport:
        marker = self._require_marker()
        steps = []
        if upgrade and marker["objrepo"] == 1:
            steps.append(MaintenanceStep("upgrade", 0, 0))
            if not dry_run:
                self._upgrade(marker)
        uploads = self._unfinished_uploads(uploads_older_than if live else 0.0)
        if uploads and not dry_run:
            self._options.abort_uploads(uploads)
        steps.append(MaintenanceStep("abort_uploads", len(uploads), 0))
        log = self._log()
        if log is not None:
            steps += self._maintenance(log).run(dry_run, live)
        return MaintenanceReport(dry_run, tuple(steps))

    def _upgrade(self, marker: dict[str, Any]) -> None:
        """Have a repository of format 1 follow the rules of format 2; its objects stay where they are."""
        if not self._bucket.supports_conditions(LEASE, RELEASED):
            raise RepositoryError(f"{self.location} has no conditional writes, which packs need: it stays as it is")
        begin_log(self._bucket)
        self._bucket.put(_MARKER, json.dumps({**marker, "objrepo": 2}).encode())
        self._forget_marker()

    def rebuild(self, dry_run: bool) -> list[RepairStep]:
        """Rebuild the log from the footers of all packs, if it is damaged, or packs whose footers are damaged."""
        log = self._log()
        if log is None:
            return []
        return self._repair(log).run(dry_run, self._maintenance(log).rewrite)

    def leftovers(self) -> tuple[Leftover, ...]:
        try:
            uploads = self._unfinished_uploads(_DAY)
        except RepositoryError as error:  # the report of verified objects is returned nevertheless
            _logger.warning("the unfinished uploads of %s cannot be listed: %s", self, error)
            return ()
        return tuple(Leftover("unfinished upload", name, 0) for name, _ in uploads)

    def erase(self) -> None:
        self._forget_marker()
        if self._read_marker() is None:
            return
        uploads = self._unfinished_uploads(0)  # first, so that nothing is deleted where listing them is denied
        log = self._log()
        listing = self._bucket.list()
        while not listing.ended:
            self._bucket.delete([each.name for each in listing.next_page() if _is_ours(each.name)])
        self._options.abort_uploads(uploads)
        self._bucket.delete([_MARKER])
        if log is not None:
            log.index.remove()
        self._forget_marker()

    def close(self) -> None:
        super().close()
        self._bucket.close()
        self._forget_marker()

    def _unfinished_uploads(self, older_than: float) -> list[Upload]:
        """Return the uploads of this repository's objects, but not those of other programs in the same bucket."""
        return [upload for upload in self._options.list_uploads(older_than) if _is_ours(upload.name)]

    def _require_marker(self) -> dict[str, Any]:
        marker = self._read_marker()
        if marker is None:
            raise NotInitialisedError(f"there is no repository at {self.location} yet: call initialise() first")
        return marker

    def _read_marker(self) -> dict[str, Any] | None:
        """Return the content of the marker, None if there is none; it is requested on first use.

        Threads that need it at the same time request it each: none of them waits for the retries of another.
        """
        if self._marker is None:
            try:
                marker = json.loads(self._bucket.get(_MARKER)[0].content)
            except MissingError:
                return None
            except ValueError:
                marker = None
            if not isinstance(marker, dict) or marker.get("objrepo") not in (1, 2) or "uuid" not in marker:
                raise RepositoryError(
                    f"{_MARKER} in {self.location} does not have the format 1 or 2: use a release that supports it"
                )
            if marker.get("key_format") != "sha256":
                raise RepositoryError(f"{self.location} has an unknown key format: use a release that supports it")
            self._marker = marker
        return self._marker

    def _forget_marker(self) -> None:
        with self._opening:
            log, self._opened_log = self._opened_log, None
            self._marker = None
            temporary, self._temporary = self._temporary, None
        if log is not None:
            log.close()
        if temporary is not None:
            temporary.cleanup()

    def _maintenance(self, log: Log) -> Maintenance:
        return Maintenance(self._bucket, log, self._packs, self._loose, self._threads, self.location)

    def _repair(self, log: Log) -> Repair:
        return Repair(self._bucket, log, self._packs, self._threads, self.location)

    def _log(self) -> Log | None:
        """Return the log, None for a repository of format 1."""
        marker = self._require_marker()
        if marker["objrepo"] == 1:
            return None
        with self._opening:
            if self._opened_log is None:
                folder = self._index_folder()
                self._opened_log = Log(self._bucket, self._threads, self.location, folder, str(marker["uuid"]))
            return self._opened_log

    def _index_folder(self) -> Path:
        """Return the folder of the local index: a temporary one, if the user's caches cannot be written."""
        if self._options.index is not None:
            return Path(self._options.index)
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            pass
        self._temporary = TemporaryDirectory(prefix="objrepo-", ignore_cleanup_errors=True)
        _logger.warning("%s cannot be written, so the index of %s is loaded by each process: pass index=", folder, self)
        return Path(self._temporary.name)

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, reader: BinaryReader) -> str:
        return self._put(self._log(), b"", reader)

    def _put(self, log: Log | None, head: bytes, reader: BinaryReader) -> str:
        """Store an object.

        :param head: its first bytes, which have been read already.
        """
        content = head + read_up_to(reader, _MAX_SINGLE_REQUEST_BYTES - len(head))
        if len(content) < _MAX_SINGLE_REQUEST_BYTES:
            return self._put_content(log, content)
        with hash_source(content, reader) as (hasher, file):
            return self._upload(log, hasher.hexdigest(), file)

    def put_batch(self, sources: Sequence[Source]) -> list[Any]:
        log = self._log()
        if log is None:
            return super().put_batch(sources)
        contents: dict[bytes, bytes] = {}

        def gather(reader: BinaryReader) -> str:
            content = read_up_to(reader, MAX_BATCHED_OBJECT_BYTES + 1)
            if len(content) > MAX_BATCHED_OBJECT_BYTES:
                return self._put(log, content, reader)
            digest = hashlib.sha256(content).digest()
            contents[digest] = content
            return digest.hex()

        outcomes = list(self._threads.map(partial(self._try_to_put, put=gather), sources))
        try:
            if len(contents) == 1:
                self._put_content(log, *contents.values())
            elif contents:
                self._put_together(log, contents)
        except (RepositoryError, OSError) as error:
            return [error if isinstance(each, str) and bytes.fromhex(each) in contents else each for each in outcomes]
        return outcomes

    def batch(self) -> BatchBackend:
        return BatchBackend(self)

    def _put_content(self, log: Log | None, content: bytes) -> str:
        """Store an object that one request carries."""
        key = hashlib.sha256(content).hexdigest()

        def pack() -> tuple[bytes, list[Span]]:
            return self._packs.write({bytes.fromhex(key): content})

        return self._put_one(log, key, lambda: self._bucket.create(name_of(key), content), pack)

    def _upload(self, log: Log | None, key: str, file: BinaryIO) -> str:
        """Store a large object."""
        size = file.seek(0, 2)

        def chunks() -> Iterator[bytes | memoryview]:
            # An iterator and not the file: obstore aborts the upload when an iterator raises, but not when a file does.
            return unchanged_chunks(key, file)

        def upload() -> None:
            if self._bucket.size(name_of(key)) is None:
                self._bucket.upload(name_of(key), chunks, size)

        return self._put_one(log, key, upload, lambda: self._packs.write_large(bytes.fromhex(key), size, chunks))

    def _put_one(
        self, log: Log | None, key: str, create: Callable[[], object], pack: Callable[[], tuple[bytes, list[Span]]]
    ) -> str:
        """Store one object: as a loose one, unless loose objects of this key do not count.

        :param create: stores the loose object unless it exists.
        :param pack: stores the object in a pack of its own.
        """
        if log is None:
            create()
            return key
        digest = bytes.fromhex(key)
        while True:
            began = Moment()
            log.update()
            places, tombstones = log.look([digest])
            if digest in places:
                return key
            if digest in tombstones:
                self._commit(log, [digest], lambda _: [pack()])
                return key
            create()
            # After a longer time, maintenance may have forgotten that it has removed a loose object of this key.
            if began.is_recent():
                return key

    def _put_together(self, log: Log, contents: dict[bytes, bytes]) -> None:
        """Store small objects in packs, except those that are in packs already."""

        def write(missing: set[bytes]) -> list[tuple[bytes, list[Span]]]:
            parts = full_packs((key, content) for key, content in contents.items() if key in missing)
            return list(self._threads.map(self._packs.write, parts))

        self._commit(log, list(contents), write)

    def _commit(
        self, log: Log, keys: Sequence[bytes], write: Callable[[set[bytes]], list[tuple[bytes, list[Span]]]]
    ) -> None:
        """Have objects be in packs, which are written now, or were there before.

        :param write: stores some of the objects in packs; returns these and where the objects are in them.
        """
        written: dict[bytes, list[Span]] = {}
        oldest = Moment()  # of the packs in `written`

        def build() -> Entry:
            nonlocal oldest
            present = log.index.places(keys)
            # Maintenance has removed packs that were named by no entry for a day.
            if not oldest.is_recent() or log.index.retired(written):
                written.clear()
            missing = set(keys) - present.keys() - {span.key for spans in written.values() for span in spans}
            if missing:
                oldest = oldest if written else Moment()
                written.update(write(missing))
            rows = {pack: [span for span in spans if span.key not in present] for pack, spans in written.items()}
            return Entry(rows={pack: spans for pack, spans in rows.items() if spans})

        log.transact(build)

    def delete(self, keys: Sequence[str]) -> None:
        log = self._log()
        if log is None:
            self.require(keys)
            self._bucket.delete([name_of(key) for key in keys])
            return
        digests = [bytes.fromhex(key) for key in keys]
        loose: set[str] = set()

        def build() -> Entry:
            nonlocal loose
            found, loose = self._find(log, digests)
            missing = [
                key for key, digest in zip(keys, digests, strict=True) if digest not in found and key not in loose
            ]
            if missing:
                raise ObjectNotFoundError(missing, self)
            return Entry(deleted=frozenset(digests))

        if digests:
            began = Moment()
            log.transact(build)
            # Later, they may have been stored again: maintenance removes those that do not count.
            self._bucket.delete([name_of(key) for key in sorted(loose)], began)

    # -- looking up and listing -----------------------------------------------------------------------------------

    def has(self, keys: Sequence[object]) -> list[bool]:
        log = self._log()
        wanted = sorted(set(valid_keys(keys, "sha256")))
        if log is None or not wanted:
            present = self._loose.present(wanted)
        else:
            places, present = self._find(log, [bytes.fromhex(key) for key in wanted], update=True)
            present = present | {digest.hex() for digest in places}
        return [isinstance(key, str) and key in present for key in keys]

    def _find(self, log: Log, digests: list[bytes], update: bool = False) -> tuple[dict[bytes, Place], set[str]]:
        """Return where those objects are that are in packs, and which of the others are loose.

        Loose objects are looked for before the index is brought up to date: one that is packed meanwhile is then found
        in the index.

        :param update: whether to bring it up to date in any case, not only if an object is missing.
        """
        loose: set[bytes] = set()
        looked_for: set[bytes] = set()
        up_to_date = False
        began = Moment()
        while True:
            places, tombstones = log.look(digests)
            if looked_for and not began.is_recent():  # what was found then may have been deleted, and that forgotten
                began, loose, looked_for = Moment(), set(), set()
            others = {digest for digest in digests if digest not in places and digest not in tombstones}
            if others - looked_for:
                keys = sorted(digest.hex() for digest in others - looked_for)
                loose |= set(map(bytes.fromhex, self._loose.present(keys)))
                looked_for |= others
                up_to_date = False
            found = others & loose
            if up_to_date or (not update and len(places) + len(found) == len(digests)):
                return places, {digest.hex() for digest in found}
            log.update()
            up_to_date = True

    def _where(self, key: str, packed: Callable[[Place], T], loose: Callable[[], T]) -> T:
        """Read an object where the index says that it is; where that is outdated, bring it up to date and read again.

        :param packed: reads it from a pack.
        :param loose: reads it as a loose object.
        :raises ObjectNotFoundError: if it does not exist.
        """
        if not is_key(key, self.key_format()):
            raise ObjectNotFoundError([key], self)
        log = self._log()
        digest = bytes.fromhex(key)
        places, tombstones = Found({}, {}) if log is None else log.look([digest])
        while True:
            place = places.get(digest)
            may_be_loose = place is None and digest not in tombstones
            try:
                if place is not None:
                    return packed(place)
                if may_be_loose:
                    return loose()
            except MissingError:
                pass
            if log is None:
                raise ObjectNotFoundError([key], self)
            log.update()
            places, tombstones = log.look([digest])
            if digest not in places and (may_be_loose or digest in tombstones):
                raise ObjectNotFoundError([key], self)
            if place is not None and places.get(digest) == place:
                raise CorruptObjectError(key, f"its pack {place.pack.hex()} does not exist")

    def size(self, key: str) -> int:
        def size_of_loose() -> int:
            size = self._bucket.size(name_of(key))
            if size is None:
                raise MissingError
            return size

        return self._where(key, lambda place: place.length, size_of_loose)

    def list_keys(self, cursor: Any) -> tuple[list[str], Any]:
        """Return some keys, those in packs in the order of the packs; see :meth:`Backend.list_keys`."""
        self._require_marker()
        listing, items = (self._pages(), []) if cursor is None else cursor
        while not items:
            items = next(listing, None)
            if items is None:
                return [], None
        return [item.key for item in items[:LIST_PAGE_SIZE]], (listing, items[LIST_PAGE_SIZE:])

    def _pages(self) -> Iterator[list[Item]]:
        log = self._log()
        if log is not None:
            return pages(log, self._loose)
        return ([Item(key, each.size, None) for key, each in objects] for objects, _ in self._loose.pages())

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        return self._where(key, partial(self._get_packed, key), lambda: self._loose.get(key))

    def _get_packed(self, key: str, place: Place) -> bytes:
        starts = range(0, max(place.length, 1), PART_BYTES)
        parts = self._threads.map(
            lambda start: self._packs.read_range(place, start, min(start + PART_BYTES, place.length)), starts
        )
        return check_digest(key, "sha256", b"".join(parts))

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        wanted = CHUNK_BYTES if length is None else min(max(length, 1), CHUNK_BYTES)

        def loose() -> OpenedObject:
            head, whole = self._bucket.get_range(name_of(key), offset, offset + wanted)
            return self._opened(key, bytes(head), whole, offset, length, partial(self._loose.read_range, key))

        def packed(place: Place) -> OpenedObject:
            head = self._packs.read_range(place, offset, min(offset + wanted, place.length))
            if len(head) == place.length:
                check_digest(key, "sha256", head)
            return self._opened(key, head, place.length, offset, length, partial(self._packs.read_range, place))

        return self._where(key, packed, loose)

    def _opened(
        self, key: str, head: bytes, whole: int, offset: int, length: int | None, fetch: Callable[[int, int], Buffer]
    ) -> OpenedObject:
        offset = min(offset, whole)
        size = whole - offset if length is None else min(length, whole - offset)
        if len(head) >= size:
            return OpenedObject(key, size, head[:size], None)

        def fetch_more(start: int, end: int) -> Buffer:
            try:
                content = fetch(start, end)
            except MissingError:
                raise ObjectNotFoundError([key], self) from None
            if len(content) != end - start:
                raise CorruptObjectError(key, f"its bytes end after {start + len(content)}, not {end}")
            return content

        file = RangeRequestFile(f"{self.location} {key}", whole, fetch_more, self._threads)
        return OpenedObject(key, size, head, RangeHandle(key, cast("BinaryIO", file), offset, size))

    def plan(self, keys: Sequence[str]) -> tuple[Sequence[Any], Callable[[Sequence[Any]], list[OpenedObject]]]:
        log = self._log()
        if log is None:
            return super().plan(keys)
        known = valid_keys(keys, "sha256")
        places, loose = self._find(log, [bytes.fromhex(key) for key in known], update=True)
        present = loose | {digest.hex() for digest in places}
        if len(present) < len(keys):
            raise ObjectNotFoundError([key for key in keys if key not in present], self)
        return in_order(keys, places), self._open_planned

    def _open_planned(self, items: Sequence[Planned]) -> list[OpenedObject]:
        runs = runs_of(items, BATCH_BYTES)

        def opened() -> Iterator[list[OpenedObject]]:
            for run, objects in zip(runs, self._threads.map(self._open_run, runs), strict=True):
                yield objects
                if len(objects) < len(run):
                    return

        return fill_batch(opened())

    def _open_run(self, run: list[Planned]) -> list[OpenedObject]:
        """Open objects that one request reads, up to the first damaged one; raise its error if it is the first."""
        opened: list[OpenedObject] = []
        try:
            for key, content in self._read_run(run):
                opened.append(OpenedObject(key, len(content), check_digest(key, "sha256", content), None))
        except CorruptObjectError:
            if not opened:
                raise
        except MissingError:
            opened = [self.open(key) for key, _ in run]
        return opened

    def _read_run(self, run: list[Planned]) -> Iterator[tuple[str, bytes]]:
        """Yield the contents of objects that are next to each other in a pack.

        :raises MissingError: if they are not there any longer, or if the only object is large or loose.
        """
        places = [place for _, place in run if place is not None]
        if not places or places[0].length > CHUNK_BYTES:
            raise MissingError
        yield from zip((key for key, _ in run), self._packs.read_together(places), strict=True)

    def verify_batch(self, keys: Sequence[str], quick: bool) -> VerifyReport:
        log = self._log()
        if log is None or quick:
            return super().verify_batch(keys, quick)
        places, _ = log.look(map(bytes.fromhex, keys))
        return combined(self._threads.map(self._verify_run, runs_of(in_order(keys, places))))

    def verify_rest(self) -> tuple[DamagedObject, ...]:
        log = self._log()
        if log is None:
            return ()
        return tuple(self._repair(log).damaged_footers())

    def _verify_run(self, run: list[Planned]) -> VerifyReport:
        try:
            contents = dict(self._read_run(run))
        except MissingError:
            return verify([key for key, _ in run], "sha256", self.open, quick=False)
        read = {key: OpenedObject(key, len(content), content, None) for key, content in contents.items()}
        return verify(read, "sha256", read.__getitem__, quick=False)


def _is_ours(name: str) -> bool:
    return key_of(name) is not None or name.startswith(_FOLDERS) or name == LEASE
