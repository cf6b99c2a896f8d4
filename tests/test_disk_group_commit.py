"""Group commits that fail, or that meet rows of other writers."""

from __future__ import annotations

import hashlib
import os
import sqlite3

import pytest
from disk_objectstore import Container

from helpers import own_pack
from objrepo import CorruptObjectError, DiskRepository, RepositoryBusyError, RepositoryError
from objrepo.disk import group_commit, index


async def test_a_failed_index_commit_leaves_the_pack_as_it_was(repo, folder, monkeypatch):
    await repo.put_many([b"first", b"second"])
    size = own_pack(folder).stat().st_size
    monkeypatch.setattr(index, "_BUSY_SECONDS", 0.05)
    other = sqlite3.connect(folder / "packs.idx", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with DiskRepository(folder) as writer:
        for _ in range(3):
            with pytest.raises(RepositoryBusyError):
                await writer.put_many([b"one" * 1000, b"two" * 1000])
            assert own_pack(folder).stat().st_size == size
        other.close()
        keys = await writer.put_many([b"one" * 1000, b"two" * 1000])
        assert [await writer.get(key, check=True) for key in keys] == [b"one" * 1000, b"two" * 1000]
    assert own_pack(folder).stat().st_size == size + 6000


async def test_bytes_stay_if_a_failed_commit_may_appear_after_a_crash(repo, folder, monkeypatch):
    """If the fsync of the write-ahead log fails, recovery takes the transaction in it for committed."""

    def insert(self, rows):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise RepositoryError("the index cannot be used") from error

    monkeypatch.setattr(index.Index, "insert", insert)
    with pytest.raises(RepositoryError, match="cannot be used"):
        await repo.put_many([b"one", b"two"])
    assert own_pack(folder).read_bytes() == b"onetwo"


async def test_an_object_of_another_writer_is_durable_before_it_is_acknowledged(repo, folder, monkeypatch):
    real_append, real_fsync = group_commit._append, os.fsync
    synced = []

    def append(*arguments):
        rows = real_append(*arguments)
        if not (folder / "packs" / "0").exists():
            with Container(folder) as container:
                container.add_objects_to_pack([b"two"], do_fsync=False)
            synced.clear()
        return rows

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    monkeypatch.setattr(group_commit, "_append", append)
    monkeypatch.setattr(os, "fsync", fsync)
    keys = await repo.put_many([b"one", b"two", b"three"])
    assert str(folder / "packs" / "0") in synced
    assert [await repo.get(key, check=True) for key in keys] == [b"one", b"two", b"three"]


async def test_a_damaged_row_of_a_key_is_an_error_not_an_acknowledgement(repo, folder):
    key = hashlib.sha256(b"one").hexdigest()
    connection = sqlite3.connect(folder / "packs.idx", isolation_level=None)
    connection.execute(
        "INSERT INTO db_object (hashkey, compressed, size, offset, length, pack_id) VALUES (?, 0, 3, 'x', 3, 0)", (key,)
    )
    connection.close()
    with pytest.raises(CorruptObjectError) as caught:
        await repo.put_many([b"one", b"two"])
    assert caught.value.key == key


async def test_a_pack_that_is_removed_while_a_writer_looks_for_one(repo, folder, monkeypatch):
    await repo.put_many([b"one", b"two"])
    real_stat, real_exists = os.stat, os.path.exists

    removed = []

    def remove(path):
        if path == str(own_pack(folder)) and not removed:
            removed.append(path)
            own_pack(folder).unlink()

    def stat(path, *arguments, **options):
        remove(path)
        return real_stat(path, *arguments, **options)

    def exists(path):
        found = real_exists(path)
        remove(path)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        patched.setattr(os.path, "exists", exists)
        key, _ = await repo.put_many([b"three", b"four"])
    assert await repo.get(key, check=True) == b"three"
