"""Operations of AiiDA on profiles with the storage of aiida-core and of objrepo, on SQLite."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.manage.configuration.profile import Profile
from aiida.orm.entities import EntityTypes
from aiida.repository.backend import DiskObjectStoreRepositoryBackend
from aiida.storage.sqlite_dos.backend import SqliteDosStorage
from aiida.tools.archive import create_archive, import_archive

from benchmarks.harness import Results
from objrepo.aiida.sqlite_dos import ObjrepoSqliteDosStorage
from objrepo.aiida.transactions import Transaction, TransactionalDiskRepository

STORAGES = {"objrepo": ObjrepoSqliteDosStorage, "aiida-core": SqliteDosStorage}
OF_THE_REPOSITORY = (
    (DiskObjectStoreRepositoryBackend, "put_object_from_filelike"),
    (DiskObjectStoreRepositoryBackend, "list_objects"),
    (TransactionalDiskRepository, "put_object_from_filelike"),
    (TransactionalDiskRepository, "list_objects"),
    (Transaction, "store"),
)
"""The methods of a repository that an import calls; the last one commits the batch of objrepo."""
WHOLE, REPOSITORY, REST = (
    "import an archive",
    "import an archive, the repository's part",
    "import an archive, all but the repository",
)
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
    ratio = results.of(f"AiiDA: {REPOSITORY}", "aiida-core") / results.of(f"AiiDA: {REPOSITORY}", "objrepo")
    print(f"the repository's part of an import is {ratio:.1f} times as fast as aiida-core's")
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

    with repository_time() as spent:
        timed(WHOLE, lambda: import_archive(archive, backend=storage, create_group=False))
    taken[REPOSITORY] = sum(spent) / count
    taken[REST] = taken[WHOLE] - taken[REPOSITORY]
    timed("read the file of each node, before maintenance", read, min(count, READ))
    timed("maintain", storage.maintain)
    timed("read the file of each node, after maintenance", read, min(count, READ))
    timed("iterate over the content of all files", read_by_key)
    timed("create an archive", lambda: create_archive(None, temporary / "out.aiida", backend=storage, compression=0))
    timed("maintain, full", lambda: storage.get_repository().maintain(live=False))
    storage.close()
    return taken


@contextmanager
def repository_time() -> Iterator[list[float]]:
    """Collect how long each call of the repositories of both kinds takes."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                result = function(*args)
                return list(result) if function.__name__ == "list_objects" else result
            finally:
                spent.append(time.perf_counter() - start)

        return call

    with ExitStack() as patches:
        for owner, method in OF_THE_REPOSITORY:
            patches.enter_context(patch.object(owner, method, timed(getattr(owner, method))))
        yield spent


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
    now = datetime.now(UTC)
    with storage.transaction():
        keys = storage.get_repository().put_many(os.urandom(SMALL) for _ in range(count))
        rows = [
            {
                "uuid": str(uuid4()),
                "node_type": orm.SinglefileData.class_node_type,
                "user_id": user.pk,
                "ctime": now,
                "mtime": now,
                "attributes": {"filename": "file.txt"},
                "repository_metadata": {"o": {"file.txt": {"k": key}}},
            }
            for key in keys
        ]
        storage.bulk_insert(EntityTypes.NODE, rows, allow_defaults=True)
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
