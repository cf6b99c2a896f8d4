"""Sequential operations without an event loop."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from benchmarks.harness import Results, compare
from benchmarks.implementations import (
    Aiida,
    Borgstore,
    Facade,
    Fsspec,
    LowerBound,
    Obstore,
    SqliteBlobs,
    Unflushed,
    WarmContainer,
)

OBJECTS = 10_000
SIZES = {"1 KiB": 1024, "64 KiB": 64 * 1024}


def run(results: Results, folder: Path) -> None:
    """Measure get, has and put of small and medium objects, packed and loose."""
    for name, size in SIZES.items():
        objects = OBJECTS if size == 1024 else 500
        contents = [os.urandom(size) for _ in range(objects)]
        shared = folder / f"packed {name}"
        writer = WarmContainer(shared)
        keys = writer.container.add_objects_to_pack(contents, compress=False)
        others: dict[str, Any] = {
            "obstore LocalStore": Obstore(folder / f"obstore {name}"),
            "fsspec local": Fsspec(folder / f"fsspec {name}"),
            "SQLite blobs": SqliteBlobs(folder / f"sqlite {name}"),
        }
        for other in others.values():
            for content in contents[:500]:
                other.put(content)
        readers = {
            "objrepo facade": Facade(shared),
            "aiida-core": Aiida(shared),
            "warm Container": WarmContainer(shared),
            "row + pread": LowerBound(shared),
            **others,
        }
        read(results, f"get {name}, packed", readers, again(readers, keys[:500]), "get")
        if size == 1024:
            read(results, f"has {name}, packed", readers, again(readers, keys[:500]), "has")
            first = {label: each for label, each in readers.items() if label not in others}
            read(results, f"get {name}, packed, first read", first, keys[500:], "get")
        loose = folder / f"loose {name}"
        keys = [WarmContainer(loose).put(content) for content in contents[:200]]
        readers = {"objrepo facade": Facade(loose), "aiida-core": Aiida(loose), "warm Container": WarmContainer(loose)}
        read(results, f"get {name}, loose", readers, again(readers, keys), "get")
        unflushed = {
            "objrepo, durable=False": Unflushed(folder / f"put unflushed {name}"),
            "borgstore": Borgstore(folder / f"put borgstore {name}"),
            "obstore LocalStore": others["obstore LocalStore"],
            "fsspec local": others["fsspec local"],
        }
        writers = {
            "objrepo facade": Facade(folder / f"put objrepo {name}"),
            "aiida-core": Aiida(folder / f"put aiida {name}"),
            "warm Container": WarmContainer(folder / f"put container {name}"),
            "SQLite blobs": others["SQLite blobs"],
            **unflushed,
        }
        for label, writer in writers.items():
            for content in contents[:500] if label not in others else ():
                writer.put(content)  # so that the folders exist
        write(results, f"put {name}", writers, size)
        write(results, f"put {name}, not flushed", unflushed, size)  # again, as a flush slows down what follows it


def write(results: Results, work: str, writers: dict[str, Any], size: int) -> None:
    """Measure writing new objects."""
    fresh = [os.urandom(size) for _ in range(1000)]
    works = {label: (lambda number, put=each.put: put(fresh[number])) for label, each in writers.items()}
    notes = {label: each.note for label, each in writers.items()}
    compare(results, work, works, 30 if results.quick else 150, notes=notes)


def again(readers: dict[str, Any], keys: list[str]) -> list[str]:
    """Have every implementation read the objects once, and return random ones of their keys, often."""
    for reader in readers.values():
        for key in keys:
            reader.get(key)
    return random.Random(1).choices(keys, k=10_000)


def read(results: Results, work: str, readers: dict[str, Any], keys: list[str], method: str) -> None:
    """Measure reading. A round has 20 keys, as one read is too short to be timed."""

    def works(reader: Any) -> Any:
        do = getattr(reader, method)

        def one_round(number: int) -> Any:
            outcome = None
            for key in keys[number * 20 + 20 : number * 20 + 40]:
                outcome = do(key)
            return outcome

        return one_round

    rounds = 15 if results.quick else 100
    compare(results, work, {name: works(reader) for name, reader in readers.items()}, rounds, operations=20,
         notes={name: reader.note for name, reader in readers.items() if reader.note == "lower bound"})  # fmt: skip
