"""Maintenance: its steps, locks and cancellation, full disks, and packing that failed or was killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import anyio
import pytest
from disk_objectstore import Container
from filelock import FileLock

from helpers import flip, loose_file, put_loose, run_on_small_file_system
from objrepo import (
    CorruptObjectError,
    DiskRepository,
    RepositoryBusyError,
)
from objrepo.disk import DiskInfo, index, maintenance
from objrepo.disk.container import PatchedContainer
from objrepo.reports import Progress
from objrepo.testing.fixtures import content_of

CONTENT = content_of(1_000_000)

PREPARE = """
    import errno, os, sys
    from objrepo import DiskRepository, RepositoryError
    from objrepo.offload import Inline
    from objrepo.sync.runner import InPlace
    from objrepo.testing.fixtures import content_of
    call = InPlace().call
    folder = sys.argv[1] + "/repository"
    repo = DiskRepository(folder, Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    packs = lambda: {name: os.stat(f"{folder}/packs/{name}").st_size for name in os.listdir(folder + "/packs")}

    def fill(leave):
        "Leave only some bytes free on the disk."
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with open(sys.argv[1] + "/ballast", "wb") as file:
            file.write(bytes(max(free - leave, 0)))
"""


def notes(folder):
    return [path.name for path in folder.glob("append-*")]


class TestFullDisk:
    def test_a_packing_that_fails_leaves_the_packs_as_they_were(self, tmp_path):
        script = """
    first = call(repo.put, content_of(100_000, 1))
    call(repo.maintain)
    keys = [call(repo.put, content_of(200_000, number)) for number in range(2, 12)]
    fill(leave=700_000)
    before = packs()
    for _ in range(3):
        try:
            call(repo.maintain)
        except (OSError, RepositoryError) as error:
            assert "No space left" in str(error), error
        else:
            sys.exit("it fitted")
        assert packs() == before, packs()
    os.unlink(sys.argv[1] + "/ballast")
    call(repo.maintain)
    assert list(packs().values()) == [2_100_000]
    assert all(call(repo.get, key, True) for key in [first, *keys])
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))

    @pytest.mark.parametrize("leave", [150_000, 250_000])
    def test_a_repack_frees_space_with_little_of_it(self, tmp_path, leave):
        script = f"""
    keys = [call(repo.put, content_of(100_000, number)) for number in range(20)]
    call(repo.maintain)
    call(repo.delete_many, keys[::2])
    kept = keys[1::2]
    fill(leave={leave})
    report = call(repo.maintain, False, False)
    assert sum(packs().values()) == 1_000_000, packs()
    assert [step.size for step in report.steps if step.name == "do_repack"] == [1_000_000]
    assert all(call(repo.get, key, True) for key in kept)
    assert call(repo.verify).ok
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))

    def test_packing_succeeds_after_the_steps_that_free_space(self, tmp_path):
        script = """
    gone = call(repo.put_many, [content_of(60_000, number) for number in range(30)])
    call(repo.delete_many, gone)
    keys = [call(repo.put, content_of(300_000, number)) for number in range(3)]
    fill(leave=200_000)
    report = call(repo.maintain, False, False)
    assert [step.name for step in report.steps] == ["pack_loose", "do_repack", "clean_storage", "do_vacuum"]
    assert list(packs().values()) == [900_000]
    assert all(call(repo.get, key, True) for key in keys)
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))


KILLED = """
import os, sys
from disk_objectstore import Container
from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
call = InPlace().call
repo = DiskRepository(sys.argv[1], Inline())
call(repo.__aenter__)
def progress(done):
    if done.done >= 300_000:  # the first object, some of which is still in the buffer of the pack
        os.kill(os.getpid(), 9)
if sys.argv[2] == "commit":
    from sqlalchemy.orm import Session
    Session.commit = lambda self: os.kill(os.getpid(), 9)
    progress = None
call(lambda: repo.maintain(progress=progress))
"""


class TestUnfinishedAppends:
    async def test_a_damaged_loose_object_leaves_the_pack_as_it_was(self, repo, folder):
        keys = await put_loose(repo, [content_of(100_000, number) for number in range(5)])
        flip(loose_file(folder, keys[2]), 3)
        with pytest.raises(CorruptObjectError):
            await repo.maintain()
        assert not (folder / "packs" / "0").exists()
        assert notes(folder) == []

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
    @pytest.mark.parametrize("at", ["append", "commit"])
    async def test_bytes_that_a_killed_maintain_appended_are_truncated(self, repo, folder, at):
        packed = await repo.put(b"packed")
        await repo.maintain()
        contents = [content_of(300_000, number) for number in range(3)]
        keys = await put_loose(repo, contents)
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", KILLED, str(folder), at], check=False)
            assert done.returncode == -signal.SIGKILL
        assert (folder / "packs" / "0").stat().st_size > 6
        assert notes(folder) == ["append-0-6"], "what the first one appended was cut off by the second"
        await repo.maintain()
        assert (folder / "packs" / "0").stat().st_size == 900_006
        assert notes(folder) == []
        assert [await repo.get(key, check=True) for key in [packed, *keys]] == [b"packed", *contents]

    async def test_bytes_of_a_failed_commit_are_truncated_once_the_index_can_be_locked(self, repo, folder, monkeypatch):
        key = await repo.put(content_of(100_000))
        from sqlalchemy.orm import Session

        def fail(self):
            raise OSError("the commit failed")

        with monkeypatch.context() as patched:
            patched.setattr(Session, "commit", fail)
            with pytest.raises(OSError, match="the commit failed"):
                await repo.maintain()
        assert not (folder / "packs" / "0").exists()
        assert await repo.get(key, check=True) == content_of(100_000)

    async def test_bytes_of_uncommitted_rows_are_kept(self, folder, monkeypatch):
        """disk-objectstore releases the lock of a pack before it commits the rows."""
        monkeypatch.setattr(index, "_BUSY_SECONDS", 0.2)
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            (folder / "append-0-0").touch()
            with Container(folder) as container:
                container.add_objects_to_pack([b"one", b"two"], do_commit=False)
                await repo.maintain()
                assert (folder / "packs" / "0").read_bytes() == b"onetwo"
                container._get_operation_session().commit()
            await repo.maintain()
            assert notes(folder) == []
            assert await repo.get(hashlib.sha256(b"one").hexdigest(), check=True) == b"one"

    async def test_files_with_other_names_are_ignored(self, repo, folder):
        (folder / "packs" / "0").write_bytes(b"rest")
        (folder / "append-0-0").touch()
        (folder / "append-0-x").touch()
        await repo.maintain()
        assert os.listdir(folder / "packs") == []
        assert notes(folder) == ["append-0-x"], "no file of ours"


class TestMaintain:
    async def test_maintain_reports_its_steps(self, repo, folder):
        keys = await put_loose(repo, [CONTENT, b"content"])
        plan = await repo.maintain(dry_run=True)
        assert [(step.name, step.objects, step.size) for step in plan.steps] == [
            ("pack_loose", 2, len(CONTENT) + 7),
            ("clean_storage", 0, 0),
        ]
        assert (await repo.info()).packed == 0
        done = await repo.maintain()
        assert [(step.name, step.objects, step.size) for step in done.steps] == [
            ("pack_loose", 2, len(CONTENT) + 7),
            ("clean_storage", 0, 0),
        ]
        await repo.put(CONTENT)
        await repo.delete(keys[1])
        plan = await repo.maintain(dry_run=True, live=False)
        steps = {step.name: (step.objects, step.size) for step in plan.steps}
        assert list(steps) == ["pack_loose", "do_repack", "clean_storage", "do_vacuum"]
        assert steps["pack_loose"] == (0, 0)
        assert steps["do_repack"] == (1, 7)
        assert steps["clean_storage"] == (1, len(CONTENT))
        done = await repo.maintain(live=False)
        assert {step.name: (step.objects, step.size) for step in done.steps if step.name != "do_vacuum"} == {
            name: numbers for name, numbers in steps.items() if name != "do_vacuum"
        }
        info = await repo.info(detailed=True)
        assert isinstance(info, DiskInfo)
        assert (info.objects, info.loose, info.packed, info.pack_files) == (1, 0, 1, 1)
        assert info.packed_size == info.packed_size_on_disk == info.pack_files_size == info.size == len(CONTENT)

    async def test_steps_can_be_switched_off(self, repo):
        await repo.put(CONTENT)
        report = await repo.maintain(pack_loose=False, clean_storage=False)
        assert report.steps == ()
        assert (await repo.info()).packed == 0
        report = await repo.maintain(live=False, do_repack=False, do_vacuum=False)
        assert [step.name for step in report.steps] == ["pack_loose", "clean_storage"]
        for unsafe in ("do_repack", "clean_storage", "do_vacuum"):
            with pytest.raises(ValueError, match=f"{unsafe}; pass live=False"):
                await repo.maintain(**{unsafe: True})

    async def test_compress(self, repo):
        key = await repo.put(b"a" * 1_000_000)
        await repo.maintain(compress=True)
        info = await repo.info(detailed=True)
        assert info.packed_size == 1_000_000
        assert info.packed_size_on_disk < 10_000
        assert await repo.get(key) == b"a" * 1_000_000

    async def test_loose_objects_are_packed_a_slice_at_a_time(self, repo, folder, monkeypatch):
        monkeypatch.setattr(maintenance, "_SLICE", 7)
        keys = sorted(await put_loose(repo, (b"%d" % number for number in range(60))))
        flip(loose_file(folder, keys[-1]), 0)
        with pytest.raises(CorruptObjectError):
            await repo.maintain()
        assert (await repo.info()).packed == 56
        flip(loose_file(folder, keys[-1]), 0)
        seen: list[Progress] = []
        assert (await repo.maintain(progress=seen.append)).steps[0].objects == 4
        assert (seen[0].done, seen[-1].done) == (0, seen[-1].total)
        assert (await repo.info()).loose == 0
        assert (await repo.verify()).ok

    async def test_progress(self, repo):
        await put_loose(repo, (b"%d" % number for number in range(100)))
        seen: list[Progress] = []
        await repo.maintain(live=False, progress=seen.append)
        assert {progress.step for progress in seen} == {"pack_loose", "do_repack"}
        assert seen[-1].done == seen[-1].total == 190
        assert {progress.unit for progress in seen} == {"bytes"}

    async def test_progress_within_one_large_object(self, repo):
        size = 5_000_000
        [gone, _] = await put_loose(repo, [content_of(300_000), content_of(size, 1)])
        for step, total in (("pack_loose", size + 300_000), ("do_repack", size + 300_000)):
            seen: list[Progress] = []
            await repo.maintain(live=False, progress=seen.append)
            done = [progress.done for progress in seen if progress.step == step]
            assert done == sorted(done)
            assert len(set(done)) > 4
            assert {progress.total for progress in seen if progress.step == step} == {total}
            assert done[-1] == total
            if step == "pack_loose":
                await repo.delete(gone)

    async def test_a_second_maintain_raises_busy_after_its_timeout(self, repo, folder):
        await put_loose(repo, [CONTENT, b"content"])
        release = threading.Event()
        packing = threading.Event()

        def stop(progress):
            packing.set()
            assert release.wait(30)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: repo.maintain(progress=stop))
            await anyio.to_thread.run_sync(packing.wait)
            async with DiskRepository(folder) as other:
                for timeout in (0, 0.05):
                    with pytest.raises(RepositoryBusyError, match=str(folder)):
                        await other.maintain(timeout=timeout)
                assert (await other.maintain(dry_run=True)).dry_run
                key = await other.put(b"meanwhile")
                assert await other.get(key) == b"meanwhile"
                group.start_soon(lambda: other.maintain(timeout=20))
                await anyio.sleep(0.1)
                release.set()
                await anyio.sleep(0.1)
                await other.maintain(timeout=20)
        assert (await repo.info()).packed == 3

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
    async def test_a_second_maintain_in_another_process_raises_busy(self, repo, folder):
        await repo.put(b"content")
        with FileLock(folder / "maintain.lock"):
            script = f"""
import anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        await repo.maintain()
try:
    anyio.run(main)
except objrepo.RepositoryBusyError as error:
    print("busy")
"""
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "busy\n"

    async def test_maintain_raises_busy_while_disk_objectstore_packs(self, repo, folder, monkeypatch):
        monkeypatch.setattr("objrepo.disk.backend._DELETE_PATIENCE", 0.1)
        key = await repo.put(b"content")
        with Container(folder) as container, container.lock_pack("0"):
            for use in (repo.maintain, lambda: repo.delete(key)):
                with pytest.raises(RepositoryBusyError, match=r"0\.lock"):
                    await use()
            assert (folder / "packs" / "0.lock").exists(), "the lock of another process is kept"
        await repo.maintain()

    def test_a_refused_maintain_keeps_the_lock_of_the_other(self, folder):
        with PatchedContainer(folder) as container:
            container.init_container()
            with container.lock_pack("0"):
                with pytest.raises(RepositoryBusyError), container.lock_pack("0"):
                    pytest.fail("two packers in one pack")
                assert (folder / "packs" / "0.lock").exists()
            assert not (folder / "packs" / "0.lock").exists()

    async def test_delete_waits_for_maintain(self, repo, folder):
        key = await repo.put(b"content")
        order = []

        async def delete():
            await repo.delete(key)
            order.append("deleted")

        async with anyio.create_task_group() as group:
            with FileLock(folder / "maintain.lock"):
                group.start_soon(delete)
                await anyio.sleep(0.1)
                order.append("packed")
        assert order == ["packed", "deleted"]

    async def test_a_delete_that_waits_can_be_cancelled(self, repo, folder):
        key = await repo.put(b"content")
        with FileLock(folder / "maintain.lock"):
            with anyio.fail_after(5), anyio.move_on_after(0.1) as scope:
                await repo.delete(key)
            assert scope.cancelled_caught
        assert await repo.has(key)

    @pytest.mark.parametrize("live", [True, False])
    async def test_cancelled(self, repo, live):
        contents = {key: b"%d" % number for number, key in
                    enumerate(await put_loose(repo, (b"%d" % number for number in range(60))))}  # fmt: skip
        packing = threading.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: repo.maintain(live=live, progress=lambda _: packing.set()))
                await anyio.to_thread.run_sync(packing.wait)
                scope.cancel()
        for key, content in contents.items():
            assert await repo.get(key) == content
        assert (await repo.verify()).ok
        assert (await repo.maintain(live=False)).steps[0].name == "pack_loose"
        assert (await repo.info()).packed == 60

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
    async def test_maintain_continues_after_a_killed_one(self, repo, folder):
        await put_loose(repo, (b"%d" % number for number in range(500)))
        script = f"""
import os, anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        await repo.maintain(progress=lambda progress: progress.done > 500 and os.kill(os.getpid(), {signal.SIGKILL}))
anyio.run(main)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert (await repo.verify()).objects == 500
        assert (await repo.verify()).ok
        assert (folder / "packs" / "0.lock").exists()
        await repo.maintain()  # holding `maintain.lock` proves that the owner of the pack's lock has ended
        assert not (folder / "packs" / "0.lock").exists()
        assert (await repo.info()).packed == 500
        assert (await repo.verify()).ok
