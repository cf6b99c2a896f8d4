"""A bucket in memory whose requests are interleaved, delayed, lost and cut off by a random number generator."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace

import obstore.exceptions

from objrepo.bucket.client import MissingError
from objrepo.errors import RepositoryUnavailableError

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


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
    def put(bucket, name, content, *, mode="overwrite", use_multipart=False, chunk_size=0):
        if not isinstance(content, bytes):
            content = b"".join(map(bytes, content))
        if mode == "create" and name in bucket.objects:
            raise obstore.exceptions.AlreadyExistsError(name)
        bucket.objects[name] = content, bucket.date()

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
        return SimpleNamespace(meta=meta, bytes=lambda: SimpleBytes(part))

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
