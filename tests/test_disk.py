"""`DiskRepository`, a long list: a container that AiiDA, `dostore` and others read and write at the same time."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from disk_objectstore import CompressMode, Container
from filelock import FileLock

from helpers import put_loose
from objrepo import (
    CorruptObjectError,
    DiskRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryError,
)
from objrepo.disk import DiskInfo
from objrepo.disk.container import PatchedContainer
from objrepo.disk.index import Index
from objrepo.disk.layout import Layout
from objrepo.disk.session import SessionPool
from objrepo.offload import Inline
from objrepo.reports import Progress
from objrepo.sync import SyncRepository
from objrepo.testing.fixtures import content_of
from processes import drop_capabilities

CONTENT = content_of(1_000_000)


async def listed(repo):
    return sorted([key async for key in repo.keys()])


def flip_a_bit(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


class TestInitialise:
    async def test_options_are_those_of_the_container(self, folder):
        options = dict(pack_size_target=1000, loose_prefix_len=3, hash_type="sha1", compression_algorithm="zlib+9")
        async with DiskRepository(folder) as repo:
            await repo.initialise(**options)
            assert await repo.key_format() == "sha1"
            key = await repo.put(b"content")
            assert len(key) == 40
            await repo.initialise(**options)
            for name, other in (
                ("pack_size_target", 2000), ("loose_prefix_len", 2), ("hash_type", "sha256"),
                ("compression_algorithm", "zlib+1"),
            ):  # fmt: skip
                with pytest.raises(ValueError, match=f"{name}.*cannot be changed"):
                    await repo.initialise(**{name: other})
            assert await repo.get(key) == b"content"
        with Container(folder) as container:
            assert {name: getattr(container, name) for name in options} == options

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (dict(pack_size_target=0), ValueError),
            (dict(pack_size_target="4 GiB"), TypeError),
            (dict(loose_prefix_len=-1), ValueError),
            (dict(loose_prefix_len=100), ValueError),
            (dict(loose_prefix_len=True), TypeError),
            (dict(hash_type="md5"), ValueError),
            (dict(compression_algorithm="rar"), ValueError),
            (dict(compression_algorithm="zlib+10"), ValueError),
            (dict(colour="blue"), TypeError),
        ],
        ids=str,
    )
    async def test_bad_options(self, folder, options, error):
        async with DiskRepository(folder) as repo:
            with pytest.raises(error):
                await repo.initialise(**options)
            assert not await repo.is_initialised()
        assert not folder.exists()
        assert os.listdir(folder.parent) == []

    async def test_clear(self, repo):
        key = await repo.put(b"content")
        uuid = await repo.uuid()
        await repo.initialise(clear=True, hash_type="sha1")
        assert not await repo.has(key)
        assert await repo.uuid() != uuid
        assert await repo.key_format() == "sha1"

    async def test_places_that_are_taken(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("all of it")
        (tmp_path / "empty").mkdir()
        for name, error in (
            ("file", NotADirectoryError),
            ("full", FileExistsError),
            ("file/below", NotADirectoryError),
        ):
            async with DiskRepository(tmp_path / name) as repo:
                assert not await repo.is_initialised()
                with pytest.raises(error, match=name):
                    await repo.initialise()
                with pytest.raises(NotInitialisedError, match=name):
                    await repo.put(b"content")
        async with DiskRepository(tmp_path / "full") as repo:
            for use in (repo.erase, lambda: repo.initialise(clear=True)):
                with pytest.raises((NotInitialisedError, FileExistsError)):
                    await use()
        assert (tmp_path / "full" / "thesis.tex").read_text() == "all of it"
        async with DiskRepository(tmp_path / "empty") as repo, DiskRepository(tmp_path / "new" / "deep") as deep:
            await repo.initialise()
            await deep.initialise()
            assert await repo.is_initialised()
        assert await anyio.Path(tmp_path).glob("*").__anext__(), "and nothing is left beside"
        assert sorted(os.listdir(tmp_path)) == ["empty", "file", "full", "new"]

    async def test_many_make_it_at_the_same_time(self, folder):
        repos = [DiskRepository(folder) for _ in range(8)]

        async def make(repo):
            async with repo:
                await repo.initialise()
                await repo.put(b"content")

        async with anyio.create_task_group() as group:
            for repo in repos:
                group.start_soon(make, repo)
        assert os.listdir(folder.parent) == [folder.name]

    @pytest.mark.parametrize("others", [False, True])
    async def test_where_folders_cannot_be_renamed_onto_empty_ones(self, folder, monkeypatch, others):
        """As on Windows, and where a disk is mounted."""
        folder.mkdir()
        real = os.rename

        def rename(source, target):
            if target == folder:
                if others:
                    shutil.copytree(source, folder, dirs_exist_ok=True)
                raise OSError(16, "Device or resource busy")
            real(source, target)

        monkeypatch.setattr(os, "rename", rename)
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            assert await repo.get(await repo.put(b"content")) == b"content"
        assert os.listdir(folder.parent) == [folder.name]

    async def test_where_nothing_can_be_renamed(self, folder, monkeypatch):
        def rename(source, target):
            (folder / "somebody").mkdir(parents=True)
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "rename", rename)
        async with DiskRepository(folder) as repo:
            with pytest.raises(RepositoryError, match="Invalid cross-device link"):
                await repo.initialise()
        assert os.listdir(folder.parent) == [folder.name]

    @pytest.mark.parametrize(
        ("text", "says"),
        [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), (None, "format 99"), (b"\xff\xfe", "damaged")],
    )
    async def test_a_configuration_that_is_damaged_or_newer(self, repo, folder, text, says):
        key = await repo.put(b"content")
        config = folder / "config.json"
        if text is None:
            text = json.dumps(json.loads(config.read_text()) | {"container_version": 99})
        config.write_bytes(text if isinstance(text, bytes) else text.encode())
        async with DiskRepository(folder) as other:
            for use in (lambda: other.get(key), lambda: other.put(b"other"), other.info, other.initialise):
                with pytest.raises(RepositoryError, match=says) as caught:
                    await use()
                assert str(folder) in str(caught.value)

    async def test_a_path_must_be_a_path(self):
        for nothing in (None, 7, b"bytes"):
            with pytest.raises(TypeError):
                DiskRepository(nothing)

    async def test_erased_by_somebody_else(self, repo, folder):
        key = await repo.put(b"content")
        shutil.rmtree(folder)
        with pytest.raises(NotInitialisedError):
            await repo.get(key)
        await repo.initialise()
        assert not await repo.has(key)


class TestTogetherWithOthers:
    async def test_what_a_container_wrote_is_read(self, repo, folder):
        with Container(folder) as container:
            loose = container.add_object(b"loose")
            plain, squeezed = (
                container.add_objects_to_pack([content], compress=compress)[0]
                for content, compress in ((CONTENT, False), (CONTENT[1:], True))
            )
        contents = {loose: b"loose", plain: CONTENT, squeezed: CONTENT[1:]}
        for key, content in contents.items():
            assert await repo.get(key) == content
            assert await repo.size(key) == len(content)
            async with repo.open(key, offset=3, length=700_000) as stream:
                assert await stream.read() == content[3:700_003]
                assert await stream.seek(0) == 0
                assert await stream.read(2) == content[3:5]
        assert await listed(repo) == sorted(contents)
        assert (await repo.verify()).ok
        async with repo.stream(contents) as objects:
            assert {key: await stream.read() async for key, stream in objects} == contents

    async def test_what_is_written_a_container_reads(self, repo, folder):
        keys = await put_loose(repo, [b"", b"content", CONTENT])
        for _ in range(2):
            with Container(folder) as container:
                assert container.get_objects_content(keys) == dict(zip(keys, [b"", b"content", CONTENT], strict=True))
                assert sorted(container.list_all_objects()) == sorted(keys)
                assert not any(vars(container.validate()).values())
            await repo.maintain(live=False)

    async def test_dostore(self, repo, folder, tmp_path):
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "one").write_bytes(b"one")
        dostore = Path(sys.executable).with_name("dostore")
        key = await repo.put(b"two")

        def run(*arguments):
            command = [dostore, "--path", folder, *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        await anyio.to_thread.run_sync(run, "add-files", str(tmp_path / "files" / "one"))
        await anyio.to_thread.run_sync(run, "optimize", "--non-interactive")
        assert json.loads(run("status"))["count"]["packed"] == 2
        assert await repo.get(key) == b"two"
        assert (await repo.info()).objects == 2

    async def test_deletes_and_packs_of_others_are_seen_at_once(self, repo, folder):
        key, other = await put_loose(repo, [CONTENT, b"other"])
        with Container(folder) as container:
            for step in (
                lambda: container.pack_all_loose(compress=CompressMode.NO),
                container.clean_storage,
                lambda: container.repack(compress_mode=CompressMode.YES),
                container.repack,
            ):
                step()
                assert await repo.get(key) == CONTENT
                assert (await repo.info()).objects == 2
            container.delete_objects([key])
        assert not await repo.has(key)
        with pytest.raises(ObjectNotFoundError):
            await repo.get(key)
        assert await listed(repo) == [other]

    async def test_a_stream_survives_packing_and_deleting(self, repo, folder):
        key = await repo.put(CONTENT)
        async with repo.open(key) as stream:
            assert await stream.read(10) == CONTENT[:10]
            await repo.maintain(live=False)
            assert await stream.read(500_000) == CONTENT[10:500_010]
            await repo.delete(key)
            await repo.maintain(live=False)
            assert await stream.read() == CONTENT[500_010:]

    async def test_reading_while_another_process_packs_and_repacks(self, repo, folder):
        contents = {}
        for start in range(0, 200, 50):
            some = [b"%d" % number * 1000 for number in range(start, start + 50)]
            contents |= dict(zip(await put_loose(repo, some), some, strict=True))
        script = f"""
from disk_objectstore import CompressMode, Container
with Container({str(folder)!r}) as container:
    for mode in (CompressMode.NO, CompressMode.YES, CompressMode.NO, CompressMode.YES):
        container.pack_all_loose(compress=mode)
        container.clean_storage()
        container.repack(compress_mode=mode)
"""
        reads = 0
        with subprocess.Popen([sys.executable, "-c", script]) as other:
            while other.poll() is None:
                for key, content in contents.items():
                    assert await repo.get(key) == content
                    reads += 1
                assert await listed(repo) == sorted(contents)
                assert all(await repo.has_many(list(contents)))
            assert other.returncode == 0
        assert reads >= len(contents)

    async def test_an_open_repository_pins_nothing(self, repo, folder):
        """A read transaction that was left open would keep others from ever shrinking the write-ahead log."""
        key = await repo.put(CONTENT)
        await repo.maintain()
        await repo.get(key)
        connection = sqlite3.connect(folder / "packs.idx")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.close()
        assert busy == 0


class TestLeases:
    def test_a_lease_is_one_callers_at_a_time_and_warm_for_the_next(self, folder):
        with Container(folder) as container:
            container.init_container()
        pool = SessionPool(Layout(folder))
        with pool.check_out() as first, pool.check_out() as second:
            assert first is not second
            connections = {first.index, second.index}
        with pool.check_out() as third:
            assert third.index in connections
            assert third.container is third.container
        pool.close()
        with pool.check_out() as fourth:
            assert fourth.index not in connections
        pool.close()

    def test_an_unexpected_error_ends_a_lease(self, folder):
        with Container(folder) as container:
            container.init_container()
        pool = SessionPool(Layout(folder))
        with pytest.raises(ZeroDivisionError), pool.check_out() as broken:
            raise ZeroDivisionError
        with pytest.raises(FileNotFoundError), pool.check_out() as kept:
            raise FileNotFoundError
        assert kept is not broken
        with pool.check_out() as again:
            assert again is kept
        pool.close()

    async def test_leaving_closes_every_file(self, folder):
        def open_files():
            return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdecimal() and
                    os.path.islink(f"/proc/self/fd/{fd}")}  # fmt: skip

        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await put_loose(repo, (b"%d" % number for number in range(50)))
            async with anyio.create_task_group() as group:
                for key in keys:
                    group.start_soon(repo.get, key)
            await repo.maintain()
            assert any(str(folder) in path for path in open_files())
        assert not [path for path in open_files() if str(folder) in path]


class TestMaintain:
    async def test_steps_and_their_numbers(self, repo, folder):
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

    async def test_switches(self, repo):
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

    async def test_progress(self, repo):
        await put_loose(repo, (b"%d" % number for number in range(100)))
        seen: list[Progress] = []
        await repo.maintain(live=False, progress=seen.append)
        assert {progress.step for progress in seen} == {"pack_loose", "do_repack"}
        assert seen[-1].done == seen[-1].total == 190
        assert {progress.unit for progress in seen} == {"bytes"}

    async def test_a_second_packer_is_told_so_at_once_or_after_a_while(self, repo, folder):
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

    async def test_a_second_packer_in_another_process(self, repo, folder):
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

    async def test_a_packer_of_aiida_is_respected(self, repo, folder, monkeypatch):
        monkeypatch.setattr("objrepo.disk.backend._DELETE_PATIENCE", 0.1)
        key = await repo.put(b"content")
        with Container(folder) as container, container.lock_pack("0"):
            for use in (repo.maintain, lambda: repo.delete(key)):
                with pytest.raises(RepositoryBusyError, match=r"0\.lock"):
                    await use()
            assert (folder / "packs" / "0.lock").exists(), "somebody else's lock is not ours to remove"
        await repo.maintain()

    def test_a_packer_that_is_refused_leaves_the_lock_of_the_one_that_works(self, folder):
        with PatchedContainer(folder) as container:
            container.init_container()
            with container.lock_pack("0"):
                with pytest.raises(RepositoryBusyError), container.lock_pack("0"):
                    pytest.fail("two packers in one pack")
                assert (folder / "packs" / "0.lock").exists()
            assert not (folder / "packs" / "0.lock").exists()

    async def test_a_delete_waits_for_a_packer(self, repo, folder):
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

    async def test_a_delete_that_waits_is_cancelled(self, repo, folder):
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

    async def test_a_packer_killed_while_it_packed(self, repo, folder):
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
        await repo.maintain()  # whoever holds the lock on `maintain.lock` knows that the other's owner is gone
        assert not (folder / "packs" / "0.lock").exists()
        assert (await repo.info()).packed == 500
        assert (await repo.verify()).ok


class TestListing:
    @pytest.mark.parametrize("prefix", [0, 1, 2, 3, 8])
    async def test_any_length_of_prefix_loose_and_packed(self, folder, prefix):
        async with DiskRepository(folder) as repo:
            await repo.initialise(loose_prefix_len=prefix)
            keys = await put_loose(repo, (b"%d" % number for number in range(300)))
            assert await listed(repo) == sorted(keys)
            await repo.maintain()
            keys += await put_loose(repo, (b"%d" % number for number in range(290, 400)))
            assert await listed(repo) == sorted(set(keys))
            assert (await repo.info()).objects == 400
            assert await repo.get(keys[-1]) == b"399"

    async def test_strange_files_are_no_objects(self, repo, folder):
        key = await repo.put(b"content")
        (folder / "loose" / "stray").write_bytes(b"")
        (folder / "loose" / key[:2] / "stray").write_bytes(b"")
        (folder / "loose" / "zz").mkdir()
        (folder / "loose" / "zz" / ("a" * 62)).write_bytes(b"")
        assert await listed(repo) == [key]
        assert (await repo.info()).objects == 1

    async def test_many_at_a_time(self, repo, folder):
        with Container(folder) as container:
            keys = container.add_objects_to_pack([b"%d" % number for number in range(3000)], compress=False)
        assert await listed(repo) == sorted(keys)
        assert await repo.has_many([*keys, "0" * 64]) == [True] * 3000 + [False]


class TestDamage:
    @pytest.mark.parametrize("packed", ["loose", "packed", "compressed"])
    async def test_a_flipped_bit(self, repo, folder, packed):
        key, good = await put_loose(repo, [b"content" * 1000, b"good"])
        path = folder / "loose" / key[:2] / key[2:]
        if packed != "loose":
            with Container(folder) as container:
                container.pack_all_loose(compress=CompressMode.YES if packed == "compressed" else CompressMode.NO)
                container.clean_storage()
                offset = container.get_object_meta(key)["pack_offset"]
            path = folder / "packs" / "0"
            flip_a_bit(path, offset + 10)
        else:
            flip_a_bit(path)
        report = await repo.verify()
        assert [damaged.key for damaged in report.damaged] == [key]
        assert report.damaged[0].reason
        assert not report.ok
        assert await repo.get(good) == b"good"
        if packed == "compressed":
            with pytest.raises(CorruptObjectError, match=key):
                await repo.get(key)

    async def test_a_truncated_pack(self, repo, folder):
        keys = await put_loose(repo, [CONTENT, CONTENT[1:], CONTENT[2:]])
        await repo.maintain()
        os.truncate(folder / "packs" / "0", 1_500_000)
        damaged = {item.key for item in (await repo.verify()).damaged}
        assert len(damaged) == 2
        for key in keys:
            if key in damaged:
                with pytest.raises(CorruptObjectError, match="bytes"):
                    await repo.get(key)
            else:
                assert len(await repo.get(key)) >= 999_998

    async def test_a_missing_pack(self, repo, folder):
        key = await repo.put(CONTENT)
        await repo.maintain()
        (folder / "packs" / "0").unlink()
        with pytest.raises(CorruptObjectError, match=r"pack .* is missing"):
            await repo.get(key)
        assert len((await repo.verify()).damaged) == 1

    async def test_a_damaged_loose_object_is_not_packed(self, repo, folder):
        key, good = await put_loose(repo, [b"content", b"good"])
        flip_a_bit(folder / "loose" / key[:2] / key[2:])
        with pytest.raises(CorruptObjectError, match=key):
            await repo.maintain()
        assert await repo.get(good) == b"good"

    @pytest.mark.parametrize("index", [b"", b"no database at all" * 100])
    async def test_a_damaged_index(self, repo, folder, index):
        key = await repo.put(b"content")
        (folder / "packs.idx").unlink()
        (folder / "packs.idx").write_bytes(index)
        for use in (lambda: repo.get(key), lambda: repo.has(key), repo.info):
            with pytest.raises(RepositoryError, match=r"packs\.idx"):
                await use()

    async def test_an_index_that_somebody_keeps_locked(self, repo, folder, monkeypatch):
        monkeypatch.setattr("objrepo.disk.index._BUSY_SECONDS", 0.05)
        key = await repo.put(b"content")
        connection = sqlite3.connect(folder / "packs.idx", isolation_level=None)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        async with DiskRepository(folder) as other:
            try:
                with pytest.raises(RepositoryBusyError, match=r"packs\.idx.*locked"):
                    await other.get(key)
            finally:
                connection.close()
            assert await other.get(key) == b"content"

    async def test_a_pack_that_changes_under_the_reader(self, repo, folder, monkeypatch):
        key = await repo.put(CONTENT)
        await repo.maintain()
        real = Index.row
        answers = []

        def changing(index, wanted):
            row = real(index, wanted)
            answers.append(row)
            if len(answers) >= changes:
                return row
            shutil.copy(folder / "packs" / "0", folder / "new")
            os.replace(folder / "new", folder / "packs" / "-1")
            return row._replace(pack_id=-1, offset=len(answers))

        monkeypatch.setattr(Index, "row", changing)
        changes = 5
        assert await repo.get(key) == CONTENT
        answers.clear()
        changes = 1000
        with pytest.raises(CorruptObjectError, match="changed 20 times"):
            async with repo.open(key):
                pass

    async def test_what_is_deleted_while_it_is_verified_is_not_damaged(self, repo, folder):
        await put_loose(repo, (b"%d" % number for number in range(400)))
        last = [key async for key in repo.keys()][-1]
        report = await repo.verify(progress=lambda _: (folder / "loose" / last[:2] / last[2:]).unlink(missing_ok=True))
        assert (report.objects, report.ok) == (399, True)

    async def test_a_progress_callback_that_raises_ends_the_work(self, repo, folder):
        keys = await put_loose(repo, [b"one", b"two"])

        def broken(progress):
            raise KeyError("mine")

        for use in (repo.maintain, repo.verify):
            with pytest.raises(KeyError, match="mine"):
                await use(progress=broken)
        assert all(await repo.has_many(keys))
        assert (await repo.maintain()).steps[0].objects == 2


def test_an_index_that_is_locked_for_writing(tmp_path, monkeypatch):
    monkeypatch.setattr("objrepo.disk.index._BUSY_SECONDS", 0.05)
    with SyncRepository(DiskRepository(tmp_path / "repository", Inline())) as repo:
        repo.initialise()
        key = repo.put_object_from_file(__file__)
        repo.maintain()
        connection = sqlite3.connect(tmp_path / "repository" / "packs.idx", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(RepositoryBusyError, match=r"packs\.idx is locked"):
            repo.delete_object(key)
        assert repo.has_object(key)
        connection.close()
        repo.delete_object(key)


class TestPlatforms:
    async def test_a_read_only_folder(self, folder):
        """In a process that root's powers do not help."""
        script = f"""
import os, anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        keys = [key async for key in repo.keys()]
        assert len(keys) == 2, keys
        assert sorted([await repo.get(key) for key in keys]) == [b"loose", b"packed"]
        assert (await repo.verify()).ok
        for use in (lambda: repo.put(b"new"), repo.maintain, lambda: repo.delete(keys[0])):
            try:
                await use()
            except (OSError, objrepo.RepositoryError) as error:
                assert {str(folder)!r} in str(error), error
                assert len(str(error)) < 300
            else:
                raise AssertionError("it was written")
        print("done")
anyio.run(main)
"""
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            await repo.put(b"packed")
            await repo.maintain()
            await repo.put(b"loose")
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, preexec_fn=drop_capabilities
        )
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        assert (done.stdout, done.stderr) == ("done\n", "")

    async def test_a_full_disk(self, repo, folder):
        script = f"""
import resource, anyio, objrepo
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
async def main():
    async with objrepo.DiskRepository({str(folder)!r}) as repo:
        for source in (bytes(1_000_000), [bytes(400_000)] * 3):
            try:
                await repo.put(source)
            except OSError as error:
                print(error.errno)
        print(await repo.put(b"small"))
anyio.run(main)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        lines = done.stdout.split()
        assert lines[:2] == ["27", "27"]
        assert os.listdir(folder / "sandbox") == []
        assert await listed(repo) == [lines[2]]
        assert await repo.get(lines[2]) == b"small"

    async def test_too_many_open_files(self, repo):
        key = await repo.put(CONTENT)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    files.append(open(os.devnull))
            with pytest.raises(OSError, match="Too many open files"):
                await repo.get(key)
        finally:
            for file in files:
                file.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await repo.get(key) == CONTENT

    async def test_a_pack_is_flushed_before_the_index_knows_it(self, repo, folder, monkeypatch):
        keys = await put_loose(repo, [b"one", b"two"])
        flushed = {}

        def fsync(descriptor):
            connection = sqlite3.connect(folder / "packs.idx")
            known = connection.execute("SELECT count(*) FROM db_object").fetchone()[0]
            connection.close()
            flushed.setdefault(os.readlink(f"/proc/self/fd/{descriptor}"), known)

        monkeypatch.setattr(os, "fsync", fsync)
        await repo.maintain()
        monkeypatch.undo()
        assert flushed[str(folder / "packs" / "0")] == flushed[str(folder / "packs")] == 0
        assert all(await repo.has_many(keys))

    async def test_the_folder_of_a_new_object_is_flushed(self, repo, folder, monkeypatch):
        flushed = []
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
        key = await repo.put(b"content")
        assert str(folder / "loose" / key[:2]) in flushed
        assert str(folder / "loose") in flushed
