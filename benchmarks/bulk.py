"""Operations on 10,000 objects of 1 KiB."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio

from benchmarks.harness import Results, compare, compare_async
from benchmarks.implementations import Aiida, Facade, PlainPython, SqliteBlobs, WarmContainer
from objrepo import DiskRepository, copy
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

OBJECTS = 10_000


def run(results: Results, folder: Path) -> None:
    """Measure has, iteration, listing, put and delete of many objects."""
    contents = [os.urandom(1024) for _ in range(OBJECTS)]
    keys = WarmContainer(folder / "shared").container.add_objects_to_pack(contents, compress=False)
    facade, aiida = Facade(folder / "shared").backend, Aiida(folder / "shared").backend
    backends = {"objrepo facade": facade, "aiida-core": aiida}
    rounds = 3 if results.quick else 15
    compare(
        results,
        "has 10,000 keys",
        {n: lambda _, b=b: b.has_objects(keys) for n, b in backends.items()},
        rounds,
        OBJECTS,
    )
    compare(
        results,
        "iterate 10,000 packed objects",
        {
            n: lambda _, b=b: [len(stream.read()) for _, stream in b.iter_object_streams(keys)]
            for n, b in backends.items()
        },
        rounds,
        OBJECTS,
    )
    compare(
        results, "list 10,000", {n: lambda _, b=b: list(b.list_objects()) for n, b in backends.items()}, rounds, OBJECTS
    )
    put_many(results, folder, rounds)
    delete(results, folder)
    anyio.run(on_loop, results, folder, keys, rounds)


def put_many(results: Results, folder: Path, rounds: int) -> None:
    """Measure durable puts; implementations without a bulk method put a tenth of the objects."""
    drive = InPlace()
    repo = DiskRepository(folder / "put many", Inline())
    drive.call(repo.__aenter__)
    drive.call(repo.initialise)
    aiida, blobs = Aiida(folder / "put aiida"), SqliteBlobs(folder / "put blobs")
    container = WarmContainer(folder / "put container").container

    def fresh(count: int) -> list[bytes]:
        return [os.urandom(1024) for _ in range(count)]

    many = [fresh(OBJECTS) for _ in range(2 * rounds + 2)]

    def batch(contents: list[bytes]) -> None:
        with drive.enter(repo.batch()) as batch:
            for content in contents:
                drive.call(batch.put, content)

    def blobs_many(number: int) -> None:
        blobs.connection.execute("BEGIN")
        for content in many[number]:
            blobs.put(content)
        blobs.connection.execute("COMMIT")

    compare(
        results,
        "put 10,000 × 1 KiB",
        {
            "objrepo put_many": lambda number: drive.call(repo.put_many, many[number]) and None,
            "objrepo batch": lambda number: batch(many[rounds + 1 + number]),
            "Container.add_objects_to_pack": lambda number: container.add_objects_to_pack(many[number]) and None,
            "SQLite blobs, one transaction": blobs_many,
        },
        rounds,
        OBJECTS,
        {"Container.add_objects_to_pack": "not fsynced on Linux, and one writer at a time"},
    )
    compare(
        results,
        "put 1,000 × 1 KiB, one by one",
        {
            "objrepo put_many": lambda number: drive.call(repo.put_many, fresh(1000)) and None,
            "objrepo batch": lambda number: batch(fresh(1000)),
            "aiida-core": lambda number: [aiida.put(content) for content in fresh(1000)] and None,
        },
        2 if results.quick else 5,
        1000,
    )


def delete(results: Results, folder: Path) -> None:
    """Measure deleting 1,000 of 10,000 objects."""
    backends = {"objrepo facade": Facade(folder / "delete objrepo"), "aiida-core": Aiida(folder / "delete aiida")}
    keys = {
        name: WarmContainer(folder / f"delete {name.split()[0].removesuffix('-core')}").container.add_objects_to_pack(
            [os.urandom(1024) for _ in range(OBJECTS)]
        )
        for name in backends
    }
    compare(
        results,
        "delete 1,000 packed objects",
        {
            name: lambda number, b=b, name=name: b.backend.delete_objects(keys[name][(number + 1) * 1000 :][:1000])
            for name, b in backends.items()
        },
        3 if results.quick else 8,
        1000,
    )


async def on_loop(results: Results, folder: Path, keys: list[str], rounds: int) -> None:
    """Measure put_many against the least that it can take, and stream, verify and copy, on asyncio."""
    await put_into_empty(results, folder, rounds)
    container = WarmContainer(folder / "shared").container
    async with DiskRepository(folder / "shared") as repo:

        async def stream(_: int) -> int:
            async with repo.stream(keys) as objects:
                return sum([len(await stream.read()) async for _, stream in objects])

        async def verify(_: int) -> None:
            assert (await repo.verify()).ok

        async def validate(_: int) -> None:
            assert container.validate().is_valid()

        await compare_async(results, "stream 10,000 packed objects, asyncio", {"objrepo": stream}, rounds, OBJECTS)
        implementations = {"objrepo": verify, "Container.validate": validate}
        await compare_async(results, "verify 10,000 packed objects", implementations, rounds, OBJECTS)
        for number in range(-1, rounds):
            Facade(folder / f"copy {number}").backend.close()
        others = [WarmContainer(folder / f"import {number}").container for number in range(-1, rounds)]

        async def copy_all(number: int) -> None:
            async with DiskRepository(folder / f"copy {number}") as target:
                assert (await copy(repo, target)).copied == OBJECTS

        async def import_all(number: int) -> None:
            others[number + 1].import_objects(keys, container, compress=False)

        implementations = {"objrepo": copy_all, "Container.import_objects": import_all}
        notes = {"Container.import_objects": "not fsynced on Linux, not compared with the keys"}
        await compare_async(results, "copy 10,000 × 1 KiB", implementations, rounds, OBJECTS, notes)


async def put_into_empty(results: Results, folder: Path, rounds: int) -> None:
    """Measure put_many into new repositories, as its time depends on the size of the index."""

    async def generate(contents: list[bytes]) -> AsyncIterator[bytes]:
        for content in contents:
            yield content

    fresh = [[os.urandom(1024) for _ in range(OBJECTS)] for _ in range(-1, rounds)]
    async with AsyncExitStack() as stack:
        plain, repos, others = [], [], []
        for number in range(-1, rounds):
            plain.append(stack.enter_context(closing(PlainPython(folder / f"plain {number}"))))
            for each, name in ((repos, "list"), (others, "generator")):
                each.append(await stack.enter_async_context(DiskRepository(folder / f"{name} {number}")))
                await each[-1].initialise()
                await each[-1].put(b"opened")

        async def plain_python(number: int) -> None:
            plain[number + 1].put_many(fresh[number + 1])

        async def put_list(number: int) -> None:
            await repos[number + 1].put_many(fresh[number + 1])

        async def put_generated(number: int) -> None:
            await others[number + 1].put_many(generate(fresh[number + 1]))

        implementations = {
            "hash, append, flush, insert": plain_python,
            "objrepo put_many": put_list,
            "objrepo put_many, async generator": put_generated,
        }
        notes = {"hash, append, flush, insert": "lower bound"}
        work = "put 10,000 × 1 KiB into an empty repository"
        await compare_async(results, work, implementations, rounds, OBJECTS, notes)
