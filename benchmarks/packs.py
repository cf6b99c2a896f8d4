"""A simulation of packs in a bucket: many small objects in one object of the bucket, with an index."""

from __future__ import annotations

import bisect
import functools
import hashlib
import os
import random
import struct
from typing import Any

import anyio
import obstore
from obstore.store import S3Store

from benchmarks.concurrency import concurrently
from benchmarks.harness import Results, compare_async
from objrepo import S3Repository

ENTRY = struct.Struct(">32sQI")
"""An entry of the index: the hash of the object, its offset in the pack, and its length."""

PACK_BYTES = 8 * 1024 * 1024
SMALL = 1024


class Packs:
    """Packs in a bucket. Each is written once, followed by its index as a separate object.

    A reader keeps the sorted indexes in memory, 44 bytes per object, and looks keys up by binary search.
    """

    def __init__(self, store: S3Store) -> None:
        self.store = store
        self.requests = 0
        self.index: list[tuple[bytes, str, int, int]] = []

    def put_many(self, contents: list[bytes]) -> list[str]:
        """Store objects by two requests per pack."""
        keys = []
        for first in range(0, len(contents), PACK_BYTES // SMALL):
            batch = contents[first : first + PACK_BYTES // SMALL]
            hashes = [hashlib.sha256(content).digest() for content in batch]
            pack, lines, position = b"".join(batch), [], 0
            for digest, content in zip(hashes, batch, strict=True):
                lines.append((digest, position, len(content)))
                position += len(content)
            name = hashlib.sha256(pack).hexdigest()
            obstore.put(self.store, f"packs/{name}", pack, use_multipart=False)
            obstore.put(self.store, f"index/{name}", b"".join(ENTRY.pack(*line) for line in sorted(lines)))
            self.requests += 2
            self.index += [(digest, name, start, size) for digest, start, size in lines]
            keys += [digest.hex() for digest in hashes]
        self.index.sort()
        return keys

    def load(self) -> None:
        """Read the indexes, as a new process does: one request per pack, and the listing."""
        self.index = []
        for page in obstore.list(self.store, "index", chunk_size=1000):
            self.requests += 1
            for item in page:
                content = bytes(obstore.get(self.store, item["path"]).bytes())
                self.requests += 1
                name = item["path"].rpartition("/")[2]
                self.index += [(digest, name, start, size) for digest, start, size in ENTRY.iter_unpack(content)]
        self.index.sort()

    def get(self, key: str) -> bytes:
        """Return one object by one request for a range of a pack."""
        digest = bytes.fromhex(key)
        found = self.index[bisect.bisect_left(self.index, (digest, "", 0, 0))]
        assert found[0] == digest
        self.requests += 1
        return bytes(obstore.get_range(self.store, f"packs/{found[1]}", start=found[2], length=found[3]))

    def read_pack(self, name: str) -> int:
        """Read a whole pack, as bulk reading does, and return its size."""
        self.requests += 1
        return len(obstore.get(self.store, f"packs/{name}").bytes())


async def compare_packs(results: Results, repo: S3Repository, store: S3Store) -> None:
    """Compare one object of the bucket per object with packs."""
    count = 2_000 if results.quick else 20_000
    packs = Packs(store)
    rounds = 1 if results.quick else 3
    async with repo:
        await repo.initialise()
        fresh = [[os.urandom(SMALL) for _ in range(count)] for _ in range(rounds + 1)]
        keys: dict[str, list[str]] = {}

        async def put_each(number: int) -> None:
            keys["each"] = await repo.put_many(fresh[number])

        async def put_packs(number: int) -> None:
            before = packs.requests
            keys["packs"] = await anyio.to_thread.run_sync(packs.put_many, fresh[number])
            notes["packs in the bucket"] = f"{packs.requests - before} requests"

        notes = {"objrepo, an object each": f"{count:,} requests"}
        implementations: dict[str, Any] = {"objrepo, an object each": put_each, "packs in the bucket": put_packs}
        await compare_async(results, f"packs: put {count:,} × 1 KiB, for each", implementations, rounds, count, notes)
        chosen = {kind: random.Random(3).sample(given, 1000) for kind, given in keys.items()}
        await anyio.to_thread.run_sync(packs.load)

        async def get_packed(key: str) -> bytes:
            return await anyio.to_thread.run_sync(packs.get, key)

        implementations = {
            "objrepo, an object each": functools.partial(concurrently, repo.get, lambda number: chosen["each"]),
            "packs in the bucket": functools.partial(concurrently, get_packed, lambda number: chosen["packs"]),
        }
        await compare_async(results, "packs: 1000 × get 1 KiB at once", implementations, rounds, 1000)

        async def stream_each(number: int) -> int:
            size = 0
            async with repo.stream(keys["each"]) as objects:
                async for _, stream in objects:
                    size += len(await stream.read())
            return size

        async def stream_packs(number: int) -> int:
            wanted = {bytes.fromhex(key) for key in keys["packs"]}
            names = sorted({name for digest, name, _, _ in packs.index if digest in wanted})
            return sum([await anyio.to_thread.run_sync(packs.read_pack, name) for name in names])

        implementations = {"objrepo, an object each": stream_each, "packs in the bucket": stream_packs}
        await compare_async(results, f"packs: read all {count:,}, for each", implementations, rounds, count)
