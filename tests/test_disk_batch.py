"""Batches on disk: one append, one commit, and nothing that remains of a batch that did not end."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import anyio
import pytest
from disk_objectstore import Container

from helpers import ROOT, own_pack, run_on_small_file_system, sha256
from objrepo import (
    DiskRepository,
    MemoryRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryError,
)
from objrepo.disk import batch as disk_batch
from objrepo.disk import index
from objrepo.disk.layout import FIRST_OWN_PACK
from objrepo.offload import Inline

CONTENTS = [b"%d" % number for number in range(2500)]


def notes(folder):
    """Return the notes of batches that have not ended."""
    return sorted(path.name for path in folder.glob("append-*"))


async def test_a_batch_is_one_transaction_that_nobody_sees_before_its_end(repo, folder):
    async with DiskRepository(folder) as other:
        before = (await other.info()).objects
        with closing(sqlite3.connect(folder / "packs.idx")) as observer:
            version = observer.execute("PRAGMA data_version").fetchone()
            async with repo.batch() as batch:
                keys = await batch.put_many(CONTENTS)
                assert observer.execute("PRAGMA data_version").fetchone() == version
                assert not any(await other.has_many(keys))
                assert not any(await repo.has_many(keys))
                assert own_pack(folder).stat().st_size > 0, "it is not all in memory"
                assert await batch.get(keys[0]) == CONTENTS[0]
        assert all(await other.has_many(keys))
        assert (await other.info()).objects == before + len(CONTENTS)
    assert own_pack(folder).read_bytes() == b"".join(CONTENTS), "nothing is written twice"
    assert notes(folder) == []
    with Container(folder) as container:
        assert not any(vars(container.validate()).values())


async def test_a_batch_that_raises_leaves_its_pack_as_it_was(repo, folder):
    await repo.put_many([b"earlier", b"objects"])
    with pytest.raises(ZeroDivisionError):
        async with repo.batch() as batch:
            keys = await batch.put_many(CONTENTS)
            raise ZeroDivisionError
    assert own_pack(folder).read_bytes() == b"earlierobjects"
    assert notes(folder) == []
    assert not any(await repo.has_many(keys))
    assert (await repo.info()).objects == 2
    await repo.put_many([b"one", b"two"])
    assert own_pack(folder).read_bytes() == b"earlierobjectsonetwo", "its lock is released"


async def test_a_cancelled_batch_leaves_its_pack_as_it_was(repo, folder):
    await repo.put_many([b"earlier", b"objects"])
    with anyio.CancelScope() as scope:
        async with repo.batch() as batch:
            await batch.put_many(CONTENTS)
            scope.cancel()
            await batch.put(b"not any more")
    assert scope.cancelled_caught
    assert own_pack(folder).read_bytes() == b"earlierobjects"
    assert notes(folder) == []


async def test_an_empty_batch_writes_nothing(repo, folder):
    async with repo.batch():
        pass
    assert list((folder / "packs").iterdir()) == []


async def test_what_a_killed_batch_has_appended_is_removed_by_the_next_maintenance(repo, folder):
    await repo.put_many([b"earlier", b"objects"])
    script = f"""
import os, signal, sys
from objrepo.offload import Inline
from objrepo import DiskRepository
from objrepo.sync import SyncRepository
from objrepo.sync.runner import InPlace
runner = InPlace()
repo = DiskRepository({str(folder)!r}, Inline())
with runner.enter(repo), runner.enter(repo.batch()) as batch:
    runner.call(batch.put_many, [b"%d" % number for number in range(2500)])
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": "src"}, cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert own_pack(folder).stat().st_size > 2000
    assert (await repo.info()).objects == 2
    assert (await repo.verify()).ok
    await repo.put_many([b"one", b"two"])  # after what remains
    async with repo.batch() as batch:
        await batch.put_many([b"three", b"four"])
        await repo.maintain()  # the note is not that of the open batch
    await repo.maintain()
    assert notes(folder) == []
    assert (await repo.info()).objects == 6
    assert (await repo.verify()).ok


async def test_maintenance_removes_the_end_of_a_pack_only_if_no_batch_appends_to_it(repo, folder):
    (folder / f"append-{FIRST_OWN_PACK}-0").touch()  # of a batch that was killed
    async with repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        await repo.maintain()
        assert await batch.get(keys[0]) == CONTENTS[0]
    assert [await repo.get(key, check=True) for key in keys[:3]] == CONTENTS[:3]
    await repo.maintain()
    assert all(await repo.has_many(keys))
    assert (await repo.verify()).ok


async def test_other_writers_use_another_pack(repo, folder):
    async with DiskRepository(folder) as other, repo.batch() as batch:
        await batch.put_many(CONTENTS)
        await other.put_many([b"one", b"two"])
        async with other.batch() as second:
            await second.put_many([b"three", b"four"])
        assert own_pack(folder, 1).read_bytes() == b"onetwothreefour"
    assert own_pack(folder).read_bytes() == b"".join(CONTENTS)
    assert (await repo.verify()).objects == len(CONTENTS) + 4


async def test_packing_beside_a_batch(repo, folder):
    loose = await repo.put(b"loose")
    async with repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        await repo.maintain()
        assert (await repo.info()).loose == 0
        with Container(folder) as container:
            container.add_object(b"by another program")
            container.pack_all_loose()
    assert await repo.get(loose) == b"loose"
    assert all(await repo.has_many(keys))
    assert (await repo.verify()).ok


async def test_a_repack_waits_for_a_batch(repo, folder, monkeypatch):
    monkeypatch.setattr("objrepo.disk.repack._locked.__wrapped__.__defaults__", (0.05,))
    await repo.put_many([b"earlier", b"objects"])
    await repo.delete(sha256(b"earlier"))
    async with repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        with pytest.raises(RepositoryBusyError, match=f"writing to pack {FIRST_OWN_PACK}"):
            await repo.maintain(live=False)
    await repo.maintain(live=False)
    assert all(await repo.has_many(keys))
    assert (await repo.verify()).ok


async def test_objects_are_put_again_if_another_program_replaced_their_pack(repo, folder):
    await repo.put_many([b"earlier", b"objects"])
    async with repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        shutil.copy(own_pack(folder), folder / "other")
        os.truncate(folder / "other", len(b"earlierobjects"))
        os.replace(folder / "other", own_pack(folder))
    assert [await repo.get(key, check=True) for key in keys] == CONTENTS
    assert (await repo.verify()).objects == len(CONTENTS) + 2


async def test_objects_that_another_process_stores_meanwhile_are_stored_once(repo, folder):
    async with DiskRepository(folder) as other, repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        with Container(folder) as container:
            container.add_objects_to_pack(CONTENTS[:3])
        await other.put_many(CONTENTS[3:6])
    assert (await repo.info()).objects == len(CONTENTS)
    assert [await repo.get(key, check=True) for key in keys] == CONTENTS


async def test_packed_objects_are_not_written_again(repo, folder):
    await repo.put_many(CONTENTS)
    size = own_pack(folder).stat().st_size
    async with repo.batch() as batch:
        keys = await batch.put_many([*CONTENTS, b"new"])
        assert await batch.get(keys[0]) == CONTENTS[0]
    assert own_pack(folder).stat().st_size == size + len(b"new")


async def test_an_object_that_is_deleted_while_a_batch_relies_on_it(repo, folder):
    key, *_ = await repo.put_many([b"in the repository", b"another"])
    with pytest.raises(RepositoryError, match=f"was deleted after it was put in a batch: {key}.*put its objects again"):
        async with repo.batch() as batch:
            await batch.put_many([b"in the repository", *CONTENTS])
            await repo.delete(key)
    assert (await repo.info()).objects == 1
    assert not await repo.has(sha256(CONTENTS[0]))
    async with repo.batch() as batch:
        await batch.put_many([*CONTENTS, b"in the repository"])
    assert await repo.get(key) == b"in the repository"


async def test_a_packed_object_is_put_in_a_batch_and_deleted_through_it(repo):
    key, *_ = await repo.put_many([b"in the repository", b"another"])
    async with repo.batch() as batch:
        await batch.put_many([b"in the repository", *CONTENTS])
        await batch.delete(key)
    assert not await repo.has(key)
    assert (await repo.info()).objects == len(CONTENTS) + 1


async def test_an_object_is_deleted_while_its_batch_stores_it(repo, monkeypatch):
    storing, deleting = threading.Event(), threading.Event()
    insert = disk_batch.insert

    def slow_insert(*arguments):
        storing.set()
        deleting.wait(0.2)
        return insert(*arguments)

    monkeypatch.setattr(disk_batch, "insert", slow_insert)
    monkeypatch.setattr(disk_batch, "_MAX_ROWS", 1)
    async with repo.batch() as batch, anyio.create_task_group() as group:
        group.start_soon(batch.put_many, CONTENTS)
        await anyio.to_thread.run_sync(storing.wait)
        await batch.delete(sha256(CONTENTS[0]))
        deleting.set()
    assert not await repo.has(sha256(CONTENTS[0]))


async def test_files_that_are_put_in_a_batch_do_not_gather_in_memory(repo, tmp_path, monkeypatch):
    paths = [tmp_path / str(number) for number in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%03d" % number * 20_000)
    sizes = []
    store = disk_batch.DiskBatch.store
    monkeypatch.setattr(
        disk_batch.DiskBatch,
        "store",
        lambda self, objects: sizes.append(sum(map(len, objects.values()))) or store(self, objects),
    )
    async with repo.batch() as batch:
        keys = await batch.put_many(paths)
    assert sum(sizes) == 200 * 60_000
    assert max(sizes) < 5 * 1024**2
    assert all(await repo.has_many(keys))


async def test_a_batch_of_packed_objects_has_bounded_memory(repo, monkeypatch):
    monkeypatch.setattr(disk_batch, "_MAX_ROWS", 1000)
    await repo.put_many(CONTENTS)
    async with repo.batch() as batch:
        for start in range(0, 2500, 500):
            await batch.put_many(CONTENTS[start : start + 500])
            assert len(batch.backend._packed) < 1000


async def test_bytes_are_kept_if_a_failed_commit_may_be_recovered(repo, folder, monkeypatch):
    """If the fsync of the write-ahead log fails, recovery takes the transaction in it for committed."""

    def insert(self, rows):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise RepositoryError("the index cannot be used") from error

    monkeypatch.setattr(index.Index, "insert", insert)
    with pytest.raises(RepositoryError, match="cannot be used"):
        async with repo.batch() as batch:
            await batch.put_many(CONTENTS)
    assert own_pack(folder).read_bytes() == b"".join(CONTENTS)
    await repo.maintain()  # overwrites the log first
    assert not own_pack(folder).exists()
    assert notes(folder) == []


async def test_a_batch_that_is_killed_while_its_commit_is_flushed(repo, folder, tmp_path):
    """The write-ahead log has its transaction, which no connection sees and recovery finds."""
    await repo.put_many([b"earlier", b"objects"])
    script = f"""
import os, signal
from pathlib import Path
from objrepo.sync import open_repository
folder = Path({str(folder)!r})
shared = folder / "packs.idx-shm"
with open_repository(folder) as repo:
    context = repo.batch()
    context.__enter__().put_many([b"%d" % number for number in range(2500)])
    headers = shared.read_bytes()[:96]
    note = next(folder.glob("append-*"))
    context.__exit__(None, None, None)
    note.touch()
    with shared.open("r+b") as file:
        file.write(headers)  # SQLite writes them after the flush
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": "src"}, cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (await repo.info()).objects == 2
    assert (folder / "packs.idx-wal").stat().st_size > 100_000
    await repo.maintain()
    assert own_pack(folder).read_bytes() == b"earlierobjects"
    # In another process: to close the index in this one would release SQLite's locks.
    subprocess.run(["cp", "-r", str(folder), str(tmp_path / "crashed")], check=True)
    (tmp_path / "crashed" / "packs.idx-shm").unlink()
    async with DiskRepository(tmp_path / "crashed") as recovered:
        assert (await recovered.verify()).ok
        assert (await recovered.info()).objects == 2


async def test_a_batch_stores_what_it_has_when_it_has_grown_past_a_limit(repo, folder, monkeypatch):
    monkeypatch.setattr(disk_batch, "_MAX_ROWS", 2000)
    with pytest.raises(ZeroDivisionError):
        async with repo.batch() as batch:
            keys = await batch.put_many(CONTENTS)
            assert await repo.has(keys[0])
            assert not await repo.has(keys[-1])
            assert [await batch.get(key) for key in (keys[0], keys[-1])] == [CONTENTS[0], CONTENTS[-1]]
            raise ZeroDivisionError
    objects = (await repo.info()).objects
    assert 2000 <= objects < 2500
    assert own_pack(folder).read_bytes() == b"".join(CONTENTS[:objects])


async def test_a_batch_that_fills_a_pack_continues_in_the_next(folder):
    async with DiskRepository(folder) as repo:
        await repo.initialise(pack_size_target=100_000)
        async with repo.batch() as batch:
            contents = [b"%d" % number * 2000 for number in range(1100)]
            keys = await batch.put_many(contents)
        assert own_pack(folder, 1).exists()
        assert [await repo.get(key) for key in keys] == contents
        assert (await repo.verify()).ok


async def test_a_batch_whose_commit_fails_stores_nothing(repo, folder, monkeypatch):
    await repo.put_many([b"earlier", b"objects"])
    monkeypatch.setattr(index, "_BUSY_SECONDS", 0.05)
    async with DiskRepository(folder) as writer:
        with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as other:
            with pytest.raises(RepositoryBusyError):
                async with writer.batch() as batch:
                    await batch.put_many(CONTENTS)
                    other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        assert own_pack(folder).read_bytes() == b"earlierobjects"
        assert (await writer.info()).objects == 2
        async with writer.batch() as batch:
            keys = await batch.put_many(CONTENTS)
        assert all(await writer.has_many(keys))


async def test_a_batch_that_could_not_store_a_part_stores_nothing_more(repo, folder, monkeypatch):
    """Its earlier objects are cut off the pack, so later ones would take their place."""
    monkeypatch.setattr(disk_batch, "_MAX_ROWS", 1000)
    monkeypatch.setattr(index, "_BUSY_SECONDS", 0.05)
    await repo.put_many([b"earlier", b"objects"])
    async with DiskRepository(folder) as writer:
        with pytest.raises(RepositoryError, match=r"a part of the batch .* could not be stored"):
            async with writer.batch() as batch:
                with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    with pytest.raises(RepositoryBusyError):
                        await batch.put_many(CONTENTS)
                with pytest.raises(RepositoryError, match=r"a part of the batch .* could not be stored"):
                    await batch.put_many([b"a thousand more %d" % number for number in range(1024)])
    assert own_pack(folder).read_bytes() == b"earlierobjects"
    assert (await repo.info()).objects == 2
    assert (await repo.verify()).ok


def test_a_batch_on_a_full_disk(tmp_path):
    run_on_small_file_system(
        tmp_path,
        """
        import errno, os, sys
        from objrepo import DiskRepository
        from objrepo.offload import Inline
        from objrepo.sync.runner import InPlace
        runner = InPlace()
        repo = DiskRepository(sys.argv[1] + "/repository", Inline())
        with runner.enter(repo):
            runner.call(repo.initialise)
            free = os.statvfs(sys.argv[1]).f_bavail
            try:
                with runner.enter(repo.batch()) as batch:
                    for number in range(1000):
                        runner.call(batch.put, os.urandom(60_000))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                assert "packs/1000000" in str(error)
            else:
                raise AssertionError("the disk should be full")
            assert runner.call(repo.info).objects == 0
            assert os.path.getsize(sys.argv[1] + "/repository/packs/1000000") == 0 if os.path.exists(
                sys.argv[1] + "/repository/packs/1000000") else True
            with runner.enter(repo.batch()) as batch:
                key = runner.call(batch.put, b"content")
            assert runner.call(repo.get, key) == b"content"
            assert os.statvfs(sys.argv[1]).f_bavail >= free - 40
        """,
    )


async def test_a_repository_that_is_erased_while_a_batch_is_open(repo, folder):
    with pytest.raises(NotInitialisedError):
        async with repo.batch() as batch:
            await batch.put_many(CONTENTS)
            await repo.erase()
    assert not folder.exists()


@pytest.mark.parametrize("count", [1, 2500])
async def test_a_repository_with_other_keys_takes_the_place_while_a_batch_is_open(repo, folder, count):
    with pytest.raises(RepositoryError, match="was replaced by one with sha1 keys while a batch was open"):
        async with repo.batch() as batch:
            await batch.put_many(CONTENTS[:count])
            await repo.initialise(clear=True, hash_type="sha1")
    assert [key async for key in repo.keys()] == []
    assert (await repo.verify()).ok


async def test_a_batch_needs_a_repository(folder):
    async with DiskRepository(folder) as repo:
        with pytest.raises(NotInitialisedError):
            async with repo.batch():
                pass


async def test_a_batch_cannot_be_pickled(repo):
    async with MemoryRepository() as memory, memory.batch() as batch:
        with pytest.raises(TypeError, match="a batch cannot be pickled or copied"):
            pickle.dumps(batch)
    async with repo.batch() as batch:
        with pytest.raises(TypeError, match="a batch cannot be pickled or copied"):
            pickle.dumps(batch)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_forked_child_cannot_use_the_batch_of_its_parent(folder, anyio_backend):
    repo = DiskRepository(folder, Inline())
    async with repo:
        await repo.initialise()
        async with repo.batch() as batch:
            keys = await batch.put_many(CONTENTS)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    async with batch:
                        await batch.put_many([b"of the child %d" % number for number in range(2500)])
                except RepositoryError as error:
                    code = 0 if "was open when this process was forked" in str(error) else 2
                finally:
                    batch.backend.close()
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert notes(folder), "the child did not end the batch"
            async with DiskRepository(folder, Inline()) as other:
                await other.put_many([b"one", b"two"])
            assert own_pack(folder, 1).read_bytes() == b"onetwo", "the child did not release the lock"
        assert all(await repo.has_many(keys))
        assert (await repo.info()).objects == len(CONTENTS) + 2


async def test_an_object_of_a_batch_that_is_damaged_before_its_end(repo, folder):
    """Reading it through the batch compares it with its key on request, as everywhere."""
    async with repo.batch() as batch:
        keys = await batch.put_many(CONTENTS)
        with own_pack(folder).open("r+b") as pack:
            pack.write(b"x")
        with pytest.raises(RepositoryError, match=keys[0]):
            await batch.get(keys[0], check=True)
        with pytest.raises(ObjectNotFoundError):
            await batch.get(sha256(b"absent"))
