"""Looking on: what a hook, the log, OpenTelemetry, statistics and notebooks are told."""

from __future__ import annotations

import logging

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from objrepo import CachedRepository, DiskRepository, MemoryRepository, ObjectNotFoundError
from objrepo.instrumentation import InstrumentedRepository, Operation, log_operations
from objrepo.offload import Inline, OwnThreads, Threads
from objrepo.otel import telemetry
from objrepo.sync import SyncRepository
from objrepo.testing.fixtures import content_of

SECRET = b"what an object contains"


class TestHook:
    async def test_it_is_told_of_each_operation(self, repo):
        told = []
        observed = InstrumentedRepository(repo, told.append)
        async with observed:
            key = await observed.put(SECRET)
            await observed.get(key)
            await observed.has(key)
            async with observed.open(key, 5) as stream:
                await stream.read(3)
            async with observed.stream([key]) as objects:
                async for _ in objects:
                    pass
            await observed.verify()
            await observed.delete(key)
            with pytest.raises(ObjectNotFoundError):
                await observed.get(key)
            assert [(each.name, each.size, each.outcome) for each in told] == [
                ("put", len(SECRET), "ok"),
                ("get", len(SECRET), "ok"),
                ("has", None, "ok"),
                ("open", 3, "ok"),
                ("stream", None, "ok"),
                ("verify", len(SECRET), "ok"),
                ("delete", None, "ok"),
                ("get", None, "ObjectNotFoundError"),
            ]
            assert {each.backend for each in told} == {"DiskRepository"}
            assert all(0 < each.seconds < 60 for each in told)

    async def test_it_is_told_of_what_was_cancelled(self):
        class Slow(MemoryRepository):
            async def get(self, key, check=False):
                await anyio.sleep(60)

        told = []
        async with InstrumentedRepository(Slow(), told.append) as observed:
            with anyio.move_on_after(0.01):
                await observed.get("key")
        assert [each.outcome for each in told] == ["cancelled"]

    async def test_what_else_a_repository_has_goes_through(self, repo):
        observed = InstrumentedRepository(repo, print)
        assert (await observed.repair()).steps == ()
        assert observed.path == repo.path
        assert str(observed) == f"InstrumentedRepository {repo}"
        assert str(repo) in repr(observed)
        with pytest.raises(AttributeError, match="nonsense"):
            observed.nonsense  # noqa: B018


class TestLogging:
    async def test_operators_are_told_what_was_done_and_nobody_what_it_contains(self, folder, caplog):
        with caplog.at_level(logging.DEBUG):
            async with InstrumentedRepository(DiskRepository(folder), log_operations) as repo:
                await repo.initialise()
                key = await repo.put(SECRET)
                await repo.get(key)
                with pytest.raises(ObjectNotFoundError):
                    await repo.get("0" * 64)
                await repo.maintain()
                await repo.verify()
                await repo.delete(key)
                await repo.erase()
        infos = [record.getMessage() for record in caplog.records if record.name == "objrepo"]
        for word in ("initialised", "maintained", "pack_loose 1 objects", "verified", "deleted 1 objects", "erased"):
            assert any(word in message for message in infos), word
        details = [
            (record.levelname, record.getMessage()) for record in caplog.records if record.name == "objrepo.operations"
        ]
        assert any(level == "DEBUG" and "DiskRepository get: ok" in message for level, message in details)
        assert any(level == "WARNING" and "ObjectNotFoundError" in message for level, message in details)
        assert SECRET.decode() not in caplog.text

    async def test_damage_is_a_warning(self, repo, caplog):
        key = await repo.put(SECRET)
        [loose] = (path for path in (repo.path / "loose").rglob("*") if path.is_file())
        loose.chmod(0o644)
        loose.write_bytes(b"something else")
        with caplog.at_level(logging.WARNING, "objrepo"):
            await repo.verify()
        assert key in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING, "objrepo"):
            await repo.repair()
        assert f"quarantined {key}" in caplog.text


async def test_opentelemetry(repo):
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    try:
        async with InstrumentedRepository(repo, telemetry(tracers, meters)) as observed:
            key = await observed.put(SECRET)
            await observed.get(key)
            with pytest.raises(ObjectNotFoundError):
                await observed.get("0" * 64)
        good, bad = spans.get_finished_spans()[1:]
        assert good.name == "objrepo get"
        assert good.attributes["objrepo.backend"] == "DiskRepository"
        assert good.attributes["objrepo.operation.size"] == len(SECRET)
        assert good.start_time < good.end_time
        assert bad.attributes["error.type"] == "ObjectNotFoundError"
        assert not bad.status.is_ok
        [scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
        measured = {metric.name: metric for metric in scope.metrics}
        assert sum(point.count for point in measured["objrepo.operation.duration"].data.data_points) == 3
        assert sum(point.value for point in measured["objrepo.operation.size"].data.data_points) == 2 * len(SECRET)
    finally:
        tracers.shutdown()
        meters.shutdown()


class TestStatistics:
    async def test_users_connections_and_open_objects(self, repo):
        key = await repo.put(content_of(3_000_000))
        async with repo, repo.open(key):
            statistics = repo.statistics()
            assert (statistics.users, statistics.open_objects, statistics.workers_busy) == (2, 1, 0)
            assert statistics.idle_connections >= 1
            assert str(repo.path) in statistics.location

    async def test_calls_that_travel_together(self, repo):
        keys = await repo.put_many(content_of(10, seed) for seed in range(100))
        before = repo.statistics()
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(repo.get, key)
        after = repo.statistics()
        calls, hops = after.batched_calls - before.batched_calls, after.batches - before.batches
        assert calls == 100
        assert 1 <= hops < 100

    @pytest.mark.parametrize("kind", [Threads, OwnThreads])
    async def test_who_is_at_work_and_who_waits(self, kind):
        from test_offload import Blocked

        offload, blocked = kind(1), Blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(offload.run, blocked)
            await blocked.is_running()
            group.start_soon(offload.run, int)
            await anyio.wait_all_tasks_blocked()
            assert offload.statistics_of_calls()[:2] == (1, 1)
            blocked.let_go.set()
        await offload.finish(int)
        assert offload.statistics_of_calls()[:2] == (0, 0)
        assert Inline().statistics_of_calls() == (0, 0, 0, 0)

    async def test_what_a_cache_has_answered(self):
        async with CachedRepository(MemoryRepository(), MemoryRepository(), max_bytes=1000) as tiered:
            await tiered.initialise()
            key = await tiered._origin.put(SECRET)
            for _ in range(3):
                await tiered.get(key)
            async with tiered.open(key):
                pass
            statistics = tiered.statistics()
            assert (statistics.cache_hits, statistics.cache_misses) == (3, 1)


class TestNotebooks:
    async def test_a_repr_says_what_a_thing_is(self, repo):
        key = await repo.put(SECRET)
        async with repo.open(key) as stream:
            await stream.read(3)
            assert repr(stream) == f"<BackendStream of {key}, {len(SECRET)} bytes, at 3>"
        assert repr(stream).endswith("closed>")
        assert repr(repo) == f"<DiskRepository at {repo.path}>"
        tiered = CachedRepository(MemoryRepository(), repo, max_bytes=1)
        assert str(repo) in repr(tiered)
        assert repr(SyncRepository(repo)) == f"<SyncRepository of {repo}>"
        assert repr(Threads(3)) == "Threads(3)"


def test_an_operation_says_what_it_is():
    assert "get" in repr(Operation("get", "DiskRepository", 1, 0.1, "ok"))
