"""Operations of AiiDA on profiles with the storage of aiida-core and of objrepo, on SQLite."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.manage.configuration.profile import Profile
from aiida.storage.sqlite_dos.backend import SqliteDosStorage
from aiida.tools.archive import create_archive, import_archive

from benchmarks.harness import Results
from objrepo.aiida.sqlite_dos import ObjrepoSqliteDosStorage

STORAGES = {"objrepo": ObjrepoSqliteDosStorage, "aiida-core": SqliteDosStorage}
SMALL = 1024
READ = 2_000
"""The number of nodes whose files are read one by one."""


def run(results: Results, folder: Path) -> None:
    """Measure the operations on profiles of both kinds, in alternating order."""
    AIIDA_LOGGER.setLevel("WARNING")
    count, rounds = (2_000, 1) if results.quick else (20_000, 3)
    archive = make_archive(folder / "source", count)
    seconds: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for name in list(STORAGES)[:: 1 if number % 2 else -1]:
            temporary = folder / f"{name}-{number}"
            for work, taken in one_round(opened(STORAGES[name], temporary), archive, temporary, count).items():
                seconds.setdefault(work, {}).setdefault(name, []).append(taken)
            shutil.rmtree(temporary)
    for work, by_name in seconds.items():
        print(f"AiiDA: {work}", flush=True)
        for name in STORAGES:
            results.add(f"AiiDA: {work}", name, by_name[name], f"{count:,} files" if name == "objrepo" else "")
    profile_import(archive, folder)


def one_round(storage: Any, archive: Path, temporary: Path, count: int) -> dict[str, float]:
    """Do each operation once; return its time per file."""
    nodes = orm.Node.get_collection(storage)
    taken = {}

    def timed(work: str, do: Callable[[], Any], files: int = count) -> None:
        start = time.perf_counter()
        do()
        taken[work] = (time.perf_counter() - start) / files

    def read() -> None:
        query = orm.QueryBuilder(backend=storage).append(orm.SinglefileData).limit(READ)
        assert sum(len(node.get_content("rb")) for (node,) in query.all()) == min(count, READ) * SMALL

    def read_by_key() -> None:
        streams = storage.get_repository().iter_object_streams(list(nodes.iter_repo_keys()))
        assert sum(len(stream.read()) for _, stream in streams) == count * SMALL

    timed("import an archive", lambda: import_archive(archive, backend=storage, create_group=False))
    timed("read the file of each node, before maintenance", read, min(count, READ))
    timed("maintain", storage.maintain)
    timed("read the file of each node, after maintenance", read, min(count, READ))
    timed("iterate over the content of all files", read_by_key)
    timed("create an archive", lambda: create_archive(None, temporary / "out.aiida", backend=storage, compression=0))
    timed("maintain, full", lambda: storage.get_repository().maintain(live=False))
    storage.close()
    return taken


def opened(storage: Any, folder: Path) -> Any:
    """Create the storage of a new profile."""
    config = {
        "PROFILE_UUID": uuid4().hex,
        "storage": {"backend": "core.sqlite_dos", "config": {"filepath": str(folder)}},
        "process_control": {"backend": None, "config": {}},
    }
    profile = Profile(f"bench-{uuid4().hex}", config)
    storage.initialise(profile)
    made = storage(profile)
    orm.User(email="bench@example.com", backend=made).store()
    return made


def make_archive(folder: Path, count: int) -> Path:
    """Create an archive of nodes with a small file each."""
    storage = opened(ObjrepoSqliteDosStorage, folder)
    user = orm.User.get_collection(storage).all()[0]
    with storage.transaction():
        for _ in range(count):
            orm.SinglefileData(io.BytesIO(os.urandom(SMALL)), backend=storage, user=user).store()
    path = folder.parent / "nodes.aiida"
    create_archive(None, path, backend=storage, compression=0)
    storage.close()
    return path


def profile_import(archive: Path, folder: Path) -> None:
    """Print a profile of an import with each of the storages."""
    for name, kind in STORAGES.items():
        storage = opened(kind, folder / f"profiled-{name}")
        profiler = cProfile.Profile()
        profiler.runcall(import_archive, archive, backend=storage, create_group=False)
        storage.close()
        out = io.StringIO()
        pstats.Stats(profiler, stream=out).sort_stats("cumulative").print_stats(
            "put_object|_add_files|bulk_insert|import_", 12
        )
        print(f"{name}\n{out.getvalue()}")
