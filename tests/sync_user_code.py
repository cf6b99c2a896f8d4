"""What users of the sync API write, for the type checkers to look at; `test_user_code.py` runs it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, assert_type

from objrepo import DiskRepository, MemoryRepository
from objrepo.disk import ObjectLocation
from objrepo.offload import Inline, Threads
from objrepo.protocol import SyncSource
from objrepo.reports import (
    CopyReport,
    MaintenanceReport,
    Progress,
    RepairReport,
    RepositoryInfo,
    Statistics,
    VerifyReport,
)
from objrepo.sync import (
    AbstractRepositoryBackend,
    DiskObjectStoreRepositoryBackend,
    SandboxRepositoryBackend,
    SyncRepository,
    SyncWriter,
    copy,
    export,
    open_repository,
)


def show(progress: Progress) -> None:
    """Print progress."""
    print(progress.step, progress.done, progress.total)


def pieces() -> Iterator[bytes]:
    """Yield the pieces of an object."""
    yield b"in "
    yield b"pieces"


def write(repo: SyncRepository, path: Path) -> list[str]:
    """Put objects in every way."""
    with path.open("rb") as file:
        sources: list[SyncSource] = [
            b"bytes",
            bytearray(b"bytearray"),
            memoryview(b"view"),
            path,
            file,
            io.BytesIO(b"memory"),
            pieces(),
        ]
        keys = [repo.put(source) for source in sources]
    keys += assert_type(repo.put_many([path, b"bytes", pieces()], progress=show), list[str])
    with repo.create() as writer:
        assert_type(writer, SyncWriter)
        assert_type(writer.write(b"piece"), int)
    with repo.batch() as batch:
        assert_type(batch, SyncRepository)
        keys.append(batch.put(b"in a batch"))
    return [*keys, assert_type(writer.key, str)]


def read(repo: SyncRepository, keys: list[str]) -> None:
    """Read objects in every way."""
    for key in repo.keys():
        assert_type(key, str)
        assert_type(repo.has(key), bool)
        assert_type(repo.size(key), int)
        assert_type(repo.hash(key), str)
        assert_type(repo.get(key, check=True), bytes)
        with repo.open(key, offset=1, length=10) as file:
            assert_type(file, io.BufferedReader)
            assert_type(file.read(), bytes)
    assert_type(repo.has_many(keys), list[bool])
    for key, file in repo.stream(keys):
        assert_type(key, str)
        assert_type(file, io.BufferedReader)
        binary: BinaryIO = file
        print(len(binary.read()))


def manage(repo: SyncRepository, other: SyncRepository, folder: Path) -> None:
    """Look after repositories."""
    assert_type(repo.uuid, str | None)
    assert_type(repo.key_format, str)
    assert_type(repo.is_initialised, bool)
    assert_type(repo.info(detailed=True), RepositoryInfo)
    assert_type(repo.maintain(live=False, compress=True), MaintenanceReport)
    assert_type(repo.verify(progress=show), VerifyReport)
    assert_type(repo.repair(source=other, progress=show), RepairReport)
    assert_type(repo.statistics(), Statistics)
    for key in repo.keys():
        assert_type(repo.locate(key), ObjectLocation)
    assert_type(copy(repo, other, check=True, progress=show), CopyReport)
    assert_type(export(repo, folder / "all.zip", compress=True), CopyReport)


def as_aiida_does(backend: AbstractRepositoryBackend, path: Path) -> bytes:
    """Use the names that AiiDA documents."""
    backend.initialise()
    key: str = backend.put_object_from_file(path)
    handle: BinaryIO
    with backend.open(key) as handle:
        content = handle.read()
    for _, handle in backend.iter_object_streams([key]):
        content += handle.read()
    assert all(backend.has_objects(list(backend.list_objects())))
    backend.delete_object(key)
    return content


def main(folder: Path) -> None:
    """Do all of it."""
    from disk_objectstore import Container

    path = folder / "file"
    path.write_bytes(b"the content of a file")
    with open_repository(folder / "photos") as repo, open_repository("memory:") as other:
        repo.initialise(pack_size_target=1024**3)
        keys = write(repo, path)
        read(repo, keys)
        manage(repo, other, folder)
        repo.delete(keys[0])
        repo.delete_many(repo.keys())
        repo.erase()
    with SyncRepository(DiskRepository(folder / "threads", Threads(2))) as repo:
        repo.initialise()
        read(repo, write(repo, path))
    backends: list[AbstractRepositoryBackend] = [
        DiskObjectStoreRepositoryBackend(Container(folder / "container")),
        SandboxRepositoryBackend(str(folder)),
        SyncRepository(MemoryRepository(Inline())),
    ]
    for backend in backends:
        assert as_aiida_does(backend, path) == b"the content of a file" * 2
