"""Random faults at random requests of random programs, on two machines with one bucket, compared with a model."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from contextlib import nullcontext
from dataclasses import replace
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucket_simulation import Operation, is_linearizable
from objrepo import ObjectNotFoundError, RepositoryBusyError, RepositoryUnavailableError, S3Repository
from objrepo.bucket import backend, client, log, loose, maintenance
from objrepo.bucket.s3 import S3Options
from s3_proxy import Fault, proxy_to
from s3_server import s3_server

EXAMPLES = int(os.environ.get("OBJREPO_SCHEDULES", "5"))
CONTENTS = [b"one", b"two", b"three", b"four", b"five" * 100, b"six" * 500]
"""The last two are too large for packs, and the last one is sent in parts."""

KEYS = [hashlib.sha256(content).hexdigest() for content in CONTENTS]
FAULTS = [
    Fault(answer=503, headers={"Retry-After": "1"}),
    Fault(answer=500, code="InternalError", performed=True),
    Fault(drop=True),
    Fault(cut=1),
    Fault(shorten=1),
    Fault(twice=True),
    Fault(copy=True),
    Fault(copy=True, drop=True),
]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Have few and small objects be many and large ones, and requests be repeated at once."""
    monkeypatch.setattr("objrepo.retry.FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backend, "_MAX_SINGLE_REQUEST_BYTES", 1000)
    monkeypatch.setattr(maintenance, "_MANY_SMALL_PACKS", 2)
    monkeypatch.setattr(maintenance, "_ENTRIES_PER_SNAPSHOT", 4)
    monkeypatch.setattr(S3Options, "list_uploads", lambda *_: [])
    for module in (backend, maintenance):
        monkeypatch.setattr(module, "MAX_BATCHED_OBJECT_BYTES", 100)
    for module in (backend, client, log, loose):
        monkeypatch.setattr(module, "PART_BYTES", 600)


class Schedule:
    """A program, what happens to its requests, and what its calls did or saw, by key."""

    def __init__(self, seed, server, proxy):
        self.random = random.Random(seed)
        self.fates = random.Random(seed)
        self.share = self.random.choice((0.05, 0.2, 0.5))
        self.server = server
        self.proxy = proxy
        self.history = {key: [] for key in KEYS}
        self.events = 0
        self.lock = threading.Lock()
        proxy.faults = self.fault

    def fault(self, method, target):
        if target == "/bucket/lease" and method == "PUT":
            return None  # a copy would end the maintenance by another machine, which says so
        with self.lock:
            fault = self.fates.choice(FAULTS) if self.fates.random() < self.share else Fault()
            return replace(fault, hang=self.fates.choice((0, 0, 0.002)), late=self.fates.choice((0, 0, 0.002)))

    def record(self, kind, keys, start, known=True):
        for key in keys:
            self.history[key].append(Operation(kind, start, self.events if known else None))

    async def call(self, repo, name, numbers):
        self.events += 1
        start = self.events
        keys = [KEYS[number] for number in numbers]
        try:
            seen = await getattr(self, name)(repo, numbers, keys)
        except ObjectNotFoundError as error:
            self.events += 1
            self.record("absent", error.keys, start)
        except (RepositoryUnavailableError, RepositoryBusyError) as error:
            assert "\n" not in str(error)
            if name in ("put", "delete"):
                self.record(name, keys, start, known=False)
        else:
            self.events += 1
            for kind, found in (seen or {}).items():
                self.record(kind, found, start)

    async def put(self, repo, numbers, keys):
        if len(numbers) == 1:
            assert await repo.put(CONTENTS[numbers[0]]) == keys[0]
        else:
            assert await repo.put_many([CONTENTS[number] for number in numbers]) == keys
        return {"put": keys}

    async def delete(self, repo, numbers, keys):
        await repo.delete_many(keys)
        return {"delete": keys}

    async def has(self, repo, numbers, keys):
        found = await repo.has_many(keys)
        return {
            kind: [key for key, each in zip(keys, found, strict=True) if each == (kind == "present")]
            for kind in ("present", "absent")
        }

    async def get(self, repo, numbers, keys):
        assert await repo.get(keys[0]) == CONTENTS[numbers[0]]

    async def open(self, repo, numbers, keys):
        async with repo.open(keys[0], offset=1, length=700) as stream:
            assert await stream.read() == CONTENTS[numbers[0]][1:701]

    async def stream(self, repo, numbers, keys):
        async with repo.stream(keys) as objects:
            async for key, stream in objects:
                assert await stream.read() == CONTENTS[KEYS.index(key)]

    async def keys(self, repo, numbers, keys):
        listed = [key async for key in repo.keys()]
        assert len(listed) == len(set(listed))
        return {"present": listed, "absent": [key for key in KEYS if key not in listed]}

    async def maintain(self, repo, numbers, keys):
        await repo.maintain()

    async def verify(self, repo, numbers, keys):
        assert (await repo.verify()).ok

    NAMES = ("put",) * 6 + ("delete",) * 3 + ("has", "get", "open", "stream", "keys", "maintain", "verify")

    async def run(self, repos, steps):
        for _ in range(steps):
            async with anyio.create_task_group() as group:
                for _ in range(self.random.choice((1, 1, 2, 3))):
                    numbers = self.random.sample(range(len(CONTENTS)), self.random.choice((1, 1, 2, 3)))
                    group.start_soon(self.call, self.random.choice(repos), self.random.choice(self.NAMES), numbers)
            if self.random.random() < 0.3:
                self.proxy.deliver()
        self.proxy.faults = lambda *_: None
        self.proxy.deliver()

    async def check(self, repos):
        """Compare what is there with the history, before and after maintenance."""
        present = await repos[-1].has_many(KEYS)
        self.events += 1
        for key, each in zip(KEYS, present, strict=True):
            self.record("present" if each else "absent", [key], self.events)
            assert is_linearizable(self.history[key]), (CONTENTS[KEYS.index(key)], self.history[key])
        for live in (True, False):
            self.server.objects.pop("lease", None)
            await repos[-1].maintain(live=live)
            for repo in repos:
                assert await repo.has_many(KEYS) == present
                for key, content, each in zip(KEYS, CONTENTS, present, strict=True):
                    with nullcontext() if each else pytest.raises(ObjectNotFoundError):
                        assert await repo.get(key) == content


async def run(seed, steps):
    with s3_server() as server, proxy_to(server.url) as proxy, TemporaryDirectory() as folder:
        options = {**server.options, "endpoint": proxy.url, "timeout": 5, "retry_timeout": 0.1, "concurrency": 4}
        repos = [S3Repository(**options, index=f"{folder}/{number}") for number in range(3)]
        async with repos[0], repos[1], repos[2]:
            await repos[0].initialise()
            schedule = Schedule(seed, server, proxy)
            await schedule.run(repos[:2], steps)
            await schedule.check(repos)


@given(seed=st.integers(0, 2**32), steps=st.integers(5, 25))
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_every_schedule_of_faults_ends_as_the_model_allows(seed, steps):
    anyio.run(run, seed, steps, backend=("asyncio", "trio")[seed % 2])
