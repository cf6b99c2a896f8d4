"""Ten thousand objects of 1 KiB at a time."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.contestants import Aiida, Facade, SqliteBlobs, WarmContainer
from benchmarks.harness import Results, race
from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

OBJECTS = 10_000


def run(results: Results, folder: Path) -> None:
    """Has, iterate, list, put and delete many."""
    contents = [os.urandom(1024) for _ in range(OBJECTS)]
    keys = WarmContainer(folder / "shared").container.add_objects_to_pack(contents, compress=False)
    facade, aiida = Facade(folder / "shared").backend, Aiida(folder / "shared").backend
    backends = {"objrepo facade": facade, "aiida-core": aiida}
    rounds = 3 if results.quick else 15
    race(
        results,
        "has 10,000 keys",
        {n: lambda _, b=b: b.has_objects(keys) for n, b in backends.items()},
        rounds,
        OBJECTS,
    )
    race(
        results,
        "iterate 10,000 packed objects",
        {
            n: lambda _, b=b: [len(stream.read()) for _, stream in b.iter_object_streams(keys)]
            for n, b in backends.items()
        },
        rounds,
        OBJECTS,
    )
    race(
        results, "list 10,000", {n: lambda _, b=b: list(b.list_objects()) for n, b in backends.items()}, rounds, OBJECTS
    )
    put_many(results, folder, rounds)
    delete(results, folder)


def put_many(results: Results, folder: Path, rounds: int) -> None:
    """Race at durable puts of many; those that take them one by one get a tenth."""
    drive = InPlace()
    repo = DiskRepository(folder / "put many", Inline())
    drive.call(repo.__aenter__)
    drive.call(repo.initialise)
    aiida, blobs = Aiida(folder / "put aiida"), SqliteBlobs(folder / "put blobs")
    container = WarmContainer(folder / "put container").container

    def fresh(count: int) -> list[bytes]:
        return [os.urandom(1024) for _ in range(count)]

    many = [fresh(OBJECTS) for _ in range(rounds + 1)]

    def blobs_many(number: int) -> None:
        blobs.connection.execute("BEGIN")
        for content in many[number]:
            blobs.put(content)
        blobs.connection.execute("COMMIT")

    race(
        results,
        "put 10,000 × 1 KiB",
        {
            "objrepo put_many": lambda number: drive.call(repo.put_many, many[number]) and None,
            "Container.add_objects_to_pack": lambda number: container.add_objects_to_pack(many[number]) and None,
            "SQLite blobs, one transaction": blobs_many,
        },
        rounds,
        OBJECTS,
        {"Container.add_objects_to_pack": "not flushed to the disk on Linux, and one writer at a time"},
    )
    race(
        results,
        "put 1,000 × 1 KiB, one by one",
        {
            "objrepo put_many": lambda number: drive.call(repo.put_many, fresh(1000)) and None,
            "aiida-core": lambda number: [aiida.put(content) for content in fresh(1000)] and None,
        },
        2 if results.quick else 5,
        1000,
    )


def delete(results: Results, folder: Path) -> None:
    """Race at deleting a thousand of ten thousand objects."""
    backends = {"objrepo facade": Facade(folder / "delete objrepo"), "aiida-core": Aiida(folder / "delete aiida")}
    keys = {
        name: WarmContainer(folder / f"delete {name.split()[0].removesuffix('-core')}").container.add_objects_to_pack(
            [os.urandom(1024) for _ in range(OBJECTS)]
        )
        for name in backends
    }
    race(
        results,
        "delete 1,000 packed objects",
        {
            name: lambda number, b=b, name=name: b.backend.delete_objects(keys[name][(number + 1) * 1000 :][:1000])
            for name, b in backends.items()
        },
        3 if results.quick else 8,
        1000,
    )
