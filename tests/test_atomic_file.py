"""Files that appear complete: exports, backups and files of `objrepo get`."""

from __future__ import annotations

import errno
import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from helpers import files_in
from objrepo import MemoryRepository, export
from objrepo.atomic_file import AtomicFile
from objrepo.testing.fixtures import content_of


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def durable_names(monkeypatch):
    """The names that would survive a power failure: those in a directory at its last fsync, with synced content."""
    synced, names, real = set(), {}, os.fsync

    def fsync(file):
        real(file)
        descriptor = file if isinstance(file, int) else file.fileno()
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            for entry in os.scandir(descriptor):
                if entry.inode() in synced:
                    names[entry.name] = entry.inode()
        else:
            synced.add(status.st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


@pytest.fixture
async def repo():
    async with MemoryRepository() as repo:
        await repo.put(b"content")
        yield repo


@pytest.mark.parametrize("name", ["new.zip", "new.tar", "updated.zip"])
async def test_an_export_is_durable_when_it_returns(repo, tmp_path, durable_names, name):
    path = tmp_path / name
    await export(repo, path, update=name == "updated.zip", check=name != "new.tar")
    assert durable_names[name] == path.stat().st_ino
    if name == "updated.zip":
        await repo.put(b"more content")
        await export(repo, path, update=True)
        assert durable_names[name] == path.stat().st_ino


@pytest.mark.parametrize("update", [False, True])
async def test_an_export_does_not_change_the_umask_of_other_threads(repo, tmp_path, monkeypatch, update):
    real, other = os.umask, tmp_path / "file of another thread"

    def changed_umask(mask):
        before = real(mask)
        with ThreadPoolExecutor(1) as another_thread:
            another_thread.submit(other.touch).result()
        return before

    with umask(0o077):
        monkeypatch.setattr(os, "umask", changed_umask)
        await export(repo, tmp_path / "some.zip", update=update)
        monkeypatch.undo()
        other.touch()
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


async def test_an_export_that_fails_names_the_file(repo, tmp_path):
    await repo.put(content_of(3_000_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for update in (False, True):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                await export(repo, tmp_path / "some.zip", update=update)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.filename == str(tmp_path / "some.zip")
    assert files_in(tmp_path) == {".some.zip.partial"}, "an update can be continued"


class TestAtomicFile:
    @pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0])
    def test_the_umask_is_honoured(self, tmp_path, mask):
        for resumable in (None, tmp_path / ".partial"):
            with umask(mask), AtomicFile(tmp_path / "file", replace=True, resumable=resumable) as file:
                file.publish()
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
            (tmp_path / "file").unlink()

    @pytest.mark.parametrize("resumable", [False, True])
    def test_a_private_file_is_replaced_by_a_private_one(self, tmp_path, resumable):
        path = tmp_path / "file"
        path.touch(0o600)
        with AtomicFile(path, replace=True, resumable=tmp_path / ".partial" if resumable else None) as file:
            assert stat.S_IMODE(file.temporary.stat().st_mode) == 0o600, (
                "only its owner can read it while it is written"
            )
            file.file.write(b"content")
            file.publish()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == b"content"
        assert os.listdir(tmp_path) == ["file"]

    def test_an_unpublished_file_is_removed_and_a_resumable_one_is_kept(self, tmp_path):
        with pytest.raises(KeyError), AtomicFile(tmp_path / "file") as file:
            assert os.listdir(tmp_path) == [file.temporary.name]
            raise KeyError
        assert os.listdir(tmp_path) == []
        for content in (b"", b"part"):
            with AtomicFile(tmp_path / "file", replace=True, resumable=tmp_path / ".partial") as file:
                assert file.file.read() == content
                file.file.write(b"part")
        assert os.listdir(tmp_path) == [".partial"]

    @pytest.mark.parametrize("links", [True, False])
    def test_a_new_file_never_replaces_one_that_was_created_meanwhile(self, tmp_path, monkeypatch, links):
        def without_links(*args):
            raise OSError(errno.EPERM, "Operation not permitted")

        if not links:
            monkeypatch.setattr(os, "link", without_links)
        with AtomicFile(tmp_path / "new") as file:
            file.file.write(b"content")
            file.publish()
        assert (tmp_path / "new").read_bytes() == b"content"
        with AtomicFile(tmp_path / "file") as file:
            (tmp_path / "file").write_bytes(b"another program's")
            with pytest.raises(FileExistsError, match="the file exists"):
                file.publish()
        assert (tmp_path / "file").read_bytes() == b"another program's"
        assert sorted(os.listdir(tmp_path)) == ["file", "new"]

    def test_a_device_or_a_pipe_is_not_replaced(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        os.mkfifo(workdir / "pipe")
        status, _, err = run_objrepo("get", key, "-o", "pipe")
        assert (status, "not a regular file" in err) == (1, True)
        assert (workdir / "pipe").is_fifo()
