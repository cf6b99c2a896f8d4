"""Packed objects that were read before are read without a thread, and never stale."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import anyio
import anyio.lowlevel
import pytest
from disk_objectstore import Container

from helpers import flip_packed, open_files, own_pack
from objrepo import CorruptObjectError, DiskRepository, NotInitialisedError, ObjectNotFoundError
from objrepo.disk import row_cache
from objrepo.sync import open_repository
from objrepo.testing.fixtures import content_of

CONTENTS = [content_of(size, 1 + size % 7) for size in (0, 10, 5000, 256 * 1024)]
OTHER_PROCESS = """
import os, sys
from objrepo.sync import open_repository
for line in sys.stdin:
    command, *keys = line.split()
    with open_repository(sys.argv[1]) as repo:
        if command == "delete":
            repo.delete_many(keys)
        elif command == "put":
            repo.put_many([os.urandom(9), os.urandom(9)])
        elif command == "repack":
            repo.put_many([os.urandom(100_000), bytes(10)])
            repo.delete(repo.put_many([bytes(100_000), bytes(11)])[0])
            repo.maintain(live=False)
        elif command == "initialise":
            repo.initialise(clear=True, hash_type="sha1")
        elif command == "erase":
            repo.erase()
    print("done", flush=True)
"""


@pytest.fixture
def other_process(folder):
    """Call a function to have another process change the repository."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*words):
        process.stdin.write(f"{' '.join(words)}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    with process:
        yield run
        process.stdin.close()


@pytest.fixture
async def keys(repo):
    """The keys of `CONTENTS`, which are packed and were read."""
    keys = await repo.put_many(CONTENTS)
    await repo.maintain()
    for _ in range(3):
        for key in keys:
            await repo.get(key)
    return keys


def calls(repo):
    return repo.statistics().batched_calls


class TestWithoutThreads:
    @pytest.fixture
    def no_threads(self, repo, monkeypatch):
        """Make every thread call an error."""

        def refuse(*args):
            raise AssertionError("a thread was used")

        def apply():
            monkeypatch.setattr(repo.offload._pool, "start", refuse)

        yield apply
        monkeypatch.undo()

    async def test_objects_that_were_read(self, repo, keys, no_threads):
        no_threads()
        for key, content in zip(keys, CONTENTS, strict=True):
            assert await repo.get(key) == content
            assert await repo.get(key, check=True) == content
            assert await repo.has(key) is True
            assert await repo.size(key) == len(content)
            for offset, length in ((0, None), (3, None), (3, 4), (10**6, 5), (0, 0)):
                async with repo.open(key, offset, length) as stream:
                    assert await stream.read() == content[offset:][:length]
            async with repo.open(key, check=True) as stream:
                assert stream.size == len(content)
                assert b"".join([piece async for piece in stream]) == content

    async def test_a_range_of_a_large_object(self, repo, no_threads):
        content = content_of(3_000_000)
        key, _ = await repo.put_many([content, b""])
        await repo.maintain()
        for number in range(4):
            if number == 3:
                no_threads()
            async with repo.open(key, 2_000_000, 256 * 1024) as stream:
                assert await stream.read() == content[2_000_000:][: 256 * 1024]
        assert await repo.size(key) == len(content)

    async def test_what_was_looked_up_is_looked_up_again(self, repo, folder, no_threads):
        with Container(folder) as container:
            [key] = container.add_objects_to_pack([b"a" * 1000], compress=True)
        for _ in range(2):
            assert await repo.has(key)
        no_threads()
        assert await repo.has(key)
        assert await repo.size(key) == 1000
        with pytest.raises(AssertionError, match="a thread"):
            await repo.get(key)

    async def test_objects_that_were_read_in_a_batch(self, repo, no_threads):
        contents = {key: content async for key, content in stored(repo, 100)}
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for key in contents:
                    tasks.start_soon(repo.get, key)
        no_threads()
        assert {key: await repo.get(key) for key in contents} == contents

    async def test_each_read_is_a_checkpoint(self, repo, keys, no_threads):
        no_threads()
        reads = (repo.get, repo.has, repo.size, repo.open(keys[1]).__aenter__)
        for read in reads:
            arguments = () if read is reads[-1] else (keys[1],)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await read(*arguments)
                pytest.fail("it was not cancelled")
        turns = []

        async def other():
            while True:
                turns.append(1)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(50):
                await repo.get(keys[1])
            assert len(turns) >= 49
            tasks.cancel_scope.cancel()
        assert repo.statistics().open_objects == 0


async def stored(repo, number):
    contents = [b"%d" % each for each in range(number)]
    for key, content in zip(await repo.put_many(contents), contents, strict=True):
        yield key, content


class TestNeverStale:
    async def test_what_another_process_does_is_seen_by_the_next_call(self, repo, keys, other_process):
        for key, content in zip(keys, CONTENTS, strict=True):
            for command in ("put", "repack"):
                other_process(command)
                assert await repo.get(key) == content
                assert await repo.get(key) == content
            other_process("delete", key)
            assert await repo.has(key) is False
            for read in (repo.get, repo.size):
                with pytest.raises(ObjectNotFoundError):
                    await read(key)
            with pytest.raises(ObjectNotFoundError):
                async with repo.open(key):
                    pass

    @pytest.mark.parametrize("command", ["initialise", "erase"])
    async def test_a_repository_that_another_process_replaced(self, repo, keys, other_process, command):
        other_process(command)
        if command == "initialise":
            assert await repo.has(keys[1]) is False
            with pytest.raises(ObjectNotFoundError):
                await repo.get(keys[1])
            contents = {key: content async for key, content in stored(repo, 10)}
            for _ in range(3):
                assert {key: await repo.get(key) for key in contents} == contents
        else:
            for read in (repo.get, repo.has, repo.size):
                with pytest.raises(NotInitialisedError):
                    await read(keys[1])

    async def test_deletions_and_maintenance_of_the_same_repository(self, repo, keys):
        await repo.delete(keys[1])
        assert await repo.has(keys[1]) is False
        await repo.maintain(live=False)
        for _ in range(3):
            assert await repo.get(keys[2]) == CONTENTS[2]

    async def test_a_row_that_was_deleted_after_it_was_read(self, repo, keys):
        """The thread that read it is late: the event loop has noticed the change before it adds the row."""
        with repo.backend.sessions.check_out() as session:
            [row] = session.index.raw_row(keys[1])
            await repo.delete(keys[1])
            assert repo.backend.size_nowait(keys[2]) is None  # as the index has changed
            session.remember(row, is_open=False)
        assert await repo.has(keys[1]) is False

    async def test_a_folder_that_was_moved_away(self, repo, folder, keys):
        folder.rename(folder.with_name("elsewhere"))
        with pytest.raises(NotInitialisedError):
            await repo.get(keys[1])
        folder.with_name("elsewhere").rename(folder)
        assert await repo.get(keys[1]) == CONTENTS[1]

    async def test_a_pack_that_was_damaged_and_replaced_by_hand(self, repo, folder, keys):
        copy = shutil.copy(own_pack(folder), folder / "copy")
        flip_packed(folder, keys[1])
        assert await repo.get(keys[1]) != CONTENTS[1]
        with pytest.raises(CorruptObjectError):
            await repo.get(keys[1], check=True)
        os.replace(copy, own_pack(folder))
        assert await repo.get(keys[1]) == CONTENTS[1]
        os.truncate(own_pack(folder), 3)
        with pytest.raises(CorruptObjectError):
            await repo.get(keys[2])

    async def test_an_invalid_row_is_an_error_also_after_has(self, repo, folder, keys):
        with closing(sqlite3.connect(folder / "packs.idx")) as connection, connection:
            connection.execute("UPDATE db_object SET size = 'x', offset = 'y'")
        for _ in range(3):
            assert await repo.has(keys[1])
            with pytest.raises(CorruptObjectError):
                await repo.size(keys[1])
            with pytest.raises(CorruptObjectError):
                await repo.get(keys[1])


class TestWithoutWaiting:
    async def test_bytes_that_are_not_in_the_page_cache_are_read_by_a_thread(self, repo, folder, keys):
        pack = own_pack(folder)
        with open(pack, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = calls(repo)
        assert await repo.get(keys[3]) == CONTENTS[3]
        assert calls(repo) in (before, before + 1)  # file systems in memory keep the bytes
        assert await repo.get(keys[3]) == CONTENTS[3]

    async def test_a_locked_index_is_left_to_a_thread(self, repo, folder, keys):
        backend = repo.backend
        assert backend.get_nowait(keys[1]) == CONTENTS[1]
        await repo.delete(keys[0])
        backend.close()
        with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            for _ in range(3):
                await repo.get(keys[1])
            assert backend.get_nowait(keys[1]) == CONTENTS[1]
            connection.execute("BEGIN EXCLUSIVE")
            start = time.monotonic()
            assert backend.get_nowait(keys[1]) is None
            assert backend.size_nowait(keys[1]) is None
            assert time.monotonic() - start < 4.9, "SQLite would wait for 5 seconds"
            connection.execute("ROLLBACK")
            assert backend.get_nowait(keys[1]) == CONTENTS[1]

    async def test_systems_without_the_flag(self, folder, repo, monkeypatch):
        monkeypatch.delattr(os, "RWF_NOWAIT")
        async with DiskRepository(folder) as repo:
            contents = {key: content async for key, content in stored(repo, 3)}
            for number in range(4):
                before = calls(repo)
                assert {key: await repo.get(key) for key in contents} == contents
                assert calls(repo) == before + 3, number

    async def test_a_file_system_without_the_flag(self, repo, keys, monkeypatch):
        def preadv(*args):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "preadv", preadv)
        for _ in range(2):
            assert await repo.get(keys[1]) == CONTENTS[1]
        monkeypatch.undo()
        assert repo.backend.get_nowait(keys[1]) is None  # it is not tried again


class TestBounds:
    async def test_rows(self, repo, monkeypatch):
        monkeypatch.setattr(row_cache, "_MAX_ROWS", 5)
        contents = {key: content async for key, content in stored(repo, 20)}
        for _ in range(3):
            assert {key: await repo.get(key) for key in contents} == contents
        rows = repo.backend.sessions.row_cache.rows
        assert list(rows) == list(contents)[-5:]

    async def test_packs(self, repo, folder, monkeypatch):
        monkeypatch.setattr(row_cache, "_MAX_PACKS", 2)
        await repo.erase()
        await repo.initialise(pack_size_target=1000)
        contents = {}
        for number in range(5):
            for content in (b"%d" % number * 1000, b"%d" % number):
                contents[(await repo.put_many([content, b""]))[0]] = content
        for _ in range(3):
            assert {key: await repo.get(key) for key in contents} == contents
        assert 1 <= len(repo.backend.sessions.row_cache.rows.packs) <= 2

    async def test_nothing_stays_open(self, folder, repo, keys):
        async with DiskRepository(folder) as other:
            for _ in range(3):
                await other.get(keys[1])
        await repo.maintain(live=False)
        repo.backend.close()
        assert not open_files(folder)


def test_a_forked_process_reads_with_a_connection_of_its_own(folder):
    with open_repository(folder) as repo:
        repo.initialise()
        [key, _] = repo.put_many([b"content", b"other"])
        for _ in range(3):
            repo.get(key)
        child = os.fork()
        if not child:
            read = [repo.get(key) for _ in range(3)]
            repo.delete(key)
            os._exit(0 if read == [b"content"] * 3 and not repo.has(key) else 1)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(ObjectNotFoundError):
            repo.get(key)
        assert repo.put_many([b"content", b"new"])[0] == key
        for _ in range(3):
            assert repo.get(key) == b"content"


def test_a_session_that_has_not_read_before_reports_a_repository_that_is_gone(folder):
    with open_repository(folder) as repo:
        repo.initialise()
        key = repo.put(b"content")
        shutil.rmtree(folder)
        with pytest.raises(NotInitialisedError):
            repo.get(key)
