"""A program that stops between any two requests, for minutes or days in which others go on, does no harm after that.

Each test stops one operation before each of its requests in turn, has other machines change and maintain the
repository, and then has the operation go on.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bucket_simulation import HOUR, KEYS, MINUTE, Actor, Machines
from objrepo.bucket import maintenance

ALONE, PACKED, PACKED_TOO, ABSENT, LARGE, LEFT = range(6)
"""What the objects are at first: the last one was deleted, and its file is still there."""

PRESENT = [ALONE, PACKED, PACKED_TOO, LARGE]
SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Others(Machines):
    """The machines that go on while one of them stands still."""

    other = None

    def prepare(self, patch):
        patch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 1)
        self.other = self.backend("other")
        self.other.initialise()
        self.put(self.other, [ALONE])
        self.put(self.other, [PACKED, PACKED_TOO])
        self.put(self.other, [LARGE])
        self.put(self.other, [LEFT])
        paused = self.backend("paused")
        self.has(paused, range(len(KEYS)))
        paused.close()
        name = f"{KEYS[LEFT][:2]}/{KEYS[LEFT][2:]}"
        left = self.bucket.objects[name]
        self.delete(self.other, [LEFT])
        self.days(1)
        self.bucket.objects[name] = left  # as if its deleter had been killed, and maintenance had looked before that
        self.advance(26 * HOUR)

    def days(self, count=2):
        """Others use and maintain the repository; after two days, what is not needed is removed and forgotten."""
        for _ in range(count):
            self.advance(26 * HOUR)
            self.other.put_batch([b"noise %d %d" % (self.bucket.clock, each) for each in range(2)])
            self.maintain(self.other)

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


CHANGES = (
    "nothing",
    "maintained",
    "deleted",
    "deleted_and_stored",
    "deleted_forgotten_and_stored",
    "stored_and_deleted",
    "repacked_and_stored",
    "within_the_hour",
    "stored_within_the_hour",
    "maintained_and_stored_within_the_hour",
)
SEEN_BY_READERS = ("maintained", "deleted", "deleted_forgotten_and_stored", "within_the_hour")

OPERATIONS = [
    ("put", [ABSENT], CHANGES),
    ("put", [ALONE], CHANGES),
    ("put", [PACKED], CHANGES),
    ("put", [LEFT], CHANGES),
    ("put", [LARGE], CHANGES),
    ("put", [PACKED, ABSENT], CHANGES),
    ("put", [ALONE, ABSENT], CHANGES),
    ("delete", [ALONE], CHANGES),
    ("delete", [PACKED, LARGE], CHANGES),
    ("maintain", [], CHANGES),
    ("get", [ALONE], SEEN_BY_READERS),
    ("get", [PACKED], SEEN_BY_READERS),
    ("get", [ABSENT], SEEN_BY_READERS),
    ("has", [*range(6)], SEEN_BY_READERS),
    ("list", [], SEEN_BY_READERS),
    ("stream", [ALONE, PACKED], SEEN_BY_READERS),
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
