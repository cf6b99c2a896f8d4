"""Backups and exports: updated, continued after an interruption, read back."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import anyio
import pytest

from helpers import OBJREPO, files_in
from objrepo import (
    ArchiveRepository,
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    RepositoryBusyError,
    SandboxRepository,
    copy,
    export,
)
from objrepo.exporting.writers import ZipWriter
from objrepo.memory import MemoryBackend
from objrepo.repository import Repository
from objrepo.testing.fixtures import content_of

CONTENTS = [b"", b"small", b"zeros" * 1000, content_of(200_000), content_of(3_000_000)]


class RecordingRepository(MemoryRepository):
    """A repository that records which objects are read."""

    def __init__(self):
        super().__init__()
        self.read = []

    def stream(self, keys, check=None):
        self.read += keys
        return super().stream(keys)


@pytest.fixture
async def repo():
    async with RecordingRepository() as repo:
        yield repo


async def content_in(path):
    async with ArchiveRepository(path) as archive:
        assert (await archive.verify()).ok
        return {key: await archive.get(key) async for key in archive.keys()}


class TestUpdate:
    async def test_only_new_objects_are_read_and_added(self, repo, tmp_path):
        path = tmp_path / "backup.zip"
        keys = await repo.put_many(CONTENTS[:3])
        assert (await export(repo, path, update=True, check=True)).copied == 3
        before = path.read_bytes()
        keys += await repo.put_many(CONTENTS[3:])
        repo.read.clear()
        report = await export(repo, path, update=True, check=True)
        assert (report.objects, report.copied, report.size) == (5, 2, 3_200_000)
        assert sorted(repo.read) == sorted(keys[3:])
        assert path.read_bytes().startswith(before[: before.index(b"PK\1\2")]), "existing members are copied unchanged"
        assert await content_in(path) == dict(zip(keys, CONTENTS, strict=True))
        repo.read.clear()
        assert (await export(repo, path, update=True)).copied == 0
        assert repo.read == []

    async def test_deleted_objects_and_other_members_remain(self, repo, tmp_path):
        path = tmp_path / "some.aiida"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.json", "{}")
            archive.mkdir("repo")
        key = await repo.put(b"first")
        await export(repo, path, update=True, compress=True)
        await repo.delete(key)
        new = await repo.put(b"second")
        await export(repo, path, update=True)
        assert await content_in(path) == {key: b"first", new: b"second"}
        with zipfile.ZipFile(path) as archive:
            assert archive.read("metadata.json") == b"{}"
            assert archive.testzip() is None

    @pytest.mark.parametrize("when", [0, 1, 2])
    async def test_an_interrupted_update_continues(self, repo, tmp_path, when):
        path = tmp_path / "backup.zip"
        keys = await repo.put_many(b"%d" % number * 300 for number in range(2500))

        def stop(progress):
            if progress.done > when * 1000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await export(repo, path, update=True, progress=stop)
        assert not path.exists()
        repo.read.clear()
        report = await export(repo, path, update=True, check=True)
        assert report.copied == 2500 - min(when * 1000 + 1000, 2500)
        assert len(repo.read) == report.copied
        assert sorted(await content_in(path)) == sorted(keys)
        assert files_in(tmp_path) == {"backup.zip"}

    async def test_an_update_continues_from_a_partial_file_torn_anywhere(self, repo, tmp_path):
        path = tmp_path / "backup.zip"
        await repo.put_many(CONTENTS)
        await export(repo, tmp_path / "whole.zip")
        whole = (tmp_path / "whole.zip").read_bytes()
        expected = await content_in(tmp_path / "whole.zip")
        chance = random.Random(1)
        for _ in range(40):
            torn = bytearray(whole[: chance.randrange(len(whole))])
            if torn and chance.random() < 0.7:
                start = chance.randrange(len(torn))
                torn[start : start + chance.randrange(100)] = b"\0" * chance.randrange(100)
            (tmp_path / ".backup.zip.partial").write_bytes(torn)
            await export(repo, path, update=True, check=True)
            assert await content_in(path) == expected
            path.unlink()

    async def test_a_partly_written_object_is_written_again(self, repo, tmp_path):
        """Its checksum is right, but its content does not have the hash that its key is."""
        key = await repo.put(CONTENTS[-1])
        with zipfile.ZipFile(tmp_path / ".backup.zip.partial", "w") as archive:
            archive.writestr(f"repo/{key}", CONTENTS[-1][:1_000_000])
        await export(repo, tmp_path / "backup.zip", update=True)
        assert await content_in(tmp_path / "backup.zip") == {key: CONTENTS[-1]}

    async def test_an_archive_that_fails_its_check_does_not_replace_the_previous_one(self, repo, tmp_path, monkeypatch):
        path = tmp_path / "backup.zip"
        key = await repo.put(b"good")
        await export(repo, path, update=True, check=True)
        new = await repo.put(b"bad")
        real = ZipWriter.add
        monkeypatch.setattr(ZipWriter, "add", lambda self, key, size, reader: real(self, key, size, io.BytesIO(b"BAD")))
        with pytest.raises(CorruptObjectError, match=new):
            await export(repo, path, update=True, check=True)
        monkeypatch.undo()
        assert await content_in(path) == {key: b"good"}
        await export(repo, path, update=True, check=True)
        assert await content_in(path) == {key: b"good", new: b"bad"}

    async def test_two_updates_of_one_archive_exclude_each_other(self, repo, tmp_path):
        path = tmp_path / "backup.zip"
        await repo.put(b"content")
        under_way, go_on = anyio.Event(), anyio.Event()

        class Slow(RecordingRepository):
            async def keys(self):
                under_way.set()
                await go_on.wait()
                async for key in super().keys():
                    yield key

        async with Slow() as slow, anyio.create_task_group() as group:
            group.start_soon(lambda: export(slow, path, update=True))
            await under_way.wait()
            with pytest.raises(RepositoryBusyError, match="another process or task is updating"):
                await export(repo, path, update=True)
            go_on.set()
        assert (await export(repo, path, update=True)).copied == 1

    async def test_an_interrupted_update_starts_again_if_keys_are_not_hashes(self, tmp_path):
        path = tmp_path / "some.zip"
        async with SandboxRepository() as repo:
            await repo.initialise()
            keys = await repo.put_many([b"1", b"2"])
            with pytest.raises(KeyError):
                await export(repo, path, update=True, progress=lambda progress: {}["stop"])
            assert (await export(repo, path, update=True)).copied == 2
            await repo.put(b"3")
            assert (await export(repo, path, update=True)).copied == 1
        with zipfile.ZipFile(path) as archive:
            assert {f"repo/{key}" for key in keys} < set(archive.namelist())

    async def test_a_file_that_is_not_a_zip_is_left_as_it_is(self, repo, tmp_path):
        await repo.put(b"content")
        (tmp_path / "thesis.zip").write_bytes(b"no zip at all")
        with pytest.raises(zipfile.BadZipFile):
            await export(repo, tmp_path / "thesis.zip", update=True)
        assert (tmp_path / "thesis.zip").read_bytes() == b"no zip at all"


class TestTars:
    @pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
    async def test_every_object_is_a_member_of_a_tar(self, repo, tmp_path, suffix):
        path = tmp_path / f"some{suffix}"
        keys = await repo.put_many(CONTENTS)
        assert (await export(repo, path)).copied == len(CONTENTS)
        with tarfile.open(path) as archive:
            there = {name: archive.extractfile(name).read() for name in archive.getnames()}
        assert there == {f"repo/{key}": content for key, content in zip(keys, CONTENTS, strict=True)}
        with pytest.raises(FileExistsError):
            await export(repo, path)

    async def test_options_of_zips_raise_for_a_tar(self, repo, tmp_path):
        for options in ({"compress": True}, {"update": True}, {"check": True}):
            with pytest.raises(ValueError, match="is a tar"):
                await export(repo, tmp_path / "some.tar", **options)
        assert files_in(tmp_path) == set()

    async def test_other_compressions_are_refused(self, repo, tmp_path):
        with pytest.raises(ValueError, match=r"some\.tar\.zst: end the name in \.tar, \.tar\.gz, .*, or \.zip"):
            await export(repo, tmp_path / "some.tar.zst")
        with pytest.raises(IsADirectoryError, match="add the name of a file"):
            await export(repo, ".")
        assert files_in(tmp_path) == set()


class ZeroingBackend(MemoryBackend):
    def open(self, key, offset=0, length=None):
        opened = super().open(key, offset, length)
        return opened._replace(head=b"\0" * len(opened.head))


class ZeroingRepository(MemoryRepository):
    """A repository that returns zeros."""

    def __init__(self):
        Repository.__init__(self, ZeroingBackend())


class TestCopyWithCheck:
    @pytest.mark.parametrize("content", [b"small", content_of(3_000_000)], ids=len)
    async def test_a_different_content_in_the_target_raises(self, repo, content):
        key = await repo.put(content)
        async with ZeroingRepository() as target:
            with pytest.raises(CorruptObjectError, match=key):
                await copy(repo, target, check=True)

    @pytest.mark.parametrize("make", [MemoryRepository, SandboxRepository])
    async def test_equal_contents_in_the_target_pass(self, repo, make):
        await repo.put_many(CONTENTS)
        async with make() as target:
            await target.initialise()
            assert (await copy(repo, target, check=True)).copied == len(CONTENTS)
            assert sorted([await target.get(key) async for key in target.keys()]) == sorted(CONTENTS)


class TestCommands:
    def test_backup_and_restore(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(3)]
        for target in ("backup", "backup.zip", "disk:other%20backup"):
            assert run_objrepo("backup", target)[:2] == (0, b"3 objects, 3 new (3 bytes), read back, 0 damaged\n")
            report = json.loads(run_objrepo("backup", target, "--json")[1])
            assert (report["objects"], report["copied"]) == (3, 0)
        shutil.rmtree(workdir / ".objrepo")
        status, out, _ = run_objrepo("restore", "backup.zip", keys[0])
        assert (status, out) == (0, b"1 object, 1 restored (1 byte), 0 damaged\n")
        for source, restored in (("backup.zip", 2), ("backup", 0), ("other backup", 0)):
            report = json.loads(run_objrepo("restore", source, "--json")[1])
            assert (report["copied"], report["damaged"]) == (restored, [])
        assert sorted(run_objrepo("ls")[1].decode().split()) == sorted(keys)

    def test_damaged_objects_are_reported_and_not_in_the_backup(self, workdir, run_objrepo):
        good, bad = (run_objrepo("put", "-", stdin=content)[1].split()[0].decode() for content in (b"good", b"bad"))
        path = workdir / ".objrepo" / "loose" / bad[:2] / bad[2:]
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        for target in ("backup", "backup.zip"):
            status, out, _ = run_objrepo("backup", target)
            assert (status, out.decode().split("  ")[0]) == (1, bad)
            assert run_objrepo("ls", "--repo", target)[1].decode().split() == [good]

    def test_misuse_is_explained_and_creates_nothing(self, workdir, run_objrepo):
        run_objrepo("init")
        for arguments, reason in (
            (("backup", "https://host/some.zip"), "must be a local file"),
            (("backup", "backup", "--compress"), "--compress is for archives"),
            (("backup", "backup.tar.gz"), "cannot add to backup.tar.gz"),
            (("sync", ".objrepo", "sandbox:"), "has different keys in"),
        ):
            status, _, err = run_objrepo(*arguments)
            assert (status, reason in err) == (2, True)
        for arguments in (("backup", "backup"), ("restore", "nothing"), ("sync", "nothing", "backup")):
            status, _, err = run_objrepo(*arguments, env={"OBJREPO": "nowhere"}.items())
            assert (status, len(err.splitlines())) == (1, 1)
            assert not (workdir / "backup").exists(), "without a source nothing is made"
            assert not (workdir / "nowhere").exists()

    def test_backups_keep_the_key_format(self, workdir, run_objrepo):
        run_objrepo("init", "--hash-type", "sha1")
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        assert run_objrepo("backup", "backup")[0] == 0
        assert run_objrepo("restore", "backup", "--repo", "again")[0] == 0
        assert run_objrepo("sync", "again", "third")[0] == 0
        assert run_objrepo("copy", "again", "fourth")[0] == 0
        for repo in ("backup", "again", "third", "fourth"):
            assert run_objrepo("cat", key, "--repo", repo)[1] == b"content"
        assert run_objrepo("init", "--repo", "other")[0] == 0
        for arguments in (("backup", "backup.zip"), ("backup", "other"), ("backup", "sandbox:")):
            status, _, err = run_objrepo(*arguments)
            assert (status, "sha1" in err) == (2, True)
        status, _, err = run_objrepo("restore", "other")
        assert (status, "sha256" in err) == (2, True)
        assert not (workdir / "backup.zip").exists()

    def test_sync_copies_both_ways(self, run_objrepo):
        one = run_objrepo("put", "-", stdin=b"1")[1].split()[0].decode()
        two = run_objrepo("put", "-", "--repo", "other", stdin=b"22")[1].split()[0].decode()
        lines = ["1 object to other (1 byte)", "1 object to .objrepo (2 bytes)"]
        assert run_objrepo("sync", ".objrepo", "other")[1].decode().splitlines() == lines
        for repo in (".objrepo", "other"):
            assert sorted(run_objrepo("ls", "--repo", repo)[1].decode().split()) == sorted([one, two])
        done = json.loads(run_objrepo("sync", ".objrepo", "other", "--json")[1])
        assert (done["first_to_second"]["copied"], done["second_to_first"]["copied"]) == (0, 0)

    @pytest.mark.parametrize("target", ["backup", "backup.zip"])
    def test_a_backup_that_was_killed_continues_when_run_again(self, tmp_path, target):
        async def fill():
            async with DiskRepository(tmp_path / ".objrepo") as repo:
                await repo.initialise()
                return await repo.put_many(b"%d" % number * 20_000 for number in range(2000))

        keys = anyio.run(fill)
        command = [*OBJREPO, "backup", target, "--json"]
        kills = 0
        for wait in (0.4, 0.5, 0.6, 0.6):
            with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
        assert kills, "no process was killed in time"
        last = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        assert json.loads(last.stdout)["objects"] == 2000
        verified = [sys.executable, "-m", "objrepo", "verify", "--repo", target]
        assert subprocess.run(verified, cwd=tmp_path, capture_output=True, check=True).stdout.startswith(
            b"2,000 objects"
        )
        listed = subprocess.run([*OBJREPO, "ls", "--repo", target], cwd=tmp_path, capture_output=True, check=True)
        assert sorted(listed.stdout.decode().split()) == sorted(keys)
