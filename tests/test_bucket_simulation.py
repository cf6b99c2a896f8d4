"""Writers, deleters, maintainers and readers of a bucket, whose requests are interleaved, lost, delayed and cut off."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucket_simulation import CONTENTS, HOUR, MINUTE, Actor, Machines

EXAMPLES = int(os.environ.get("OBJREPO_SIMULATIONS", "40"))


class Simulation(Machines):
    """Machines whose requests meet random fates."""

    OPERATIONS = ("put", "put", "put", "delete", "delete", "has", "get", "list", "stream", "maintain", "maintain")
    FATES = ("answer",) * 24 + ("fail", "lose", "lose", "late", "kill")

    def __init__(self, random, folder, monkeypatch):
        super().__init__(folder, monkeypatch)
        self.random = random
        self.choose = random.randrange
        self.time_passes = random.choice((0.01, 0.03, 0.1))
        self.backend("0").initialise()
        self.actors = [Actor(self.bucket) for _ in range(4)]
        # Two of them are processes of one machine, which share an index.
        self.backends = [self.backend(str(min(each, 2)), actor.send) for each, actor in enumerate(self.actors)]

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
                self.backends[number] = self.backend(name, actor.send)
            self.trace.append(f"{number}:")
            numbers = self.random.sample(range(len(CONTENTS)), self.random.choice((1, 1, 2, 3)))
            self.start(actor, self.backends[number], self.random.choice(self.OPERATIONS), numbers)
        else:
            fate = self.random.choice(self.FATES)
            if fate != "answer":
                self.trace.append(f"{number}: {fate}")
            actor.step(fate)
            if actor.dead:
                self.backends[number] = self.backend(str(min(number, 2)), actor.send)

    def finish(self):
        for _ in range(20_000):
            running = [actor for actor in self.actors if actor.running]
            if not running:
                break
            self.random.choice(running).step("answer")
        assert not any(actor.running for actor in self.actors)
        while self.bucket.late:
            self.arrive()

    def check_all(self):
        for backend in self.backends:
            backend._bucket._send = backend._bucket._uploading.send = self.backend("0")._bucket._send
        self.check(*self.backends)


@given(random=st.randoms(use_true_random=False), steps=st.integers(40, 250))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_every_interleaving_is_right(random, steps):
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
            simulation.check_all()
        except BaseException as error:
            error.add_note("\n".join(simulation.trace))
            raise
        finally:
            for actor in simulation.actors:
                while actor.running:
                    actor.step("kill")
