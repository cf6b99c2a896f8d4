"""`DiskRepository` beside disk-objectstore, damaged, and on file systems that fail."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from disk_objectstore import CompressMode, Container

from helpers import put_loose
from objrepo import (
    CorruptObjectError,
    DiskRepository,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryError,
)
from objrepo.disk.index import Index
from objrepo.offload import Inline
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


class TestInteroperability:
    async def test_objects_of_a_container_are_read(self, repo, folder):
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

    async def test_a_container_reads_objects_of_the_repository(self, repo, folder):
        keys = await put_loose(repo, [b"", b"content", CONTENT])
        for _ in range(2):
            with Container(folder) as container:
                assert container.get_objects_content(keys) == dict(zip(keys, [b"", b"content", CONTENT], strict=True))
                assert sorted(container.list_all_objects()) == sorted(keys)
                assert not any(vars(container.validate()).values())
            await repo.maintain(live=False)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
    async def test_dostore_works_on_the_repository(self, repo, folder, tmp_path):
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

    async def test_changes_by_disk_objectstore_are_visible_at_once(self, repo, folder):
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

    async def test_an_open_repository_does_not_block_wal_checkpoints(self, repo, folder):
        """A read transaction that was left open would keep others from ever shrinking the write-ahead log."""
        key = await repo.put(CONTENT)
        await repo.maintain()
        await repo.get(key)
        connection = sqlite3.connect(folder / "packs.idx")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.close()
        assert busy == 0


class TestListing:
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it is the backend that lists
    @pytest.mark.parametrize("prefix", [0, 1, 2, 3, 8])
    async def test_keys_are_listed_for_any_prefix_length(self, folder, prefix):
        async with DiskRepository(folder) as repo:
            await repo.initialise(loose_prefix_len=prefix)
            keys = await put_loose(repo, (b"%d" % number for number in range(300)))
            assert await listed(repo) == sorted(keys)
            await repo.maintain()
            keys += await put_loose(repo, (b"%d" % number for number in range(290, 400)))
            assert await listed(repo) == sorted(set(keys))
            assert (await repo.info()).objects == 400
            assert await repo.get(keys[-1]) == b"399"

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it is the backend that lists
    @pytest.mark.parametrize("length", [0, 1, 2, 5])
    async def test_keys_with_a_prefix(self, folder, length):
        async with DiskRepository(folder) as repo:
            await repo.initialise(loose_prefix_len=length)
            keys = await repo.put_many(b"%d" % number for number in range(300))
            keys += [await repo.put(b"loose %d" % number) for number in range(300)]
            await repo.put(b"7")  # loose, too
            for key in (keys[7], keys[8], keys[-1]):
                for digits in (2, 3, 4, 5, 6, 7, 64):
                    expected = sorted(each for each in keys if each.startswith(key[:digits]))
                    assert await repo.keys_with_prefix(key[:digits]) == expected
            assert await repo.keys_with_prefix("0" * 10) == []
            for invalid in ("", "a", "AB", "g0", "../..", "%%"):
                with pytest.raises(ValueError, match="at least two hexadecimal digits"):
                    await repo.keys_with_prefix(invalid)

    async def test_other_files_are_not_listed(self, repo, folder):
        key = await repo.put(b"content")
        (folder / "loose" / "stray").write_bytes(b"")
        (folder / "loose" / key[:2] / "stray").write_bytes(b"")
        (folder / "loose" / "zz").mkdir()
        (folder / "loose" / "zz" / ("a" * 62)).write_bytes(b"")
        assert await listed(repo) == [key]
        assert (await repo.info()).objects == 1

    async def test_many_keys_are_listed_in_pages(self, repo, folder):
        with Container(folder) as container:
            keys = container.add_objects_to_pack([b"%d" % number for number in range(3000)], compress=False)
        assert await listed(repo) == sorted(keys)
        assert await repo.has_many([*keys, "0" * 64]) == [True] * 3000 + [False]


class TestDamage:
    @pytest.mark.parametrize("packed", ["loose", "packed", "compressed"])
    async def test_verify_reports_a_flipped_bit(self, repo, folder, packed):
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

    async def test_a_truncated_pack_raises_corrupt_object_error(self, repo, folder):
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

    async def test_a_missing_pack_raises_corrupt_object_error(self, repo, folder):
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
    async def test_a_damaged_index_raises_repository_error(self, repo, folder, index):
        key = await repo.put(b"content")
        (folder / "packs.idx").unlink()
        (folder / "packs.idx").write_bytes(index)
        for use in (lambda: repo.get(key), lambda: repo.has(key), repo.info):
            with pytest.raises(RepositoryError, match=r"packs\.idx"):
                await use()

    async def test_a_locked_index_raises_busy(self, repo, folder, monkeypatch):
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

    async def test_a_pack_that_changes_during_a_read_is_read_again(self, repo, folder, monkeypatch):
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

    async def test_objects_deleted_during_verify_are_not_damaged(self, repo, folder):
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


def test_delete_raises_busy_while_the_index_is_locked(tmp_path, monkeypatch):
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


class TestFileSystems:
    async def test_a_read_only_folder_is_readable(self, folder):
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

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
    async def test_a_full_disk_raises_and_leaves_nothing(self, repo, folder):
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

    async def test_maintain_fsyncs_a_pack_before_the_index_commit(self, repo, folder, monkeypatch):
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

    async def test_put_fsyncs_the_folders_of_a_new_object(self, repo, folder, monkeypatch):
        flushed = []
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
        key = await repo.put(b"content")
        assert str(folder / "loose" / key[:2]) in flushed
        assert str(folder / "loose") in flushed
