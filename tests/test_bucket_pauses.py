"""A program that stops between any two requests, for minutes or days in which others go on, does no harm after that.

Each test stops one operation before each of its requests in turn, has other machines change and maintain the
repository, and then has the operation go on.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bucket_simulation import HOUR, KEYS, MINUTE, Actor, Machines
from objrepo.bucket import maintenance

ALONE, PACKED, GONE, ABSENT, LARGE, LEFT = range(6)
"""What the objects are at first. The last one was deleted, and is still there as a loose object."""

NOISE = [b"noise", b"more noise"]
SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Others(Machines):
    """The machines that go on while one of them stands still."""

    other = None

    def prepare(self, patch):
        patch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 1)
        self.other = self.backend("other")
        self.other.initialise()
        self.put(self.other, [PACKED, GONE])
        self.put(self.other, [LARGE])
        self.put(self.other, [LEFT])
        paused = self.backend("paused")
        self.has(paused, range(len(KEYS)))
        paused.close()
        name = f"{KEYS[LEFT][:2]}/{KEYS[LEFT][2:]}"
        left = self.bucket.objects[name]
        self.delete(self.other, [LEFT, GONE])
        self.days(1)
        self.bucket.objects[name] = left  # as if its deleter had been killed, and maintenance had looked before that
        self.put_noise(NOISE)  # so that maintenance puts packs together
        self.put(self.other, [ALONE])
        self.advance(26 * HOUR)

    def days(self, count=2):
        """Others use and maintain the repository; after two days, what is not needed is removed and forgotten."""
        for _ in range(count):
            self.advance(26 * HOUR)
            self.put_noise([b"noise %d %d" % (self.bucket.clock, each) for each in range(2)])
            self.maintain(self.other)

    def put_noise(self, contents):
        assert all(isinstance(key, str) for key in self.other.put_batch([memoryview(each) for each in contents]))

    def delete_all(self):
        present = self.other.has(KEYS)
        self.delete(self.other, [number for number, is_present in enumerate(present) if is_present])

    def put_all(self):
        for number in range(len(KEYS)):
            self.put(self.other, [number])

    # -- what happens meanwhile -------------------------------------------------------------------------------------

    def nothing(self):
        self.advance(26 * HOUR)

    def maintained(self):
        self.days()

    def maintained_for_a_day(self):
        self.days(1)

    def maintained_within_the_hour(self):
        self.advance(10 * MINUTE)
        self.put_noise([b"within", b"the hour"])
        self.maintain(self.other)

    def deleted(self):
        self.delete_all()
        self.days()

    def deleted_and_stored(self):
        self.delete_all()
        self.put_all()
        self.days()

    def deleted_forgotten_and_stored(self):
        self.delete_all()
        self.days()
        self.put_all()

    def stored_and_deleted(self):
        self.put_all()
        self.delete_all()
        self.days()

    def repacked_and_stored(self):
        self.delete(self.other, [PACKED])
        self.days()
        self.put(self.other, [PACKED])

    def stored_and_deleted_by_one_that_was_killed(self):
        self.advance(10 * MINUTE)
        self.maintain(self.other)
        self.put(self.other, [GONE])
        name = f"{KEYS[GONE][:2]}/{KEYS[GONE][2:]}"
        left = self.bucket.objects[name]
        self.delete(self.other, [GONE])
        self.bucket.objects[name] = left

    def deleted_within_the_hour(self):
        self.advance(10 * MINUTE)
        self.delete(self.other, [ALONE, PACKED])

    def there_is_only_one_pack_left(self):
        """It is not put together with others, so what is in it stays there; packs without an entry are removed."""
        self.delete(self.other, [ALONE])
        self.other.delete([hashlib.sha256(content).hexdigest() for content in NOISE])
        for _ in range(3):
            self.advance(26 * HOUR)
            self.maintain(self.other)

    def within_the_hour(self):
        self.delete_all()
        self.advance(10 * MINUTE)
        self.maintain(self.other)
        self.put_all()
        self.advance(10 * MINUTE)
        self.maintain(self.other)

    def maintained_and_stored_within_the_hour(self):
        for _ in range(2):
            self.advance(10 * MINUTE)
            self.maintain(self.other)
        self.put_all()

    def stored_within_the_hour(self):
        self.advance(10 * MINUTE)
        self.put_all()
        self.maintain(self.other)
        self.advance(10 * MINUTE)
        self.delete(self.other, [ALONE, PACKED, ABSENT])
        self.maintain(self.other)


IN_MAINTENANCE = (
    "nothing",
    "maintained",
    "deleted",
    "deleted_forgotten_and_stored",
    "repacked_and_stored",
    "stored_and_deleted_by_one_that_was_killed",
    "there_is_only_one_pack_left",
    "deleted_within_the_hour",
    "stored_within_the_hour",
    "maintained_and_stored_within_the_hour",
)
IN_CHANGES = (
    "maintained_within_the_hour",
    "maintained_for_a_day",
    "deleted_and_stored",
    "deleted_forgotten_and_stored",
    "stored_and_deleted",
    "within_the_hour",
    "maintained_and_stored_within_the_hour",
)
IN_READS = ("maintained", "deleted_forgotten_and_stored", "within_the_hour")

OPERATIONS = [
    ("put", [ABSENT], IN_CHANGES),
    ("put", [LEFT], IN_CHANGES),
    ("put", [LARGE], IN_READS),
    ("put", [ALONE, ABSENT], IN_READS),
    ("put", [PACKED, ABSENT], IN_CHANGES),
    ("delete", [ALONE], IN_CHANGES),
    ("delete", [PACKED, LARGE], IN_READS),
    ("maintain", [], IN_MAINTENANCE),
    ("get", [ALONE], IN_READS),
    ("get", [PACKED], IN_READS),
    ("has", [*range(6)], IN_READS),
    ("list", [], IN_READS),
    ("stream", [ALONE, PACKED], IN_READS),
]


@pytest.fixture(scope="module")
def prepared():
    """A bucket, the local indexes, and the history so far."""
    with TemporaryDirectory(dir=SHARED_MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        others = Others(folder, patch)
        others.prepare(patch)
        others.other.close()
        yield others


def paused(prepared, name, numbers, stop, meanwhile, index):
    """Stop an operation before one of its requests, and check everything after it; return whether it had so many."""
    with TemporaryDirectory(dir=SHARED_MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(prepared.folder, folder, dirs_exist_ok=True)
        others = Others(folder, patch)
        others.bucket.objects.update(prepared.bucket.objects)
        others.bucket.clock = prepared.bucket.clock
        others.history, others.events = copy.deepcopy(prepared.history), prepared.events
        others.other = others.backend(index)
        patch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 1)
        actor = Actor(others.bucket)
        backend = others.backend("paused", actor.send)
        backend.is_initialised = lambda: True
        try:
            others.events += 1
            others.start(actor, backend, name, numbers)
            for _ in range(stop):
                if actor.running:
                    actor.step("answer")
            if not actor.running:
                return False
            others.events += 1
            getattr(others, meanwhile)()
            others.events += 1
            while actor.running:
                actor.step("answer")
            if others.errors:
                raise others.errors[0]
            backend._bucket._send = backend._bucket._uploading.send = others.other._bucket._send
            others.check(backend, lives=(True, False))
        except BaseException as error:
            error.add_note(f"{name} {numbers}, stopped before request {stop + 1}, {meanwhile}")
            raise
        finally:
            while actor.running:
                actor.step("kill")
        return True


@pytest.mark.parametrize(
    ("name", "numbers", "changes"), OPERATIONS, ids=[f"{name}{numbers}" for name, numbers, _ in OPERATIONS]
)
def test_an_operation_that_stops(prepared, name, numbers, changes):
    for position, meanwhile in enumerate(changes):
        index = ("other", "paused")[position % 2]  # others on another machine, or on the same one, use its index
        stop = 0
        while paused(prepared, name, numbers, stop, meanwhile, index):
            stop += 1
        assert stop > 1
