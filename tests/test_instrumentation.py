"""Instrumentation: hooks, logging, OpenTelemetry, statistics and representations in notebooks."""

from __future__ import annotations

import copy
import io
import logging

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from helpers import Blocked
from objrepo import CachedRepository, DiskRepository, MemoryRepository, ObjectNotFoundError, RepositoryClosedError
from objrepo.instrumentation import InstrumentedRepository, log_operations
from objrepo.offload import Inline, Threads
from objrepo.otel import telemetry
from objrepo.sync import SyncRepository
from objrepo.testing.fixtures import content_of

SECRET = b"what an object contains"


class TestHook:
    async def test_it_is_called_after_each_operation(self, repo):
        events = []
        instrumented = InstrumentedRepository(repo, events.append)
        async with instrumented:
            key = await instrumented.put(SECRET)
            await instrumented.get(key)
            await instrumented.has(key)
            async with instrumented.open(key, 5) as stream:
                await stream.read(3)
            async with instrumented.stream([key]) as objects:
                async for _ in objects:
                    pass
            await instrumented.verify()
            await instrumented.delete(key)
            with pytest.raises(ObjectNotFoundError):
                await instrumented.get(key)
            assert [(each.name, each.size, each.outcome) for each in events] == [
                ("put", len(SECRET), "ok"),
                ("get", len(SECRET), "ok"),
                ("has", None, "ok"),
                ("open", 3, "ok"),
                ("stream", None, "ok"),
                ("verify", len(SECRET), "ok"),
                ("delete", None, "ok"),
                ("get", None, "ObjectNotFoundError"),
            ]
            assert {each.backend for each in events} == {"DiskRepository"}
            assert all(0 < each.seconds < 60 for each in events)

    async def test_cancelled_operations_are_reported(self):
        class Slow(MemoryRepository):
            async def get(self, key, check=False):
                await anyio.sleep(60)

        events = []
        async with InstrumentedRepository(Slow(), events.append) as instrumented:
            with anyio.move_on_after(0.01):
                await instrumented.get("key")
        assert [each.outcome for each in events] == ["cancelled"]

    async def test_attributes_of_the_wrapped_repository_are_available(self, repo):
        instrumented = InstrumentedRepository(repo, print)
        assert (await instrumented.repair()).steps == ()
        assert instrumented.path == repo.path
        assert str(instrumented) == f"InstrumentedRepository {repo}"
        assert str(repo) in repr(instrumented)
        with pytest.raises(AttributeError, match="nonsense"):
            instrumented.nonsense  # noqa: B018

    def test_errors_are_reported_without_an_event_loop(self, folder):
        events = []
        with SyncRepository(InstrumentedRepository(DiskRepository(folder, Inline()), events.append)) as repo:
            repo.initialise()
            with pytest.raises(ObjectNotFoundError):
                repo.get_object_content("0" * 64)
            with pytest.raises(ObjectNotFoundError), repo.open("0" * 64):
                pass
            with pytest.raises(KeyboardInterrupt):
                repo.put_object_from_filelike(Interrupted())
        assert [(event.name, event.outcome) for event in events] == [
            ("initialise", "ok"),
            ("get", "ObjectNotFoundError"),
            ("open", "ObjectNotFoundError"),
            ("put", "KeyboardInterrupt"),
        ]

    def test_a_copy_has_the_same_repository_and_hook(self):
        events = []
        instrumented = copy.copy(InstrumentedRepository(MemoryRepository(), events.append))
        assert type(instrumented) is InstrumentedRepository
        with pytest.raises(RepositoryClosedError):
            anyio.run(instrumented.has, "key")
        assert [event.name for event in events] == ["has"]


class Interrupted(io.BytesIO):
    def read(self, size=-1):
        raise KeyboardInterrupt


class TestLogging:
    async def test_operations_are_logged_without_the_contents_of_objects(self, folder, caplog):
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
        for word in ("initialised", "maintained", "pack_loose 1 object,", "verified", "deleted 1 object", "erased"):
            assert any(word in message for message in infos), word
        details = [
            (record.levelname, record.getMessage()) for record in caplog.records if record.name == "objrepo.operations"
        ]
        assert any(level == "DEBUG" and "DiskRepository get: ok" in message for level, message in details)
        assert any(level == "WARNING" and "ObjectNotFoundError" in message for level, message in details)
        assert SECRET.decode() not in caplog.text

    async def test_damage_is_logged_as_a_warning(self, repo, caplog):
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
        async with InstrumentedRepository(repo, telemetry(tracers, meters)) as instrumented:
            key = await instrumented.put(SECRET)
            await instrumented.get(key)
            with pytest.raises(ObjectNotFoundError):
                await instrumented.get("0" * 64)
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
    async def test_users_connections_and_open_objects_are_counted(self, repo):
        key = await repo.put(content_of(3_000_000))
        async with repo, repo.open(key):
            statistics = repo.statistics()
            assert (statistics.users, statistics.open_objects, statistics.workers_busy) == (2, 1, 0)
            assert statistics.idle_connections >= 1
            assert str(repo.path) in statistics.location

    async def test_batched_calls_are_counted(self, repo):
        keys = await repo.put_many(content_of(10, seed) for seed in range(100))
        before = repo.statistics()
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(repo.get, key)
        after = repo.statistics()
        calls, batches = after.batched_calls - before.batched_calls, after.batches - before.batches
        assert calls == 100
        assert 1 <= batches < 100

    async def test_busy_workers_and_waiting_calls_are_counted(self):
        offload, blocked = Threads(1), Blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(offload.run, blocked)
            await blocked.is_running()
            group.start_soon(offload.run, int)
            await anyio.wait_all_tasks_blocked()
            assert offload.statistics()[:2] == (1, 1)
            blocked.let_go.set()
        await offload.drain(int)
        assert offload.statistics()[:2] == (0, 0)
        assert Inline().statistics() == (0, 0, 0, 0)

    async def test_cache_hits_and_misses_are_counted(self):
        origin = MemoryRepository()
        async with CachedRepository(MemoryRepository(), origin, max_bytes=1000) as cached:
            await cached.initialise()
            key = await origin.put(SECRET)
            for _ in range(3):
                await cached.get(key)
            async with cached.open(key):
                pass
            statistics = cached.statistics()
            assert (statistics.cache_hits, statistics.cache_misses) == (3, 1)


class TestNotebooks:
    async def test_reprs_name_class_and_location(self, repo):
        key = await repo.put(SECRET)
        async with repo.open(key) as stream:
            await stream.read(3)
            assert repr(stream) == f"<BackendStream of {key}, {len(SECRET)} bytes, at 3>"
        assert repr(stream).endswith("closed>")
        assert repr(repo) == f"<DiskRepository at {repo.path}>"
        cached = CachedRepository(MemoryRepository(), repo, max_bytes=1)
        assert str(repo) in repr(cached)
        assert repr(SyncRepository(repo)) == f"<SyncRepository of {repo}>"
        assert repr(Threads(3)) == "Threads(3)"
