"""The quick ways of the disk, a long list: rows and bytes without SQLAlchemy, bulk, groups, and their faults."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading

import anyio
import pytest
from disk_objectstore import CompressMode, Container
from filelock import FileLock

from helpers import open_files, own_pack
from objrepo import CorruptObjectError, DiskRepository, ObjectNotFoundError, RepositoryBusyError, RepositoryError
from objrepo.disk import bulk_reader, cpu_limiter, group_commit, index, pack_files
from objrepo.disk.group_commit import FIRST_OWN_PACK
from objrepo.testing.fixtures import content_of


async def put_together(repo, contents):
    """Put objects at the same moment, so that they are committed as a group."""
    keys = {}

    async def put(content):
        keys[content] = await repo.put(content)

    async with anyio.create_task_group() as tasks:
        for content in contents:
            tasks.start_soon(put, content)
    return [keys[content] for content in contents]


class TestReading:
    async def test_packed_compressed_loose_and_twice_beside_each_other(self, repo, folder):
        contents = [content_of(size, size % 251) for size in (10, 300, 70_000, 0, 400_000, 5000, 3_000_000)]
        with Container(folder) as container:
            keys = [
                container.add_objects_to_pack([content], compress=number % 2 == 1)[0]
                for number, content in enumerate(contents)
            ]
        keys.append(await repo.put(b"loose"))
        contents.append(b"loose")
        expected = dict(zip(keys, contents, strict=True))
        for _ in range(2):
            for key, content in expected.items():
                assert await repo.get(key) == content
                async with repo.open(key, offset=7, length=100_000) as stream:
                    assert await stream.read() == content[7:100_007]
            async with repo.stream(keys) as objects:
                assert {key: await stream.read() async for key, stream in objects} == expected
            with Container(folder) as container:
                container.pack_all_loose()  # and leave the loose file

    async def test_neighbours_are_read_in_the_order_of_the_packs(self, repo, folder):
        contents = [b"%d" % number * 20 for number in range(1000)]
        keys = await repo.put_many(contents)
        await repo.delete_many(keys[100:150])  # a hole
        del keys[100:150], contents[100:150]
        async with repo.stream(reversed(keys)) as objects:
            seen = [(key, await stream.read()) async for key, stream in objects]
        assert seen == list(zip(keys, contents, strict=True))

    @pytest.mark.parametrize("scan", [True, False])
    async def test_by_a_scan_or_by_looking_up(self, repo, monkeypatch, scan):
        for module in (bulk_reader, index):
            monkeypatch.setattr(module, "SCANNED_FOR_ONE", 1000 if scan else 0)
        contents = [b"%d" % number for number in range(400)]
        keys = await repo.put_many(contents)
        asked = [*keys[::2], "0" * 64]
        assert await repo.has_many(asked) == [True] * 200 + [False]
        async with repo.stream(keys[::2]) as objects:
            assert [await stream.read() async for _, stream in objects] == contents[::2]

    async def test_more_objects_than_are_planned_at_once(self, repo, monkeypatch):
        monkeypatch.setattr(bulk_reader, "_PLANNED_AT_MOST", 100)
        contents = [b"%d" % number for number in range(350)]
        expected = dict(zip(await repo.put_many(contents), contents, strict=True))
        async with repo.stream(expected) as objects:
            assert {key: await stream.read() async for key, stream in objects} == expected
        with pytest.raises(ObjectNotFoundError) as caught:
            async with repo.stream([*expected, "0" * 64]):
                pytest.fail("one is not there")
        assert caught.value.keys == ("0" * 64,)

    async def test_more_objects_than_are_planned_some_large_some_compressed_some_damaged(
        self, repo, folder, monkeypatch
    ):
        monkeypatch.setattr(bulk_reader, "_PLANNED_AT_MOST", 10)
        contents = [content_of(size, size % 250) for size in (5, 400_000, 6, 7, 300_001, 300_000, 8)]
        contents += [b"%d" % number for number in range(30)]
        keys = [await repo.put(content) for content in contents[:5]]
        with Container(folder) as container:
            keys += container.add_objects_to_pack(contents[5:8], compress=True)
        keys += await repo.put_many(contents[8:])
        async with repo.stream(keys) as objects:
            assert [await stream.read() async for _, stream in objects] == contents
        os.truncate(own_pack(folder), own_pack(folder).stat().st_size - 1)
        seen = []
        with pytest.raises(CorruptObjectError) as caught:
            async with repo.stream(keys) as objects:
                async for _, stream in objects:
                    seen.append(await stream.read())
        assert seen == contents[:-1]
        assert caught.value.key == keys[-1]

    async def test_an_index_that_changes_all_the_time(self, repo, monkeypatch):
        versions = iter(range(1_000_000))
        monkeypatch.setattr(index.Index, "version", lambda self: next(versions))
        contents = [b"%d" % number for number in range(300)]
        expected = dict(zip(await repo.put_many(contents), contents, strict=True))
        async with repo.stream(expected) as objects:
            assert {key: await stream.read() async for key, stream in objects} == expected

    @pytest.mark.parametrize("mode", [CompressMode.NO, CompressMode.YES])
    async def test_a_repack_between_the_steps_of_a_stream(self, repo, folder, mode):
        contents = [b"%d" % number * 3 for number in range(700)]
        keys = await repo.put_many(contents)
        expected = dict(zip(keys, contents, strict=True))
        await repo.get(keys[0])
        seen = {}
        async with repo.stream(keys) as objects:
            async for key, stream in objects:
                if len(seen) == 10:
                    await repo.delete_many(keys[::7][:20])  # so that a repack moves the rest
                    with Container(folder) as container:
                        container.repack(compress_mode=mode)
                    for gone in keys[::7][:20]:
                        expected.pop(gone) if gone not in seen else None
                try:
                    seen[key] = await stream.read()
                except ObjectNotFoundError:
                    pytest.fail("a stream that was given out can be read")
                if len(seen) == 256:
                    break
        assert all(seen[key] == content for key, content in expected.items() if key in seen)
        rest = [key for key in expected if key not in seen]
        async with repo.stream(rest) as objects:
            assert {key: await stream.read() async for key, stream in objects} == {key: expected[key] for key in rest}

    async def test_objects_deleted_under_a_stream_of_many(self, repo, folder):
        keys = await repo.put_many(b"%d" % number for number in range(600))
        seen = []
        with pytest.raises(ObjectNotFoundError) as caught:
            async with repo.stream(keys) as objects:
                async for key, stream in objects:
                    if not seen:
                        with Container(folder) as container:
                            container.delete_objects(keys[300:])
                            container.repack()
                    assert await stream.read()
                    seen.append(key)
        assert caught.value.keys == (keys[300],)
        assert seen == keys[:300]

    async def test_a_large_packed_object_whose_pack_is_replaced_as_it_is_opened(self, repo, folder, monkeypatch):
        key = await repo.put(content_of(600_000))
        await repo.maintain()
        real = pack_files.PackFiles.descriptor
        times = []

        def descriptor(self, pack_id):
            found = real(self, pack_id)
            times.append(pack_id)
            if len(times) < 3:
                shutil.copy(folder / "packs" / "0", folder / "other")
                os.replace(folder / "other", folder / "packs" / "0")
            elif len(times) == 3:
                (folder / "packs" / "0").rename(folder / "away")
            elif len(times) == 4:
                pytest.fail("it was given up already")
            return found

        monkeypatch.setattr(pack_files.PackFiles, "descriptor", descriptor)
        with pytest.raises(CorruptObjectError, match="missing"):
            async with repo.open(key):
                pass
        (folder / "away").rename(folder / "packs" / "0")
        times[:] = [1] * 10
        monkeypatch.setattr(pack_files.PackFiles, "descriptor", real)
        async with repo.open(key) as stream:
            assert await stream.read() == content_of(600_000)

    async def test_open_packs_are_bounded(self, folder):
        async with DiskRepository(folder) as repo:
            await repo.initialise(pack_size_target=50)
            keys = [await repo.put(content_of(100, number)) for number in range(40)]
            await repo.maintain()
            assert (await repo.info()).pack_files == 40
            for key in keys * 2:
                assert len(await repo.get(key)) == 100
            async with anyio.create_task_group() as tasks:
                for key in keys * 2:
                    tasks.start_soon(repo.get, key)
            async with repo.stream(keys) as objects:
                assert len([key async for key, _ in objects]) == 40
            assert 0 < len(open_files(folder / "packs")) <= 8 * 8

    async def test_without_pread_and_without_files_that_stay_open(self, repo, folder, monkeypatch):
        """As on Windows."""
        for module in ("reader", "bulk_reader"):
            monkeypatch.setattr(f"objrepo.disk.{module}.read_at", pack_files._seek_and_read)
        monkeypatch.setattr(pack_files, "_MAX_OPEN", 0)
        contents = [b"%d" % number for number in range(300)]
        expected = dict(zip(await repo.put_many(contents), contents, strict=True))
        for key, content in expected.items():
            assert await repo.get(key) == content
        async with repo.stream(expected) as objects:
            assert {key: await stream.read() async for key, stream in objects} == expected
        assert not open_files(folder / "packs")

    def test_reading_in_pieces(self, tmp_path, monkeypatch):
        """No system gives more than 2 GiB at once, some give less."""
        (tmp_path / "file").write_bytes(content_of(1000))
        real = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
        with open(tmp_path / "file", "rb") as file:
            assert pack_files.read_at(file.fileno(), 500, 100) == content_of(1000)[100:600]
            assert pack_files.read_at(file.fileno(), 500, 900) == content_of(1000)[900:]

    @pytest.mark.parametrize("size", [6, 8, 1_000_000_000])
    def test_a_compressed_object_gives_no_more_than_its_row_says(self, size):
        import zlib

        row = index.Row("key", 0, 0, 10, True, size)
        with pytest.raises(CorruptObjectError, match="when decompressed"):
            pack_files.inflated(row, zlib.compress(b"content"))
        with pytest.raises(CorruptObjectError):
            pack_files.inflated(row, zlib.compress(b"content" * 100)[:-5])

    async def test_an_index_of_another_shape(self, repo, folder):
        key = await repo.put(b"content")
        connection = sqlite3.connect(folder / "packs.idx")
        connection.execute("ALTER TABLE db_object RENAME COLUMN offset TO place")
        connection.close()
        async with DiskRepository(folder) as other:
            with pytest.raises(RepositoryError, match="no such column"):
                await other.get(key)


class TestGroupCommit:
    async def test_who_comes_together_is_committed_together(self, repo, folder):
        contents = [b"%d" % number for number in range(500)]
        keys = await put_together(repo, contents)
        assert keys == [hashlib.sha256(content).hexdigest() for content in contents]
        info = await repo.info()
        assert info.loose <= 1, "the first one may have been stored by itself"
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

    async def test_a_lone_put_is_loose_as_aiida_expects(self, repo):
        await repo.put(b"alone")
        info = await repo.info()
        assert (info.loose, info.packed) == (1, 0)

    async def test_small_files_and_short_sources_at_the_same_moment(self, repo, tmp_path):
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
        assert info.loose <= 3, "those who found no company"
        assert info.packed == 60 - info.loose

    async def test_files_that_are_large_missing_or_no_files_among_small_ones(self, repo, tmp_path):
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
                while len(outcomes) < 7:  # nobody waits for the pipe
                    await anyio.sleep(0.01)
            await anyio.to_thread.run_sync((tmp_path / "pipe").write_bytes, b"out of the pipe")
        for number, size in enumerate([10, 1_000_000, 20, 64 * 1024, 64 * 1024 + 1]):
            assert outcomes[f"{number}"] == content_of(size, number)
        assert outcomes["pipe"] == b"out of the pipe"
        assert (outcomes["missing"], outcomes[""]) == (FileNotFoundError, IsADirectoryError)

    async def test_a_batch_is_stored_while_the_next_is_gathered(self, repo):
        stored = anyio.Event()

        async def sources():
            for number in range(1024):
                yield b"%d" % number
            with anyio.fail_after(30):
                await stored.wait()
            yield b"the last"

        async def watch():
            while (await repo.info()).objects < 1024:
                await anyio.sleep(0.01)
            stored.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            assert len(await repo.put_many(sources())) == 1025

    async def test_the_same_content_many_times(self, repo):
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

    async def test_what_is_there_already_loose_or_packed(self, repo, folder):
        loose = await repo.put(b"loose")
        with Container(folder) as container:
            packed = container.add_objects_to_pack([b"packed"])[0]
        keys = await repo.put_many([b"loose", b"packed", b"new"])
        assert keys[:2] == [loose, packed]
        assert [await repo.get(key) for key in keys] == [b"loose", b"packed", b"new"]
        assert (await repo.info()).objects == 3
        assert own_pack(folder).stat().st_size == len(b"loose" + b"new"), "what was packed was not written again"
        await repo.maintain(live=False)
        assert [await repo.get(key) for key in keys] == [b"loose", b"packed", b"new"]

    async def test_sha1_and_bytes_of_all_kinds(self, folder):
        async with DiskRepository(folder) as repo:
            await repo.initialise(hash_type="sha1")
            contents = [b"bytes", bytearray(b"bytearray"), memoryview(b"--view")[2:], b""]
            keys = await repo.put_many(contents)
            assert keys == [hashlib.sha1(content).hexdigest() for content in contents]
            assert [await repo.get(key) for key in keys] == [bytes(content) for content in contents]

    async def test_somebody_inserts_the_same_key_in_between(self, repo, folder, monkeypatch):
        real = group_commit._append

        def append(*arguments):
            rows = real(*arguments)
            with Container(folder) as container:
                container.add_objects_to_pack([b"two"])
            return rows

        monkeypatch.setattr(group_commit, "_append", append)
        keys = await repo.put_many([b"one", b"two", b"three"])
        assert [await repo.get(key) for key in keys] == [b"one", b"two", b"three"]
        assert (await repo.info()).objects == 3
        assert (await repo.verify()).ok

    async def test_a_pack_that_is_full_or_in_use_is_left_alone(self, folder):
        async with DiskRepository(folder) as repo:
            await repo.initialise(pack_size_target=1000)
            await repo.put_many([content_of(600), content_of(600, 1)])
            assert own_pack(folder).stat().st_size == 1200
            with FileLock(folder / f"writer-{FIRST_OWN_PACK + 1}.lock"):
                await repo.put_many([b"one", b"two"])
            assert not own_pack(folder, 1).exists()
            assert own_pack(folder, 2).stat().st_size == 6
            await repo.put_many([b"three", b"four"])
            assert own_pack(folder, 1).stat().st_size == 9, "the first that is free is taken up"
            assert (await repo.verify()).objects == 6

    @pytest.mark.parametrize("happens", ["replaced", "removed"])
    async def test_a_repack_between_append_and_commit(self, repo, folder, monkeypatch, happens):
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
        assert len(times) == 2, "it was written again"
        assert [await repo.get(key) for key in keys] == [b"one", b"two"]
        if happens == "replaced":
            assert [await repo.get(key) for key in old] == [b"old one", b"old two"]

    async def test_a_pack_that_is_replaced_again_and_again(self, repo, folder, monkeypatch):
        real = index.Index.insert

        def insert(self, rows):
            own_pack(folder).unlink(missing_ok=True)
            return real(self, rows)

        monkeypatch.setattr(index.Index, "insert", insert)
        with pytest.raises(RepositoryError, match="replaced the packs"):
            await repo.put_many([b"one", b"two"])
        monkeypatch.undo()
        assert (await repo.info()).objects == 0, "what was not acknowledged is not there either"

    async def test_an_index_that_is_locked_for_writing(self, repo, folder, monkeypatch):
        """A group cannot be committed then; each of its objects is a loose file instead."""
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

    async def test_a_commit_that_fails_leaves_the_index_as_it_was(self, repo, folder):
        with repo.backend._sessions.check_out() as session:
            with pytest.raises(RepositoryError):
                session.index.insert([("key", 0, 1, 0, 1, 0), ("key too", "too", "few")])
            assert session.index.count() == 0
            session.index.insert([("a" * 64, 0, 1, 0, 1, 0)])
            assert session.index.count() == 1

    async def test_a_disk_that_is_full_in_the_middle(self, repo, folder):
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
        assert own_pack(folder).stat().st_size == 2000, "the pack is as it was"
        report = await repo.verify()
        assert (report.objects, report.ok) == (3, True)

    async def test_it_is_flushed_before_it_is_committed(self, repo, folder, monkeypatch):
        order = []
        real_fsync, real_insert = os.fsync, index.Index.insert
        monkeypatch.setattr(
            os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd))[1]
        )
        monkeypatch.setattr(
            index.Index, "insert", lambda self, rows: (order.append("insert"), real_insert(self, rows))[1]
        )
        await repo.put_many([b"one", b"two"])
        assert order == [str(own_pack(folder)), str(folder / "packs"), "insert"]

    async def test_maintain_waits_for_writers_of_groups(self, repo, folder, monkeypatch):
        keys = await repo.put_many([b"one", b"two"])
        monkeypatch.setattr("objrepo.disk.repack._PATIENCE", 0.05)
        with FileLock(folder / f"writer-{FIRST_OWN_PACK}.lock"), pytest.raises(RepositoryBusyError, match="writing to"):
            await repo.maintain(live=False)
        await repo.delete(keys[0])
        report = await repo.maintain(live=False)
        assert {step.name: step.size for step in report.steps}["do_repack"] == 3
        assert await repo.get(keys[1]) == b"two"

    async def test_a_large_object_among_small_ones(self, repo, tmp_path):
        (tmp_path / "file").write_bytes(content_of(500_000))
        contents = [b"one", content_of(500_000, 1), b"two"]
        keys = await repo.put_many([*contents, tmp_path / "file", [b"in ", b"pieces"]])
        assert [await repo.get(key) for key in keys] == [*contents, content_of(500_000), b"in pieces"]

    async def test_what_comes_before_a_source_that_raises_stays(self, repo, tmp_path):
        with pytest.raises(FileNotFoundError):
            await repo.put_many([b"one", b"two", tmp_path / "missing", b"three"])
        stored = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
        assert await repo.has_many(stored) == [True, True]

    async def test_processes_that_write_at_the_same_time(self, repo, folder):
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


class TestCPULimiter:
    async def test_a_blocked_write_delays_others_for_the_timeout_only(self, repo, monkeypatch):
        monkeypatch.setattr(cpu_limiter, "_slots", threading.BoundedSemaphore(1))
        monkeypatch.setattr(cpu_limiter, "_TIMEOUT", 0.05)
        with cpu_limiter.cpu_slot(wanted=True) as taken:
            assert taken
            with anyio.fail_after(5):
                key = await repo.put(content_of(20_000_000))
        assert await repo.get(key) == content_of(20_000_000)
        with cpu_limiter.cpu_slot(wanted=True) as taken, cpu_limiter.cpu_slot(wanted=False) as other:
            assert (taken, other) == (True, False)

    def test_a_forked_child_has_free_slots(self):
        script = """
import os
from objrepo.disk import cpu_limiter
with cpu_limiter.cpu_slot(wanted=True):
    before = cpu_limiter._slots
    if (child := os.fork()) == 0:
        os._exit(0 if cpu_limiter._slots is not before and cpu_limiter._slots.acquire(timeout=0) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"0\n"
