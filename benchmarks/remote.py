"""Object stores: a bucket of Ceph compared with boto3 and obstore, caches, copies, growth, packs in a bucket."""

from __future__ import annotations

import functools
import io
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import boto3
import botocore.config
import obstore
from aiida.repository.backend import DiskObjectStoreRepositoryBackend as AiidaBackend
from disk_objectstore import Container
from obstore.store import S3Store

from benchmarks.concurrency import LOOPS, concurrently
from benchmarks.harness import Results, compare_async
from benchmarks.packs import compare_packs
from objrepo import CachedRepository, DiskRepository, S3Repository, copy

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from engines import ceph
from s3_proxy import Proxy, proxy_to

TASKS = 1000
SMALL = 1024
LARGE = 64 * 1024 * 1024
BUCKET = "objects"


def run(results: Results, folder: Path) -> None:
    """Measure on Ceph, then the caches and copies that need none."""
    with started(folder) as bucket:
        for loop, options in LOOPS.items():
            anyio.run(functools.partial(gets_at_once, results, bucket, loop), **options)
        anyio.run(large_objects, results, bucket)
        anyio.run(requests, results, bucket)
        anyio.run(growth, results, bucket)
        with proxy_to(bucket.gateway.url) as proxy:
            anyio.run(compare_packs, results, bucket, proxy)
    for loop, options in LOOPS.items():
        anyio.run(functools.partial(cached_reads, results, folder / f"cached-{loop}", loop), **options)
    anyio.run(copies, results, folder)


class CephBucket:
    """A bucket of a Ceph cluster, and clients for it."""

    def __init__(self, gateway: ceph.Gateway) -> None:
        self.gateway = gateway
        self.credentials = gateway.add_user("bench")
        self.boto3 = boto3.client(
            "s3",
            endpoint_url=gateway.url,
            region_name="us-east-1",
            aws_access_key_id=self.credentials["access_key_id"],
            aws_secret_access_key=self.credentials["secret_access_key"],
            config=botocore.config.Config(max_pool_connections=64),
        )
        self.boto3.create_bucket(Bucket=BUCKET)

    def repository(self, prefix: str, endpoint: str | None = None, **options: Any) -> S3Repository:
        """Return a repository in the bucket."""
        return S3Repository(BUCKET, prefix, endpoint=endpoint or self.gateway.url, **self.credentials, **options)

    def store(self, prefix: str) -> S3Store:
        """Return a store of obstore in the bucket."""
        options = {"endpoint": self.gateway.url, "region": "us-east-1", "client_options": {"allow_http": True}}
        return S3Store(BUCKET, prefix=prefix, **options, **self.credentials)


@contextmanager
def started(folder: Path) -> Iterator[CephBucket]:
    """Run a Ceph cluster that stores in memory."""
    with ceph.running(folder / "ceph") as gateway:
        yield CephBucket(gateway)


def path_of(key: str) -> str:
    """Return the name of an object in the bucket."""
    return f"{key[:2]}/{key[2:]}"


async def gets_at_once(results: Results, bucket: CephBucket, loop: str) -> None:
    """Measure 1,000 concurrent gets."""
    prefix = f"at-once-{loop}"
    store = bucket.store(prefix)
    async with bucket.repository(prefix) as repo:
        await repo.initialise()
        keys = await repo.put_many(os.urandom(SMALL) for _ in range(TASKS))
        with ThreadPoolExecutor(32) as threads:

            def by_boto3(key: str) -> bytes:
                return bucket.boto3.get_object(Bucket=BUCKET, Key=f"{prefix}/{path_of(key)}")["Body"].read()

            def by_obstore(key: str) -> bytes:
                return bytes(obstore.get(store, path_of(key)).bytes())

            async def on_threads(function: Callable[[str], bytes], number: int) -> list[bytes]:
                return await anyio.to_thread.run_sync(lambda: list(threads.map(function, keys)))

            async def async_get(key: str) -> bytes:
                return bytes(await (await obstore.get_async(store, path_of(key))).bytes_async())

            implementations: dict[str, Callable[[int], Awaitable[Any]]] = {
                "objrepo": functools.partial(concurrently, repo.get, lambda number: keys),
                "boto3 on 32 threads": functools.partial(on_threads, by_boto3),
                "obstore sync on 32 threads": functools.partial(on_threads, by_obstore),
            }
            if loop != "trio":
                implementations["obstore async"] = functools.partial(concurrently, async_get, lambda number: keys)
            rounds = 3 if results.quick else 9
            await compare_async(results, f"Ceph: {TASKS} × get 1 KiB at once, {loop}", implementations, rounds, TASKS)


async def large_objects(results: Results, bucket: CephBucket) -> None:
    """Measure get and put of a large object."""
    store = bucket.store("large")
    content = os.urandom(LARGE)
    rounds = 3 if results.quick else 11
    contents = [os.urandom(LARGE) for _ in range(rounds + 1)]
    async with bucket.repository("large") as repo:
        await repo.initialise()
        key = await repo.put(content)

        async def boto3_get(number: int) -> bytes:
            file = io.BytesIO()
            name = f"large/{path_of(key)}"
            await anyio.to_thread.run_sync(bucket.boto3.download_fileobj, BUCKET, name, file)
            return file.getvalue()

        async def obstore_get(number: int) -> bytes:
            return await anyio.to_thread.run_sync(lambda: bytes(obstore.get(store, path_of(key)).bytes()))

        async def objrepo_get(number: int) -> bytes:
            return await repo.get(key)

        gets = {"objrepo": objrepo_get, "boto3's transfer manager": boto3_get, "obstore": obstore_get}
        await compare_async(results, "Ceph: get 64 MiB", gets, rounds)

        async def boto3_put(number: int) -> None:
            file = io.BytesIO(contents[number])
            await anyio.to_thread.run_sync(bucket.boto3.upload_fileobj, file, BUCKET, f"boto3/{number}")

        async def obstore_put(number: int) -> None:
            await anyio.to_thread.run_sync(obstore.put, store, f"obstore/{number}", contents[number])

        async def objrepo_put(number: int) -> None:
            await repo.put(contents[number])

        puts = {"objrepo": objrepo_put, "boto3's transfer manager": boto3_put, "obstore": obstore_put}
        await compare_async(results, "Ceph: put 64 MiB", puts, rounds)
        await repo.erase()


async def requests(results: Results, bucket: CephBucket) -> None:
    """Count the requests of each operation through a proxy, and measure its time without the proxy."""
    with proxy_to(bucket.gateway.url) as proxy:
        async with bucket.repository("counted") as repo, bucket.repository("counted", proxy.url) as counted:
            await repo.initialise()
            await counted.key_format()
            keys = await repo.put_many(os.urandom(SMALL) for _ in range(10_000))
            large = await repo.put(os.urandom(LARGE))
            old, fresh = os.urandom(SMALL), iter([os.urandom(SMALL) for _ in range(1000)])
            await repo.put(old)
            works: dict[str, tuple[Callable[[S3Repository], Awaitable[Any]], int]] = {
                "put 1 KiB": (lambda r: r.put(next(fresh)), 200),
                "put 1 KiB that is there": (lambda r: r.put(old), 200),
                "get 1 KiB": (lambda r: r.get(keys[0]), 200),
                "get 64 MiB": (lambda r: r.get(large), 3),
                "has": (lambda r: r.has(keys[0]), 200),
                "has 1,000 of 10,000": (lambda r: r.has_many(keys[:1000]), 3),
                "list 10,000": (list_keys, 3),
                "stream 1,000 × 1 KiB": (functools.partial(stream, keys=keys[:1000]), 3),
                "delete 1,000 of 10,000": (lambda r: r.delete_many([keys.pop() for _ in range(1000)]), 1),
            }
            for work, (do, rounds) in works.items():
                await counted_and_timed(results, work, do, rounds, repo, counted, proxy)


async def counted_and_timed(
    results: Results,
    work: str,
    do: Callable[[S3Repository], Awaitable[Any]],
    rounds: int,
    repo: S3Repository,
    counted: S3Repository,
    proxy: Proxy,
) -> None:
    """Add one row."""
    proxy.taken()
    await do(counted)
    count = len(proxy.taken())
    print(f"requests: {work}", flush=True)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        await do(repo)
        seconds.append(time.perf_counter() - start)
    results.add(f"requests: {work}", "objrepo", seconds, f"{count} request{'s' if count > 1 else ''}")


async def list_keys(repo: S3Repository) -> None:
    """List all keys."""
    async for _ in repo.keys():
        pass


async def stream(repo: S3Repository, keys: list[str]) -> None:
    """Read objects in bulk."""
    async with repo.stream(keys) as objects:
        async for _, each in objects:
            await each.read()


async def growth(results: Results, bucket: CephBucket) -> None:
    """Measure operations on a growing bucket."""
    async with bucket.repository("growth", concurrency=64) as repo:
        await repo.initialise()
        keys: list[str] = []
        for size in (1000, 10_000) if results.quick else (10_000, 100_000, 1_000_000):
            missing = size - len(keys)
            start = time.perf_counter()
            while len(keys) < size:
                keys += await repo.put_many(os.urandom(SMALL) for _ in range(min(10_000, size - len(keys))))
            put = (time.perf_counter() - start) / missing
            name = f"{size:,} objects"
            results.add("Ceph, growing: put_many 1 KiB", name, [put])
            chosen = random.Random(1).sample(keys, 300)
            for work, do in {"get 1 KiB": repo.get, "has": repo.has}.items():
                seconds = []
                for key in chosen:
                    start = time.perf_counter()
                    await do(key)
                    seconds.append(time.perf_counter() - start)
                results.add(f"Ceph, growing: {work}", name, seconds)
            start = time.perf_counter()
            await list_keys(repo)
            results.add("Ceph, growing: list, for each key", name, [(time.perf_counter() - start) / size])


async def cached_reads(results: Results, folder: Path, loop: str) -> None:
    """Compare cache hits with reads of the cache alone."""
    async with (
        DiskRepository(folder / "origin") as origin,
        DiskRepository(folder / "cache") as cache,
        CachedRepository(cache, origin, max_bytes=10**9) as cached,
    ):
        await origin.initialise()
        keys = await cached.put_many(os.urandom(SMALL) for _ in range(TASKS))
        await cached.prefetch(keys)
        rounds = 5 if results.quick else 31

        async def one_by_one(repo: Any, number: int) -> list[bytes]:
            return [await repo.get(key) for key in keys[:200]]

        async def opened(repo: Any, number: int) -> list[bytes]:
            contents = []
            for key in keys[:200]:
                async with repo.open(key) as each:
                    contents.append(await each.read())
            return contents

        repositories = {"objrepo, cached": cached, "the cache alone": cache}
        for work, do in {"get": one_by_one, "open": opened}.items():
            implementations = {name: functools.partial(do, repo) for name, repo in repositories.items()}
            await compare_async(results, f"cached: {work} 1 KiB, {loop}", implementations, rounds, 200)
        implementations = {
            name: functools.partial(concurrently, repo.get, lambda number: keys) for name, repo in repositories.items()
        }
        await compare_async(results, f"cached: {TASKS} × get 1 KiB at once, {loop}", implementations, rounds, TASKS)


async def copies(results: Results, folder: Path) -> None:
    """Compare a copy of a repository with a loop over a part of it by aiida-core's backend."""
    count, part = (10_000, 500) if results.quick else (100_000, 2_000)
    async with DiskRepository(folder / "source") as source:
        await source.initialise()
        keys = await source.put_many(os.urandom(SMALL) for _ in range(count))
        seconds: dict[str, list[float]] = {"objrepo copy": [], "a loop over aiida-core's backend": []}
        for number in range(1 if results.quick else 3):
            async with DiskRepository(folder / f"target-{number}") as target:
                await target.initialise()
                start = time.perf_counter()
                report = await copy(source, target)
                seconds["objrepo copy"].append((time.perf_counter() - start) / count)
                assert (report.copied, report.ok) == (count, True)
            first, second = AiidaBackend(Container(source.path)), AiidaBackend(Container(folder / f"aiida-{number}"))
            second.initialise()
            start = time.perf_counter()
            for key in keys[number * part : (number + 1) * part]:
                with first.open(key) as file:
                    second.put_object_from_filelike(file)
            seconds["a loop over aiida-core's backend"].append((time.perf_counter() - start) / part)
    print(f"copy of {count:,} × 1 KiB", flush=True)
    for name, values in seconds.items():
        note = f"{part:,} of them" if "aiida" in name else ""
        results.add(f"copy of {count:,} × 1 KiB, for each object", name, values, note)
