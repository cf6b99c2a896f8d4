"""Writers, deleters, maintainers and readers of a bucket, whose requests are interleaved, lost, delayed and cut off."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucket_simulation import HOUR, MINUTE, Actor, Bucket, Killed, Operation, Pool, is_linearizable
from objrepo.bucket import backend as backend_module
from objrepo.bucket import lease, local_index, log, maintenance
from objrepo.bucket.options import S3Options
from objrepo.errors import ObjectNotFoundError, RepositoryBusyError, RepositoryUnavailableError

CONTENTS = [b"one", b"two", b"three", b"four", b"five" * 20, b"six" * 30]
"""The last two count as large ones."""

KEYS = [hashlib.sha256(content).hexdigest() for content in CONTENTS]
EXAMPLES = int(os.environ.get("OBJREPO_SIMULATIONS", "40"))


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Have few objects be many, so that snapshots, repacks and uploads happen in a simulation."""
    monkeypatch.setattr(backend_module, "_MAX_SINGLE_REQUEST_BYTES", 50)
    monkeypatch.setattr(backend_module, "MAX_BATCHED_OBJECT_BYTES", 40)
    monkeypatch.setattr(backend_module, "list_uploads", lambda options, older_than: [])
    monkeypatch.setattr(maintenance, "MAX_BATCHED_OBJECT_BYTES", 40)
    monkeypatch.setattr(maintenance, "_MANY_SMALL_PACKS", 2)
    monkeypatch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 2)
    monkeypatch.setattr(log, "_MANY_ENTRIES", 2)
    monkeypatch.setattr(local_index, "CHUNK_ROWS", 2)
    monkeypatch.setattr(log, "CHUNK_ROWS", 2)


class Simulation:
    """Some machines that use one bucket."""

    def __init__(self, random, folder, monkeypatch):
        self.random = random
        self.time_passes = random.choice((0.01, 0.03, 0.1))
        self.folder = folder
        self.bucket = Bucket()
        self.events = 0
        self.history = {key: [] for key in KEYS}
        self.trace = []
        self.errors = []
        for module in (log, backend_module, maintenance):
            monkeypatch.setattr(module, "now", lambda: self.bucket.clock)
        monkeypatch.setattr(lease.time, "time", lambda: self.bucket.clock)
        self.actors = [Actor(self.bucket) for _ in range(4)]
        # Two of them are processes of one machine, which share an index.
        self.backends = [self.backend(actor, str(min(number, 2))) for number, actor in enumerate(self.actors)]
        self.run_alone(self.backends[0].initialise)

    def backend(self, actor, name):
        backend = backend_module.S3Backend(S3Options(bucket="bucket", index=str(Path(self.folder) / name)))
        backend._bucket._send = backend._bucket._uploading.send = actor.send
        backend.pool = backend._threads = backend._loose._pool = Pool()
        backend.actor = actor
        return backend

    def run_alone(self, function):
        """Call a function without faults and without other writers."""
        results = []
        actor = self.actors[0]
        actor.start(lambda: results.append(function()))
        while actor.running:
            actor.step("answer")
        return results[0]

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

    def maintain(self, backend, numbers):
        backend.maintain(dry_run=False, live=True)

    # -- the scheduler --------------------------------------------------------------------------------------------

    OPERATIONS = ("put", "put", "put", "delete", "delete", "has", "get", "list", "stream", "maintain", "maintain")
    FATES = ("answer",) * 24 + ("fail", "lose", "lose", "late", "kill")

    def start(self, number):
        name = self.random.choice(self.OPERATIONS)
        numbers = self.random.sample(range(len(CONTENTS)), self.random.choice((1, 1, 2, 3)))
        self.trace.append(f"{number}: {name} {numbers}")
        backend = self.backends[number]
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

        self.actors[number].start(work)

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

    def step(self):
        if self.random.random() < self.time_passes:
            self.advance(self.random.choice((MINUTE, 6 * MINUTE, 2 * HOUR, 26 * HOUR, 26 * HOUR)))
        if self.bucket.late and self.random.random() < 0.3:
            self.arrive()
        number = self.random.randrange(len(self.actors))
        actor = self.actors[number]
        if self.random.random() < 0.005 and self.backends[number]._opened_log is not None:
            self.trace.append(f"{number}: its index is lost")
            self.backends[number]._opened_log.index.remove()
        self.events += 1
        if not actor.running:
            if self.random.random() < 0.05:  # a new process, with the index that is there or without
                name = str(min(number, 2)) if self.random.random() < 0.5 else f"{number}-{self.events}"
                self.backends[number]._forget_marker()
                self.backends[number] = self.backend(actor, name)
            self.start(number)
        else:
            fate = self.random.choice(self.FATES)
            if fate != "answer":
                self.trace.append(f"{number}: {fate}")
            actor.step(fate)
            if actor.dead:
                self.backends[number] = self.backend(actor, str(min(number, 2)))

    def arrive(self):
        """A request arrives that its sender has given up and repeated."""
        request = self.bucket.late.pop(self.random.randrange(len(self.bucket.late)))
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

    def finish(self):
        for _ in range(20_000):
            running = [actor for actor in self.actors if actor.running]
            if not running:
                break
            self.random.choice(running).step("answer")
        assert not any(actor.running for actor in self.actors)
        while self.bucket.late:
            self.arrive()

    def check(self):
        """What a new process finds is what the history allows, and stays through maintenance."""
        everything = list(range(len(CONTENTS)))
        fresh = self.backend(self.actors[0], "fresh")
        self.events += 1
        present = self.run_alone(lambda: fresh.has(KEYS))
        self.compare(fresh, present)
        for key, is_present in zip(KEYS, present, strict=True):
            self.record("present" if is_present else "absent", key, self.events)
        for key, number in zip(KEYS, everything, strict=True):
            assert is_linearizable(self.history[key]), (CONTENTS[number], self.history[key])
        for live in (True, False, False):
            self.bucket.clock += 26 * HOUR
            self.run_alone(lambda live=live: fresh.maintain(dry_run=False, live=live))
            self.compare(fresh, present)
        for number, actor in enumerate(self.actors):  # readers with the indexes that they had
            self.backends[number]._bucket._send = self.backends[number]._bucket._uploading.send = self.actors[0].send
            self.compare(self.backends[number], present)
            assert not actor.running
        packs = [name for name in self.bucket.objects if name.startswith("packs/")]
        assert len(packs) <= len(KEYS), "unused packs are removed"

    def compare(self, backend, present):
        for key, content, is_present in zip(KEYS, CONTENTS, present, strict=True):
            if is_present:
                assert self.run_alone(lambda key=key: backend.get(key)) == content
            else:
                with pytest.raises(ObjectNotFoundError):
                    self.run_alone(lambda key=key: self.raised(lambda: backend.get(key)))()
        listed = self.run_alone(lambda: sorted(item.key for items in backend._windows() for item in items))
        assert listed == sorted(key for key, is_present in zip(KEYS, present, strict=True) if is_present)
        assert self.run_alone(lambda: backend.has(KEYS)) == present

    @staticmethod
    def raised(function):
        """Return a function that raises what the function raises: exceptions do not leave an actor's thread."""
        try:
            result = function()
        except ObjectNotFoundError as error:
            caught = error

            def again():
                raise caught

            return again
        return lambda: result


@given(random=st.randoms(use_true_random=False), steps=st.integers(40, 250))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_every_interleaving_is_right(random, steps, small_limits):
    simulate(random, steps)


def simulate(random, steps):
    """Run one simulation."""
    with (
        TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        simulation = Simulation(random, folder, patch)
        try:
            for _ in range(steps):
                simulation.step()
                if simulation.errors:
                    raise simulation.errors[0]
            simulation.finish()
            if simulation.errors:
                raise simulation.errors[0]
            simulation.check()
        except BaseException as error:
            error.add_note("\n".join(simulation.trace))
            raise
        finally:
            for actor in simulation.actors:
                while actor.running:
                    actor.step("kill")
