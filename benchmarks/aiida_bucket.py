"""AiiDA's import and archive with `objrepo.psql_s3`, in packs and with an object of the bucket for each file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.manage.configuration.profile import Profile
from aiida.tools.archive import create_archive, import_archive

from benchmarks.harness import Results
from benchmarks.profiles import make_archive
from benchmarks.remote import BUCKET, CephBucket, started
from engines import postgres
from objrepo.aiida.psql_s3 import ObjrepoPsqlS3Storage

FORMATS = {"in packs": 2, "an object each": 1}


def run(results: Results, folder: Path) -> None:
    """Measure the operations on profiles of both formats, in alternating order."""
    AIIDA_LOGGER.setLevel("WARNING")
    count, rounds = (2_000, 1) if results.quick else (20_000, 3)
    archive = make_archive(folder / "source", count)
    seconds: dict[str, dict[str, list[float]]] = {}
    with started(folder) as bucket, postgres.running(folder / "postgres") as server:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": bucket.credentials["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": bucket.credentials["secret_access_key"],
        }
        for number in range(rounds):
            for name in list(FORMATS)[:: 1 if number % 2 else -1]:
                with patch("objrepo.bucket.backend._NEW_FORMAT", FORMATS[name]):
                    storage = opened(bucket, server)
                for work, taken in one_round(storage, archive, folder / f"{name}-{number}.aiida", count).items():
                    print(f"  {name:<20}{work:<40}{taken * count:>8.1f} s", flush=True)
                    seconds.setdefault(work, {}).setdefault(name, []).append(taken)
    for work, by_name in seconds.items():
        for name in FORMATS:
            results.add(f"AiiDA with a bucket: {work}", name, by_name[name], f"{count:,} files")


def opened(bucket: CephBucket, server: Any) -> Any:
    """Create the storage of a new profile, with a database and a folder of the bucket of its own."""
    name = f"bench_{uuid4().hex}"
    server.make_database(name)
    database = {
        "database_engine": "postgresql_psycopg",
        "database_hostname": "127.0.0.1",
        "database_port": server.port,
        "database_username": postgres.USER,
        "database_password": server.password,
        "database_name": name,
        "repository_url": f"s3://{BUCKET}/{name}?endpoint={bucket.gateway.url}",
    }
    config = {
        "PROFILE_UUID": uuid4().hex,
        "storage": {"backend": "objrepo.psql_s3", "config": database},
        "process_control": {"backend": None, "config": {}},
    }
    profile = Profile(name, config)
    ObjrepoPsqlS3Storage.initialise(profile)
    storage = ObjrepoPsqlS3Storage(profile)
    orm.User(email="bench@example.com", backend=storage).store()
    return storage


def one_round(storage: Any, archive: Path, created: Path, count: int) -> dict[str, float]:
    """Do each operation once; return its time per file."""
    taken = {}

    def timed(work: str, do: Callable[[], Any]) -> None:
        start = time.perf_counter()
        do()
        taken[work] = (time.perf_counter() - start) / count

    timed("import an archive", lambda: import_archive(archive, backend=storage, create_group=False))
    timed("create an archive", lambda: create_archive(None, created, backend=storage, compression=0))
    timed("maintain", storage.maintain)
    timed(
        "create an archive, after maintenance", lambda: create_archive(None, created, backend=storage, overwrite=True)
    )
    storage.close()
    created.unlink()
    return taken
