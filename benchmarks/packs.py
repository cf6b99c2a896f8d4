"""Many small objects in a bucket: in packs, beside an object of the bucket for each, and beside boto3."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import obstore

from benchmarks.concurrency import concurrently
from benchmarks.harness import Results, compare_async

if TYPE_CHECKING:
    from benchmarks.remote import CephBucket
    from objrepo import S3Repository
    from s3_proxy import Proxy

SMALL = 1024
PACKS, EACH, BOTO3 = "objrepo, in packs", "objrepo, an object each", "boto3 on 32 threads"


async def compare_packs(results: Results, bucket: CephBucket, proxy: Proxy) -> None:
    """Compare packs with a repository of format 1, which has none, and with boto3."""
    marker = json.dumps({"objrepo": 1, "uuid": "format 1", "key_format": "sha256"}).encode()
    obstore.put(bucket.store("each"), "objrepo.json", marker)
    async with (
        bucket.repository("packs") as packs,
        bucket.repository("each") as each,
        bucket.repository("packs", proxy.url) as counted,
    ):
        await packs.initialise()
        await _compare(results, bucket, packs, each)
        await _count(results, counted, proxy)


async def _compare(results: Results, bucket: CephBucket, packs: S3Repository, each: S3Repository) -> None:
    count = 2_000 if results.quick else 20_000
    rounds = 1 if results.quick else 3
    fresh = [[os.urandom(SMALL) for _ in range(count)] for _ in range(rounds + 1)]
    keys: dict[str, list[str]] = {}
    with ThreadPoolExecutor(32) as threads:

        async def put_many(name: str, repo: S3Repository, number: int) -> None:
            keys[name] = await repo.put_many(fresh[number])

        def put(content: bytes) -> None:
            name = f"boto3/{hashlib.sha256(content).hexdigest()}"
            bucket.boto3.put_object(Bucket="objects", Key=name, Body=content)

        async def put_by_boto3(number: int) -> None:
            await anyio.to_thread.run_sync(lambda: list(threads.map(put, fresh[number])))

        implementations: dict[str, Any] = {
            PACKS: functools.partial(put_many, PACKS, packs),
            EACH: functools.partial(put_many, EACH, each),
            BOTO3: put_by_boto3,
        }
        await compare_async(results, f"packs: put {count:,} × 1 KiB, for each", implementations, rounds, count)

        repositories = {PACKS: packs, EACH: each}
        chosen = random.Random(3).sample(range(count), 1000)

        def get(key: str) -> bytes:
            return bucket.boto3.get_object(Bucket="objects", Key=f"boto3/{key}")["Body"].read()

        async def get_by_boto3(number: int) -> list[bytes]:
            return await anyio.to_thread.run_sync(lambda: list(threads.map(get, [keys[PACKS][n] for n in chosen])))

        implementations = {
            name: functools.partial(concurrently, repo.get, lambda number, name=name: [keys[name][n] for n in chosen])
            for name, repo in repositories.items()
        }
        implementations[BOTO3] = get_by_boto3
        await compare_async(results, "packs: 1000 × get 1 KiB at once", implementations, rounds, 1000)

        async def read_all(name: str, repo: S3Repository, number: int) -> int:
            size = 0
            async with repo.stream(keys[name]) as objects:
                async for _, stream in objects:
                    size += len(await stream.read())
            return size

        async def all_by_boto3(number: int) -> int:
            return await anyio.to_thread.run_sync(lambda: sum(map(len, threads.map(get, keys[PACKS]))))

        implementations = {name: functools.partial(read_all, name, repo) for name, repo in repositories.items()}
        implementations[BOTO3] = all_by_boto3
        await compare_async(results, f"packs: read all {count:,}, for each", implementations, rounds, count)

        async def has_many(name: str, repo: S3Repository, number: int) -> bool:
            return all(await repo.has_many(keys[name]))

        implementations = {name: functools.partial(has_many, name, repo) for name, repo in repositories.items()}
        await compare_async(results, f"packs: has_many of {count:,}, for each", implementations, rounds, count)


async def _count(results: Results, repo: S3Repository, proxy: Proxy) -> None:
    """Count requests."""
    count = 2_000 if results.quick else 20_000
    counts: dict[str, int] = {}
    keys: list[str] = []

    async def note(work: str, function: Any) -> None:
        proxy.taken()
        await function()
        counts[work] = len(proxy.taken())

    async def put_many() -> None:
        keys.extend(await repo.put_many(os.urandom(SMALL) for _ in range(count)))

    async def read_all() -> None:
        async with repo.stream(keys) as objects:
            async for _ in objects:
                pass

    async def put_at_once() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(repo.put, os.urandom(SMALL))

    await repo.has("0" * 64)
    await note(f"put_many of {count:,}", put_many)
    await note(f"stream of {count:,}", read_all)
    await note(f"has_many of {count:,}", lambda: repo.has_many(keys))
    await note("get", lambda: repo.get(keys[0]))
    await note("has", lambda: repo.has(keys[0]))
    await note("has of a missing object", lambda: repo.has("0" * 64))
    await note("put", lambda: repo.put(os.urandom(SMALL)))
    await note("1,000 puts at once", put_at_once)
    await note("verify", repo.verify)
    await note("delete_many of 1,000", lambda: repo.delete_many(keys[:1000]))
    for work, number in counts.items():
        print(f"  {work:<30}{number:>8} requests", flush=True)
