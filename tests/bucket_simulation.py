"""A bucket in memory whose requests are interleaved, delayed, lost and cut off by a random number generator."""

from __future__ import annotations

import hashlib
import io
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import obstore.exceptions
import pytest

from objrepo.bucket import age, lease, local_index, log, maintenance
from objrepo.bucket import backend as backend_module
from objrepo.bucket.client import MissingError
from objrepo.bucket.s3 import S3Options
from objrepo.errors import ObjectNotFoundError, RepositoryBusyError, RepositoryUnavailableError

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

CONTENTS = [b"one", b"two", b"three", b"four", b"five" * 20, b"six" * 30]
"""The last two count as large ones."""

KEYS = [hashlib.sha256(content).hexdigest() for content in CONTENTS]


class Killed(BaseException):
    """The process of an actor has ended."""


@dataclass
class Bucket:
    """The objects, and a clock.

    :ivar late: requests that were sent, and have not arrived yet.
    """

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    clock: float = 1_700_000_000.0
    late: list = field(default_factory=list)

    def date(self):
        return datetime.fromtimestamp(self.clock, UTC)


class FakeObstore:
    """The functions of obstore that are used, on a :class:`Bucket`."""

    exceptions = obstore.exceptions

    @staticmethod
    def put(bucket, name, content, *, mode="overwrite"):
        if mode == "create" and name in bucket.objects:
            raise obstore.exceptions.AlreadyExistsError(name)
        bucket.objects[name] = content, bucket.date()

    @classmethod
    def upload(cls, bucket, name, chunks, part):
        cls.put(bucket, name, b"".join(map(bytes, chunks)))

    @staticmethod
    def get(bucket, name, *, options=None):
        if name not in bucket.objects:
            raise FileNotFoundError(name)
        content, modified = bucket.objects[name]
        start, end = (options or {}).get("range", (0, len(content)))
        if start >= len(content) and content:
            raise obstore.exceptions.GenericError("StartTooLarge")
        part = content[start:end]
        meta = {"size": len(content), "last_modified": modified}
        return SimpleNamespace(meta=meta, range=(start, start + len(part)), bytes=lambda: SimpleBytes(part))

    @staticmethod
    def head(bucket, name):
        if name not in bucket.objects:
            raise FileNotFoundError(name)
        return {"size": len(bucket.objects[name][0])}

    @staticmethod
    def delete(bucket, names):
        for name in names:
            bucket.objects.pop(name, None)

    @staticmethod
    def list(bucket, folder=None, *, offset=None, chunk_size=1000):
        prefix = f"{folder}/" if folder else ""
        names = sorted(name for name in bucket.objects if name.startswith(prefix) and name > (offset or ""))
        for start in range(0, len(names), chunk_size):
            page = [
                (name, bucket.objects[name]) for name in names[start : start + chunk_size] if name in bucket.objects
            ]
            yield [{"path": name, "size": len(each[0]), "last_modified": each[1]} for name, each in page]


class Unheard(FakeObstore):
    """The same, for requests whose answers are lost."""

    @staticmethod
    def list(bucket, folder=None, *, offset=None, chunk_size=1000):
        raise obstore.exceptions.GenericError("HTTP error")
        yield


class SimpleBytes(bytes):
    """What obstore returns."""

    def to_bytes(self):
        return bytes(self)


class Pool:
    """Makes one call after the other."""

    def map(self, function, items):
        return map(function, items)

    def close(self):
        pass


def answer(request, bucket):
    """Have a request answered."""
    try:
        return request(FakeObstore, bucket)
    except FileNotFoundError:
        raise MissingError from None


class Actor:
    """A thread that runs while the scheduler lets it, up to its next request."""

    def __init__(self, bucket):
        self.bucket = bucket
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._fate = ""
        self._tries = 0
        self.running = False
        self.dead = False

    def send(self, request):
        """Send a request, as :meth:`objrepo.bucket.client.Client.send` does: again while there is no answer."""
        for _ in range(6):
            self._stopped.release()
            self._go.acquire()
            if self._fate == "kill" or self.dead:
                self.dead = True
                raise Killed
            if self._fate == "fail":
                continue
            if self._fate == "late":
                self.bucket.late.append(lambda: request(Unheard, self.bucket))
                continue
            try:
                result = request(Unheard if self._fate == "lose" else FakeObstore, self.bucket)
            except FileNotFoundError:
                result = MissingError()
            except obstore.exceptions.BaseError as error:
                result = error
            if self._fate == "lose":
                continue
            if isinstance(result, Exception):
                raise result
            return result
        raise RepositoryUnavailableError("there was no answer")

    def start(self, function):
        """Have a function called; it stops before its first request."""
        self.running, self.dead = True, False

        def work():
            try:
                function()
            finally:
                self.running = False
                self._stopped.release()

        threading.Thread(target=work, daemon=True).start()
        self._stopped.acquire()

    def step(self, fate):
        """Have the next request meet its fate, and go on to the one after it."""
        self._fate = fate
        self._go.release()
        self._stopped.acquire()


@dataclass
class Operation:
    """What one call did or saw with one object.

    :ivar kind: ``put``, ``delete``, ``present`` or ``absent``.
    :ivar end: None if it is not known whether it had an effect, and when.
    """

    kind: str
    start: int
    end: int | None


def is_linearizable(operations):
    """Say whether operations on one object could have taken place one after the other, each while it was called."""
    operations = sorted(operations, key=lambda each: each.start)

    @cache
    def possible(done, present):
        left = [number for number in range(len(operations)) if not done >> number & 1]
        if all(operations[number].end is None for number in left):
            return True
        first_end = min(end for number in left if (end := operations[number].end) is not None)
        for number in left:
            operation = operations[number]
            if operation.start > first_end:
                break
            if operation.kind in ("delete", "present") and not present:
                continue
            if operation.kind == "absent" and present:
                continue
            if operation.kind == "put" and not present and possible(done, True):
                return True  # it is repeated, as its answer was lost, and takes effect again later
            after = {"put": True, "delete": False}.get(operation.kind, present)
            if possible(done | 1 << number, after):
                return True
        return False

    return possible(0, False)


def have_few_be_many(monkeypatch):
    """Have snapshots, repacks and uploads happen with few objects."""
    monkeypatch.setattr(backend_module, "_MAX_SINGLE_REQUEST_BYTES", 50)
    monkeypatch.setattr(backend_module, "MAX_BATCHED_OBJECT_BYTES", 40)
    monkeypatch.setattr(S3Options, "list_uploads", lambda *_: [])
    monkeypatch.setattr(maintenance, "MAX_BATCHED_OBJECT_BYTES", 40)
    monkeypatch.setattr(maintenance, "_MANY_SMALL_PACKS", 2)
    monkeypatch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 2)
    monkeypatch.setattr(log, "_MANY_ENTRIES", 2)
    monkeypatch.setattr(local_index, "CHUNK_ROWS", 2)
    monkeypatch.setattr(log, "CHUNK_ROWS", 2)


class Machines:
    """Some machines that use one bucket, what they did and saw, and a check of that.

    :param folder: where the local indexes are.
    """

    def __init__(self, folder, monkeypatch):
        have_few_be_many(monkeypatch)
        self.folder = folder
        self.bucket = Bucket()
        self.events = 0
        self.history = {key: [] for key in KEYS}
        self.trace = []
        self.errors = []
        monkeypatch.setattr(age, "clocks", lambda: (self.bucket.clock,))
        monkeypatch.setattr(lease.time, "time", lambda: self.bucket.clock)

    def backend(self, name, send=None):
        """Return the backend of one process.

        :param name: that of its index, which those of a machine share.
        :param send: sends its requests; each is answered at once unless given.
        """
        backend = backend_module.BucketBackend(S3Options(bucket="bucket", index=str(Path(self.folder) / name)))
        backend._bucket._send = send or (lambda request: answer(request, self.bucket))
        backend._bucket._uploading.send = backend._bucket._send
        backend.pool = backend._threads = backend._loose._pool = Pool()
        return backend

    def start(self, actor, backend, name, numbers):
        """Have a method of this class called in the thread of an actor."""
        self.trace.append(f"{name} {numbers}")
        began = self.events

        def work():
            try:
                getattr(self, name)(backend, numbers)
            except Killed:
                if name in ("put", "delete"):
                    for each in numbers:
                        self.history[KEYS[each]].append(Operation(name, began, None))
            except (RepositoryUnavailableError, RepositoryBusyError):
                pass
            except BaseException as error:  # noqa: BLE001  (raised in the test's thread)
                self.errors.append(error)

        actor.start(work)

    # -- operations -----------------------------------------------------------------------------------------------

    def record(self, kind, key, start, known=True):
        self.history[key].append(Operation(kind, start, self.events if known else None))

    def put(self, backend, numbers):
        sources = [memoryview(CONTENTS[number]) for number in numbers]

        def put():
            if len(sources) == 1:
                assert backend.put(io.BytesIO(sources[0])) == KEYS[numbers[0]]
                return
            for outcome in backend.put_batch(sources):
                if isinstance(outcome, Exception):
                    raise outcome

        self.change({KEYS[number]: "put" for number in numbers}, put)

    def delete(self, backend, numbers):
        keys = [KEYS[number] for number in numbers]
        self.change(dict.fromkeys(keys, "delete"), lambda: backend.delete(keys))

    def has(self, backend, numbers):
        start = self.events
        keys = [KEYS[number] for number in numbers]
        found = backend.has(keys)
        self.events += 1
        for key, present in zip(keys, found, strict=True):
            self.record("present" if present else "absent", key, start)

    def get(self, backend, numbers):
        """Contents may be outdated, but are right; what is said to be missing is missing now."""
        start = self.events
        key = KEYS[numbers[0]]
        try:
            assert backend.get(key) == CONTENTS[numbers[0]]
        except ObjectNotFoundError:
            self.events += 1
            self.record("absent", key, start)

    def stream(self, backend, numbers):
        start = self.events
        keys = [KEYS[number] for number in numbers]
        try:
            items, open_batch = backend.plan(keys)
            while items:
                opened = open_batch(items)
                for each in opened:
                    assert hashlib.sha256(each.head).hexdigest() == each.key
                items = items[len(opened) :]
        except ObjectNotFoundError as error:
            self.events += 1
            for key in error.keys:
                self.record("absent", key, start)

    def list(self, backend, numbers):
        start = self.events
        cursor = None
        listed = []
        while True:
            page, cursor = backend.list_keys(cursor)
            listed += page
            if cursor is None:
                break
        assert len(listed) == len(set(listed))
        self.events += 1
        for key in KEYS:
            self.record("present" if key in listed else "absent", key, start)

    def change(self, kinds, function):
        start = self.events
        try:
            function()
        except (RepositoryUnavailableError, RepositoryBusyError):
            for key, kind in kinds.items():
                self.history[key].append(Operation(kind, start, None))
        except ObjectNotFoundError as error:
            self.events += 1
            for key in kinds:
                self.record("absent" if key in error.keys else "present", key, start)
        else:
            self.events += 1
            for key, kind in kinds.items():
                self.record(kind, key, start)

    def maintain(self, backend, numbers=()):
        backend.maintain(dry_run=False, live=True)

    # -- time and the end -----------------------------------------------------------------------------------------

    def arrive(self):
        """A request arrives that its sender has given up and repeated."""
        request = self.bucket.late.pop(self.choose(len(self.bucket.late)))
        self.trace.append("a late request arrives")
        with suppress(Exception):  # its answer is not waited for
            request()

    def advance(self, seconds):
        """Requests do not arrive later than a quarter of an hour: their signature has expired."""
        self.trace.append(f"{seconds / HOUR:.1f} hours pass")
        if seconds > 15 * MINUTE:
            while self.bucket.late:
                self.arrive()
        self.bucket.clock += seconds

    def choose(self, count):
        """Return a number below another one."""
        return 0

    def check(self, *backends, lives=(True, False, False)):
        """What a new process finds is what the history allows, and stays through maintenance.

        :param backends: readers with the indexes that they had, which find the same.
        :param lives: the parameter of each maintenance.
        """
        everything = list(range(len(CONTENTS)))
        fresh = self.backend("fresh")
        self.events += 1
        present = fresh.has(KEYS)
        self.compare(fresh, present)
        for key, is_present in zip(KEYS, present, strict=True):
            self.record("present" if is_present else "absent", key, self.events)
        for key, number in zip(KEYS, everything, strict=True):
            assert is_linearizable(self.history[key]), (CONTENTS[number], self.history[key])
        for live in lives:
            self.bucket.clock += 26 * HOUR
            fresh.maintain(dry_run=False, live=live)
            self.compare(fresh, present)
        for backend in backends:
            self.compare(backend, present)
        packs = [name for name in self.bucket.objects if name.startswith("packs/")]
        assert len(packs) <= len(KEYS) + 2, "unused packs are removed"

    def compare(self, backend, present):
        for key, content, is_present in zip(KEYS, CONTENTS, present, strict=True):
            if is_present:
                assert backend.get(key) == content
            else:
                with pytest.raises(ObjectNotFoundError):
                    backend.get(key)
        listed = [item.key for items in backend._pages() for item in items]
        assert len(listed) == len(set(listed))
        expected = {key for key, is_present in zip(KEYS, present, strict=True) if is_present}
        assert expected == {key for key in listed if key in KEYS}
        assert backend.has(KEYS) == present
