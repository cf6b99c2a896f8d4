"""The implementations that are compared, each with the methods put, get and has. The note marks writes without fsync."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import threading
from pathlib import Path

import aiofiles
import aiofiles.os
import anyio.to_thread
import fsspec
import obstore
from aiida.repository.backend import DiskObjectStoreRepositoryBackend as AiidaBackend
from borgstore.backends.posixfs import PosixFS
from borgstore.store import Store
from disk_objectstore import Container
from obstore.store import LocalStore
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore as ZarrStore

from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync import DiskObjectStoreRepositoryBackend, SyncRepository

NOT_FSYNCED = "not fsynced"


def sha(content: bytes) -> str:
    """Return the key of a content."""
    return hashlib.sha256(content).hexdigest()


class Facade:
    """objrepo's synchronous classes."""

    note = ""

    def __init__(self, folder: Path) -> None:
        self.backend = DiskObjectStoreRepositoryBackend(Container(folder))
        self.backend.initialise()

    def put(self, content: bytes) -> str:
        return self.backend.put_object_from_filelike(io.BytesIO(content))

    def get(self, key: str) -> bytes:
        return self.backend.get_object_content(key)

    def has(self, key: str) -> bool:
        return self.backend.has_object(key)


class Unflushed:
    """objrepo's `SyncRepository` with ``durable=False``."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        self.repository = SyncRepository(DiskRepository(folder, Inline(), durable=False))
        self.repository.__enter__()
        self.repository.initialise()

    def put(self, content: bytes) -> str:
        return self.repository.put(content)


class Aiida(Facade):
    """aiida-core's backend."""

    def __init__(self, folder: Path) -> None:
        self.backend = AiidaBackend(Container(folder))
        if not self.backend.is_initialised:
            self.backend.initialise()


class WarmContainer:
    """disk-objectstore with an open session."""

    note = ""

    def __init__(self, folder: Path) -> None:
        self.container = Container(folder)
        if not self.container.is_initialised:
            self.container.init_container()

    def put(self, content: bytes) -> str:
        return self.container.add_object(content)

    def get(self, key: str) -> bytes:
        return self.container.get_object_content(key)

    def has(self, key: str) -> bool:
        return self.container.has_object(key)


class Obstore:
    """obstore on a local folder."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.store = LocalStore(folder)

    def put(self, content: bytes) -> str:
        key = sha(content)
        obstore.put(self.store, key, content)
        return key

    def get(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    def has(self, key: str) -> bool:
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True


class Fsspec:
    """fsspec on a local folder."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = str(folder)
        self.files = fsspec.filesystem("file")

    def put(self, content: bytes) -> str:
        key = sha(content)
        self.files.pipe_file(f"{self.folder}/{key}", content)
        return key

    def get(self, key: str) -> bytes:
        return self.files.cat_file(f"{self.folder}/{key}")

    def has(self, key: str) -> bool:
        return self.files.exists(f"{self.folder}/{key}")


class Borgstore:
    """borgstore on a local folder, which renames files but does not fsync by default."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        self.store = Store(backend=PosixFS(folder), config={"data/": {"levels": [1]}})
        self.store.create()
        self.store.open()

    def put(self, content: bytes) -> str:
        key = sha(content)
        self.store.store(f"data/{key}", content)
        return key


class SqliteBlobs:
    """One table of blobs, in WAL mode with `synchronous=FULL`."""

    note = ""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(folder / "blobs.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE IF NOT EXISTS blobs (key TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID")

    def put(self, content: bytes) -> str:
        key = sha(content)
        self.connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (key, content))
        return key

    def get(self, key: str) -> bytes:
        return self.connection.execute("SELECT content FROM blobs WHERE key = ?", (key,)).fetchall()[0][0]

    def has(self, key: str) -> bool:
        return bool(self.connection.execute("SELECT 1 FROM blobs WHERE key = ?", (key,)).fetchall())


class PlainPython:
    """The least that storing many objects takes: hashes, a look-up, an append, a flush and a transaction for a batch."""

    BATCH = 4096  # as `put_many` stores them

    def __init__(self, folder: Path) -> None:
        Facade(folder).backend.close()
        self.connection = sqlite3.connect(folder / "packs.idx", isolation_level=None)
        self.connection.execute("PRAGMA synchronous=FULL")
        self.pack = open(folder / "packs" / "0", "ab", buffering=0)  # noqa: SIM115  (see `close`)

    def put_many(self, contents: list[bytes]) -> None:
        for start in range(0, len(contents), self.BATCH):
            self.put_batch(contents[start : start + self.BATCH])

    def put_batch(self, contents: list[bytes]) -> None:
        keys = [hashlib.sha256(content).hexdigest() for content in contents]
        present = "SELECT hashkey FROM json_each(?) CROSS JOIN db_object ON hashkey = value"
        assert not self.connection.execute(present, (json.dumps(sorted(keys)),)).fetchall()
        rows, offset = [], self.pack.tell()
        for key, content in zip(keys, contents, strict=True):
            rows.append((key, offset, len(content), len(content)))
            offset += len(content)
        self.pack.write(b"".join(contents))
        os.fdatasync(self.pack.fileno())
        insert = "INSERT INTO db_object (hashkey, pack_id, offset, length, compressed, size) VALUES (?, 0, ?, ?, 0, ?)"
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(insert, rows)
        self.connection.execute("COMMIT")

    def close(self) -> None:
        self.connection.close()
        self.pack.close()


class LowerBound:
    """The lower bound of reading: a row by `sqlite3` and its bytes by `pread`."""

    note = "lower bound"

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(
            f"file:{folder / 'packs.idx'}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        self.pack = os.open(folder / "packs" / "0", os.O_RDONLY)

    def get(self, key: str) -> bytes:
        statement = "SELECT offset, length FROM db_object WHERE hashkey = ?"
        ((offset, length),) = self.connection.execute(statement, (key,)).fetchall()
        return os.pread(self.pack, length, offset)

    def has(self, key: str) -> bool:
        return bool(self.connection.execute("SELECT 1 FROM db_object WHERE hashkey = ?", (key,)).fetchall())


class ContainerPerThread:
    """The simplest async wrapper: a `Container` for each worker thread, and a thread call for each operation."""

    note = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.local = threading.local()

    @property
    def container(self) -> Container:
        if not hasattr(self.local, "container"):
            self.local.container = Container(self.folder)
        return self.local.container

    async def put(self, content: bytes) -> str:
        return await anyio.to_thread.run_sync(lambda: self.container.add_object(content))

    async def get(self, key: str) -> bytes:
        return await anyio.to_thread.run_sync(lambda: self.container.get_object_content(key))

    async def has(self, key: str) -> bool:
        return await anyio.to_thread.run_sync(lambda: self.container.has_object(key))


class AsyncObstore(Obstore):
    """obstore's async functions, which need asyncio."""

    async def put(self, content: bytes) -> str:  # type: ignore[override]
        key = sha(content)
        await obstore.put_async(self.store, key, content)
        return key

    async def get(self, key: str) -> bytes:  # type: ignore[override]
        return bytes(await (await obstore.get_async(self.store, key)).bytes_async())

    async def has(self, key: str) -> bool:  # type: ignore[override]
        await obstore.head_async(self.store, key)
        return True


class Zarr:
    """zarr's store on a local folder, which needs asyncio."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        self.store = ZarrStore(folder)

    async def put(self, content: bytes) -> str:
        key = sha(content)
        await self.store.set(key, default_buffer_prototype().buffer.from_bytes(content))
        return key

    async def get(self, key: str) -> bytes:
        buffer = await self.store.get(key, default_buffer_prototype())
        assert buffer is not None
        return buffer.to_bytes()

    async def has(self, key: str) -> bool:
        return await self.store.exists(key)


class PlainFiles:
    """A file for each object, by aiofiles, which needs asyncio."""

    note = NOT_FSYNCED

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    async def put(self, content: bytes) -> str:
        key = sha(content)
        async with aiofiles.open(self.folder / key, "wb") as file:
            await file.write(content)
        return key

    async def get(self, key: str) -> bytes:
        async with aiofiles.open(self.folder / key, "rb") as file:
            return await file.read()

    async def has(self, key: str) -> bool:
        return await aiofiles.os.path.exists(self.folder / key)
