"""The log of a repository in a bucket: numbered entries, of which one writer creates each.

The state of the repository is what its log says, applied in order. An entry is created by a conditional request on the
state before it, so that everything that a writer has concluded from that state still holds when it takes effect.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from objrepo.bucket.age import MAX_AGE, Moment
from objrepo.bucket.client import BucketClient, Listed, MissingError
from objrepo.bucket.encoding import (
    HASH_BYTES,
    ROW_BYTES,
    SNAPSHOT_HEAD_BYTES,
    DamagedError,
    Entry,
    Place,
    SnapshotHead,
    decode_entry,
    encode_entry,
    split,
)
from objrepo.bucket.local_index import CHUNK_ROWS, IndexLostError, LocalIndex
from objrepo.errors import RepositoryError, RepositoryUnavailableError
from objrepo.offload import BlockingPool, WorkCancelled, cancel_requested
from objrepo.range_reader import PART_BYTES

T = TypeVar("T")

FOLDER: Final = "log"
SNAPSHOTS: Final = "snapshots"

_NUMBERED: Final = re.compile(rf"(?:{FOLDER}|{SNAPSHOTS})/[0-9]{{16}}")
_ATTEMPTS: Final = 10
_MANY_ENTRIES: Final = 64
_WAIT_SECONDS: Final = 0.05


def name_of(number: int, folder: str = FOLDER) -> str:
    """Return the name of a log entry, or of the snapshot after it."""
    return f"{folder}/{number:016}"


def number_of(name: str) -> int:
    """Return the number in such a name."""
    return int(name.rpartition("/")[2])


def numbered(bucket: BucketClient, folder: str, after: str = "") -> Iterator[Listed]:
    """Yield the log entries or snapshots with names after another one, in order, but no files of other programs."""
    return (each for each in bucket.list_all(folder, after) if _NUMBERED.fullmatch(each.name))


def begin_log(bucket: BucketClient) -> None:
    """Create the first entry, which changes nothing: a repository without any has lost its log."""
    bucket.create_first(name_of(1), encode_entry(Entry()))


class BrokenLogError(RepositoryError):
    """The log lacks an entry, or an entry or a snapshot is damaged."""


class Found(NamedTuple):
    """What the state says of some objects.

    :ivar places: where those are that are in packs.
    :ivar tombstones: the keys whose files of their own do not count.
    """

    places: dict[bytes, Place]
    tombstones: dict[bytes, int]


class Log:
    """The log of one repository, and the local index that follows it.

    :param location: the repository, for errors.
    :param folder: where the file of the index is.
    :param uuid: of the repository, which names that file.
    """

    def __init__(self, bucket: BucketClient, pool: BlockingPool, location: str, folder: Path, uuid: str) -> None:
        self._bucket = bucket
        self._pool = pool
        self._location = location
        # A copy of a bucket has the same UUID, and soon another log.
        name = f"{uuid}-{hashlib.sha256(location.encode()).hexdigest()[:8]}.index"
        self.index: LocalIndex = LocalIndex(folder / name)
        self._updating = Shared(self._update)
        self._seen: tuple[Moment, int] | None = None  # when the end of the log was seen, and its number

    def seen_recently(self, seconds: float = MAX_AGE) -> bool:
        """Return whether this process has seen the end of the log in the last seconds, and the index includes it."""
        return self._seen is not None and self._seen[0].is_recent(seconds) and self.index.number >= self._seen[1]

    def look(self, keys: Iterable[bytes]) -> Found:
        """Return what the local index says; it is brought up to date first if that was not done for an hour."""
        if not self.seen_recently():
            self.update()
        keys = list(keys)
        try:
            return Found(self.index.places(keys), self.index.tombstones(keys))
        except IndexLostError:
            self.update()
            return Found(self.index.places(keys), self.index.tombstones(keys))

    def update(self) -> int:
        """Bring the local index up to date with a listing that begins after this call; return its number.

        Threads that call this at the same moment share one listing.
        """
        return self._updating()

    def transact(self, build: Callable[[], Entry]) -> Entry:
        """Append an entry to the log that is exactly right for the state that it changes.

        :param build: returns the entry for the state of the local index; called again when that has changed. An empty
            entry is not appended: it was built for a state that was the latest after this call had begun.
        :return: the entry.
        """
        confirmed = -1
        if not self.seen_recently(MAX_AGE / 2):  # half an hour is left for building the entry
            confirmed = self.update()
        while True:
            number = self.index.number  # before the state is read: if that is newer, the number is taken
            generation = self.index.generation
            try:
                entry = build()
            except IndexLostError:
                entry, generation = Entry(), -1
            if self.index.number < number or self.index.generation != generation:
                confirmed = self.update()  # the file of the index was lost, so the entry may be wrong
                continue
            if entry and self.append(number, entry):
                return entry
            if not entry and 0 <= confirmed <= number:
                return entry
            confirmed = self.update()
            if not entry and confirmed == number:
                return entry

    def append(self, number: int, entry: Entry) -> bool:
        """Append an entry after the one with this number, unless another writer has done so; say which it was.

        :raises RepositoryUnavailableError: if it is not known, because the answer took too long.
        """
        began, seen = Moment(), self._seen
        if seen is None or number < seen[1] or not seen[0].is_recent():
            return False
        if not self._bucket.create_first(name_of(number + 1), encode_entry(entry)):
            return False
        # Maintenance may have removed other entries with this number and higher ones, if that was a day ago.
        if not seen[0].is_recent():
            raise RepositoryUnavailableError(
                f"{self._location} took too long to answer: it is not known whether the change was made: try again"
            )
        with suppress(IndexLostError):
            self.index.apply(number + 1, entry)
        self._seen = began, number + 1
        return True

    def close(self) -> None:
        """Close the local index."""
        self.index.close()

    # -- following the log ----------------------------------------------------------------------------------------

    def _update(self) -> int:
        for attempt in range(_ATTEMPTS):
            began = Moment()
            try:
                number = self.index.number
                last = self._follow(number, is_first=attempt == 0)
                if last is None:
                    self._load_snapshot(number)
                elif (number := self.index.number) >= last:
                    self._seen = began, number
                    return number
            except (MissingError, IndexLostError):
                pass  # maintenance has removed it meanwhile, or another thread has found the index damaged
        raise BrokenLogError(
            f"the log of {self._location} lacks an entry after {self.index.number}: repair(live=False) rebuilds it"
        )

    def _follow(self, number: int, is_first: bool) -> int | None:
        """Apply the entries after one; return the number of the last, None if a snapshot is needed for that, or better.

        The last entry that the index has is listed as well. If it is gone, others may be gone that the index lacks, or
        another bucket was put in the place of this one.

        :param is_first: whether a snapshot is better if there are many entries; else there is none.
        """
        found = list(numbered(self._bucket, FOLDER, name_of(max(number - 1, 0))))
        listed = [number_of(each.name) for each in found]
        first = max(number, 1)
        if not listed or listed != list(range(first, first + len(listed))):
            return None
        if number and not self.index.is_stored_at(number, found[0].modified):
            return None
        if is_first and not number and len(listed) > _MANY_ENTRIES:
            return None
        new = listed[1:] if number else listed
        contents = self._pool.map(lambda each: self._bucket.read(name_of(each))[0], new)
        for each, content in zip(new, contents, strict=True):
            self.index.apply(each, self._decode(each, content))
        if new:
            self.index.is_stored_at(new[-1], found[-1].modified)
        return listed[-1]

    def _decode(self, number: int, content: bytes) -> Entry:
        try:
            return decode_entry(content)
        except DamagedError as error:
            raise BrokenLogError(
                f"{name_of(number)} in {self._location} is damaged: {error}: repair(live=False) rebuilds the log"
            ) from error

    def _load_snapshot(self, number: int) -> None:
        """Have the index start from the latest snapshot, or from nothing if there is none.

        :param number: that of the index that is replaced, unless another process has done so.
        """
        last = max((number_of(each.name) for each in numbered(self._bucket, SNAPSHOTS)), default=None)
        if last is None:
            return self.index.load(0, number)
        name = name_of(last, SNAPSHOTS)
        try:
            head = SnapshotHead.decode(bytes(self._bucket.get_range(name, 0, SNAPSHOT_HEAD_BYTES).content))
            if head.number != last:
                raise DamagedError(f"it is that of {head.number}")
            content = _Content(head, self._parts(name, head.size))
            return self.index.load(
                last,
                number,
                content.records(head.packs, HASH_BYTES),
                map(_mark, content.records(head.tombstones, HASH_BYTES + 8)),
                map(_mark, content.records(head.retired, HASH_BYTES + 8)),
                content.chunks(),
            )
        except DamagedError as error:
            raise BrokenLogError(
                f"{name} in {self._location} is damaged: {error}: repair(live=False) rebuilds it"
            ) from error

    def _parts(self, name: str, size: int) -> Iterator[bytes]:
        starts = range(0, size, PART_BYTES)
        return self._pool.map(
            lambda start: bytes(self._bucket.get_range(name, start, min(start + PART_BYTES, size)).content), starts
        )


class _Content:
    """The content of a snapshot, which is taken in order, in bounded memory."""

    def __init__(self, head: SnapshotHead, parts: Iterator[bytes]) -> None:
        self._head = head
        self._parts = parts
        self._hasher = hashlib.sha256()
        self._part = b""
        self._position = 0
        self._take(SNAPSHOT_HEAD_BYTES)

    def records(self, count: int, size: int) -> Iterator[bytes]:
        """Yield the next records."""
        return split(self._take(count * size), size)

    def chunks(self) -> Iterator[bytes]:
        """Yield the rows in chunks.

        :raises DamagedError: at the end, if the checksum is wrong.
        """
        for start in range(0, self._head.rows, CHUNK_ROWS):
            yield self._take(min(self._head.rows - start, CHUNK_ROWS) * ROW_BYTES)
        expected = self._hasher.digest()
        if self._take(HASH_BYTES) != expected:
            raise DamagedError("its checksum is wrong")

    def _take(self, size: int) -> bytes:
        taken = [self._part[self._position : self._position + size]]
        self._position += size
        missing = size - len(taken[0])
        while missing:
            self._part = next(self._parts, b"")
            if not self._part:
                raise DamagedError("it is too short")
            taken.append(self._part[:missing])
            self._position = len(taken[-1])
            missing -= self._position
        content = b"".join(taken)
        self._hasher.update(content)
        return content


def _mark(record: bytes) -> tuple[bytes, int]:
    return record[:HASH_BYTES], int.from_bytes(record[HASH_BYTES:])


class Shared(Generic[T]):
    """A function that threads call at the same moment is called once for those whose call has begun before it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._changed = threading.Condition()
        self._begun = self._ended = self._failed = 0
        self._running = False
        self._result: Any = None
        self._error: Exception | None = None

    def __call__(self) -> T:
        """Return the result of a call of the function that began after this one.

        :raises: what the function raised for a thread that this one has waited for.
        :raises WorkCancelled: if the caller is cancelled.
        """
        with self._changed:
            ticket, failed = self._begun + 1, self._failed
            while self._running:
                self._changed.wait(_WAIT_SECONDS)
                if cancel_requested():
                    raise WorkCancelled
                if self._ended >= ticket:
                    return cast("T", self._result)
                if self._failed != failed and self._error is not None:
                    raise self._error
            if self._ended >= ticket:
                return cast("T", self._result)
            self._running = True
            self._begun += 1
            mine = self._begun
        try:
            result = self._function()
        except WorkCancelled:
            raise
        except Exception as error:
            self._failed += 1
            self._error = error
            raise
        else:
            self._result, self._ended = result, mine
            return result
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()
