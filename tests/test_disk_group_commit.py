"""Group commits: small objects that concurrent puts append to a pack and commit together."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import anyio
import pytest
from disk_objectstore import Container
from filelock import FileLock

from helpers import own_pack
from objrepo import CorruptObjectError, DiskRepository, RepositoryBusyError, RepositoryError
from objrepo.disk import group_commit, index
from objrepo.disk.layout import FIRST_OWN_PACK, Layout
from objrepo.testing.fixtures import content_of


async def test_a_failed_index_commit_leaves_the_pack_unchanged(repo, folder, monkeypatch):
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


async def test_bytes_are_kept_if_a_failed_commit_may_be_recovered(repo, folder, monkeypatch):
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
    real_append, real_fsync = group_commit.append, os.fsync
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

    monkeypatch.setattr(group_commit, "append", append)
    monkeypatch.setattr(os, "fsync", fsync)
    keys = await repo.put_many([b"one", b"two", b"three"])
    assert str(folder / "packs" / "0") in synced
    assert [await repo.get(key, check=True) for key in keys] == [b"one", b"two", b"three"]


async def test_a_damaged_row_of_a_key_raises_corrupt_object_error(repo, folder):
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


async def put_together(repo, contents):
    """Put objects concurrently, so that they are committed as a group."""
    keys = {}

    async def put(content):
        keys[content] = await repo.put(content)

    async with anyio.create_task_group() as tasks:
        for content in contents:
            tasks.start_soon(put, content)
    return [keys[content] for content in contents]


async def test_concurrent_puts_are_committed_as_a_group(repo, folder):
    contents = [b"%d" % number for number in range(500)]
    keys = await put_together(repo, contents)
    assert keys == [hashlib.sha256(content).hexdigest() for content in contents]
    info = await repo.info()
    assert info.loose <= 1, "the first may have been stored alone"
    assert info.loose + info.packed == 500
    assert own_pack(folder).exists()
    assert [await repo.get(key) for key in keys] == contents
    with Container(folder) as container:
        assert container.get_objects_content(keys) == dict(zip(keys, contents, strict=True))
        assert not any(vars(container.validate()).values())
        container.pack_all_loose()
        container.repack()
        assert not any(vars(container.validate()).values())
    assert [await repo.get(key) for key in keys] == contents


async def test_a_single_put_is_stored_as_a_loose_file(repo):
    await repo.put(b"alone")
    info = await repo.info()
    assert (info.loose, info.packed) == (1, 0)


async def test_small_files_and_short_async_sources_are_committed_as_a_group(repo, tmp_path):
    contents = [b"%d" % number for number in range(60)]

    async def chunks(content):
        await anyio.lowlevel.checkpoint()
        yield content[:1]
        await anyio.lowlevel.checkpoint()
        yield content[1:]

    sources = [chunks(content) for content in contents[:20]]
    for number, content in enumerate(contents[20:40]):
        path = tmp_path / f"file {number}"
        path.write_bytes(content)
        sources.append(path)
    keys = await put_together(repo, sources + contents[40:])
    assert [await repo.get(key) for key in keys] == contents
    info = await repo.info()
    assert info.loose <= 3, "the first ones may have been stored alone"
    assert info.packed == 60 - info.loose


async def test_large_missing_and_irregular_files_do_not_delay_small_ones(repo, tmp_path):
    for number, size in enumerate([10, 1_000_000, 20, 64 * 1024, 64 * 1024 + 1]):
        (tmp_path / f"{number}").write_bytes(content_of(size, number))
    os.mkfifo(tmp_path / "pipe")
    outcomes = {}

    async def put(name):
        try:
            outcomes[name] = await repo.get(await repo.put(tmp_path / name))
        except OSError as error:
            outcomes[name] = type(error)

    async with anyio.create_task_group() as tasks:
        for name in ("0", "1", "missing", "2", "", "3", "pipe", "4"):
            tasks.start_soon(put, name)
        with anyio.fail_after(10):
            while len(outcomes) < 7:  # none waits for the pipe
                await anyio.sleep(0.01)
        await anyio.to_thread.run_sync((tmp_path / "pipe").write_bytes, b"out of the pipe")
    for number, size in enumerate([10, 1_000_000, 20, 64 * 1024, 64 * 1024 + 1]):
        assert outcomes[f"{number}"] == content_of(size, number)
    assert outcomes["pipe"] == b"out of the pipe"
    assert (outcomes["missing"], outcomes[""]) == (FileNotFoundError, IsADirectoryError)


async def test_a_batch_is_stored_while_the_next_is_collected(repo):
    stored = anyio.Event()

    async def sources():
        for number in range(4096):
            yield b"%d" % number
        with anyio.fail_after(30):
            await stored.wait()
        yield b"the last"

    async def watch():
        while (await repo.info()).objects < 4096:
            await anyio.sleep(0.01)
        stored.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        assert len(await repo.put_many(sources())) == 4097


async def test_equal_contents_are_stored_once(repo):
    keys = set()

    async def put():
        keys.add(await repo.put(b"the same"))

    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            tasks.start_soon(put)
    assert len(keys) == 1
    assert (await repo.info()).objects == 1
    assert len(set(await repo.put_many([b"the same", b"again", b"again"]))) == 2
    assert (await repo.info(detailed=True)).size == 13


async def test_objects_that_exist_are_not_packed_again(repo, folder):
    loose = await repo.put(b"loose")
    with Container(folder) as container:
        packed = container.add_objects_to_pack([b"packed"])[0]
    keys = await repo.put_many([b"loose", b"packed", b"new"])
    assert keys[:2] == [loose, packed]
    assert [await repo.get(key) for key in keys] == [b"loose", b"packed", b"new"]
    assert (await repo.info()).objects == 3
    assert own_pack(folder).stat().st_size == len(b"loose" + b"new"), "the packed object was not written again"
    await repo.maintain(live=False)
    assert [await repo.get(key) for key in keys] == [b"loose", b"packed", b"new"]


async def test_a_group_commit_takes_all_bytes_like_objects(folder):
    async with DiskRepository(folder) as repo:
        await repo.initialise(hash_type="sha1")
        contents = [b"bytes", bytearray(b"bytearray"), memoryview(b"--view")[2:], b""]
        keys = await repo.put_many(contents)
        assert keys == [hashlib.sha1(content).hexdigest() for content in contents]
        assert [await repo.get(key) for key in keys] == [bytes(content) for content in contents]


async def test_a_key_that_another_process_inserts_meanwhile_is_stored_once(repo, folder, monkeypatch):
    real = group_commit.append

    def append(*arguments):
        rows = real(*arguments)
        with Container(folder) as container:
            container.add_objects_to_pack([b"two"])
        return rows

    monkeypatch.setattr(group_commit, "append", append)
    keys = await repo.put_many([b"one", b"two", b"three"])
    assert [await repo.get(key) for key in keys] == [b"one", b"two", b"three"]
    assert (await repo.info()).objects == 3
    assert (await repo.verify()).ok


async def test_full_and_locked_packs_are_not_appended_to(folder):
    async with DiskRepository(folder) as repo:
        await repo.initialise(pack_size_target=1000)
        await repo.put_many([content_of(600), content_of(600, 1)])
        assert own_pack(folder).stat().st_size == 1200
        with FileLock(folder / f"writer-{FIRST_OWN_PACK + 1}.lock"):
            await repo.put_many([b"one", b"two"])
        assert not own_pack(folder, 1).exists()
        assert own_pack(folder, 2).stat().st_size == 6
        await repo.put_many([b"three", b"four"])
        assert own_pack(folder, 1).stat().st_size == 9, "the first unlocked pack is appended to"
        assert (await repo.verify()).objects == 6


@pytest.mark.parametrize("happens", ["replaced", "removed"])
async def test_a_group_is_written_again_if_a_repack_replaced_its_pack(repo, folder, monkeypatch, happens):
    old = await repo.put_many([b"old one", b"old two"])
    real = index.Index.insert
    times = []

    def insert(self, rows):
        if not times:
            if happens == "replaced":
                shutil.copy(own_pack(folder), folder / "other")
                os.truncate(folder / "other", 14)
                os.replace(folder / "other", own_pack(folder))
            else:
                own_pack(folder).unlink()
        times.append(1)
        return real(self, rows)

    monkeypatch.setattr(index.Index, "insert", insert)
    keys = await repo.put_many([b"one", b"two"])
    assert len(times) == 2, "the group was written again"
    assert [await repo.get(key) for key in keys] == [b"one", b"two"]
    if happens == "replaced":
        assert [await repo.get(key) for key in old] == [b"old one", b"old two"]


async def test_a_pack_that_is_replaced_repeatedly_raises_repository_error(repo, folder, monkeypatch):
    real = index.Index.insert

    def insert(self, rows):
        own_pack(folder).unlink(missing_ok=True)
        return real(self, rows)

    monkeypatch.setattr(index.Index, "insert", insert)
    with pytest.raises(RepositoryError, match="replaced the packs"):
        await repo.put_many([b"one", b"two"])
    monkeypatch.undo()
    assert (await repo.info()).objects == 0, "objects that were not acknowledged do not exist"


async def test_an_index_that_is_locked_for_writing(repo, folder, monkeypatch):
    """Then each object of the group is stored as a loose file."""
    monkeypatch.setattr(index, "_BUSY_SECONDS", 0.05)
    connection = sqlite3.connect(folder / "packs.idx", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    async with DiskRepository(folder) as other:
        contents = [b"%d" % number for number in range(20)]
        keys = await put_together(other, contents)
        with pytest.raises(RepositoryBusyError, match="locked"):
            await other.put_many([b"one", b"two"])
    connection.close()
    info = await repo.info()
    assert (info.loose, info.packed) == (20, 0)
    assert [await repo.get(key) for key in keys] == contents
    assert (await repo.verify()).ok


async def test_a_failed_insert_leaves_the_index_unchanged(repo, folder):
    with closing(index.Index(Layout(folder))) as opened:
        with pytest.raises(RepositoryError):
            opened.insert([("key", 0, 0, 1, 0, 1), ("key too", "too", "few")])
        assert opened.count() == 0
        opened.insert([("a" * 64, 0, 0, 1, 0, 1)])
        assert opened.count() == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
async def test_a_full_disk_leaves_the_pack_unchanged(repo, folder):
    await repo.put_many([content_of(1000, 1), content_of(1000, 2)])
    script = f"""
import resource, anyio, objrepo
from objrepo.testing.fixtures import content_of
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        await repo.put(b"warm")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            await repo.put_many([content_of(60_000, 3), content_of(60_000, 4)])
        except OSError as error:
            print(error.errno)
anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "27\n"
    assert own_pack(folder).stat().st_size == 2000, "the pack is unchanged"
    report = await repo.verify()
    assert (report.objects, report.ok) == (3, True)


async def test_packs_are_fsynced_before_the_index_commit(repo, folder, monkeypatch):
    order = []
    real_fsync, real_insert = os.fsync, index.Index.insert
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))[1])
    monkeypatch.setattr(index.Index, "insert", lambda self, rows: (order.append("insert"), real_insert(self, rows))[1])
    await repo.put_many([b"one", b"two"])
    assert order == [str(own_pack(folder)), str(folder / "packs"), "insert"]


async def test_maintain_waits_for_writers_of_packs(repo, folder, monkeypatch):
    keys = await repo.put_many([b"one", b"two"])
    monkeypatch.setattr("objrepo.disk.repack._PATIENCE", 0.05)
    with FileLock(folder / f"writer-{FIRST_OWN_PACK}.lock"), pytest.raises(RepositoryBusyError, match="writing to"):
        await repo.maintain(live=False)
    await repo.delete(keys[0])
    report = await repo.maintain(live=False)
    assert {step.name: step.size for step in report.steps}["do_repack"] == 3
    assert await repo.get(keys[1]) == b"two"


async def test_large_objects_may_be_among_small_ones(repo, tmp_path):
    (tmp_path / "file").write_bytes(content_of(500_000))
    contents = [b"one", content_of(500_000, 1), b"two"]
    keys = await repo.put_many([*contents, tmp_path / "file", [b"in ", b"pieces"]])
    assert [await repo.get(key) for key in keys] == [*contents, content_of(500_000), b"in pieces"]


async def test_put_many_keeps_objects_before_a_missing_file(repo, tmp_path):
    with pytest.raises(FileNotFoundError):
        await repo.put_many([b"one", b"two", tmp_path / "missing", b"three"])
    stored = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    assert await repo.has_many(stored) == [True, True]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
async def test_several_processes_write_at_the_same_time(repo, folder):
    script = f"""
import sys, anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        async with anyio.create_task_group() as tasks:
            for number in range(400):
                tasks.start_soon(repo.put, b"%d" % (number + int(sys.argv[1]) * 200))
anyio.run(main)
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for number in range(3)]
    for process in processes:
        assert await anyio.to_thread.run_sync(process.wait) == 0
    report = await repo.verify()
    assert (report.objects, report.ok) == (800, True)
    with Container(folder) as container:
        assert not any(vars(container.validate()).values())
