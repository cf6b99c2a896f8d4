"""One journal commit for a file and its name: where it is used, and what a `put` does then."""

from __future__ import annotations

import errno
import os

import pytest

from helpers import loose_file
from objrepo import DiskRepository
from objrepo.disk import one_commit, session
from objrepo.disk.one_commit import orders_metadata, write_back
from objrepo.offload import Inline
from objrepo.sync import SyncRepository

pytestmark = pytest.mark.skipif(one_commit._sync_file_range() is None, reason="a call of Linux")

ORDERED = "rw\nbarrier\ndata=ordered\ncommit=5\n"
MOUNT = "43 27 {number} / /mnt rw,relatime shared:1 - xfs /dev/sdx {options}\n"


@pytest.fixture
def system(tmp_path):
    """Return a function that writes what the kernel says of the device that `tmp_path` is on."""
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"

    def write(files):
        (tmp_path / "sys/dev/block").mkdir(parents=True)
        (tmp_path / "sys/dev/block" / number).symlink_to("../../devices/virtual/block/sdx")
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir()
            else:
                path.write_text(content.replace("{number}", number))
        return tmp_path

    return write


def ext4(options):
    return {"proc/fs/jbd2/sdx-8": None, "proc/fs/ext4/sdx/options": options}


def xfs(*mounts):
    return {"sys/fs/xfs/sdx": None, "proc/self/mountinfo": "".join(mounts)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (ext4(ORDERED), True),
        (ext4(ORDERED.replace("ordered", "writeback")), False),
        (ext4(ORDERED.replace("ordered", "journal")), False),
        (ext4(ORDERED.replace("barrier", "nobarrier")), False),
        (ext4(f"{ORDERED}journal_async_commit\n"), False),
        (ext4(f"{ORDERED}fast_commit\n"), False),
        ({"proc/fs/jbd2/sdx-8": None}, False),
        ({"proc/fs/ext4/sdx/options": ORDERED}, False),  # no journal, or one on another device
        (xfs(MOUNT.replace("{options}", "rw,inode64")), True),
        (xfs(MOUNT.replace("{options}", "rw,logdev=/dev/sdy")), False),
        (xfs(MOUNT.replace("{options}", "rw,nobarrier")), False),
        (xfs(MOUNT.replace("{number}", "0:1")), False),
        ({}, False),
    ],
)
def test_file_systems_that_order_their_metadata(system, tmp_path, files, expected):
    assert orders_metadata(tmp_path, system(files)) is expected


def test_a_file_system_that_is_no_block_device(tmp_path):
    assert orders_metadata(tmp_path, tmp_path) is False
    assert orders_metadata(tmp_path / "missing") is False


def test_without_the_system_call(system, tmp_path, monkeypatch):
    monkeypatch.setattr(one_commit, "_sync_file_range", lambda: None)
    assert orders_metadata(tmp_path, system(ext4(ORDERED))) is False


class TestWriteBack:
    def test_the_data_is_written(self, tmp_path):
        with open(tmp_path / "file", "wb", buffering=0) as file:
            file.write(b"content")
            write_back(file)

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
    def test_a_system_that_refuses_the_call_flushes(self, tmp_path, monkeypatch, number):
        flushed = []
        monkeypatch.setattr(one_commit, "_sync_file_range", lambda: lambda *_: number)
        monkeypatch.setattr(os, "fsync", flushed.append)
        with open(tmp_path / "file", "wb", buffering=0) as file:
            write_back(file)
            assert flushed == [file.fileno()]

    def test_a_closed_descriptor_is_an_error(self, tmp_path):
        class Closed:
            def fileno(self):
                return 10_000

        with pytest.raises(OSError, match="Bad file descriptor"):
            write_back(Closed())


class TestPut:
    @pytest.fixture
    def opened(self, tmp_path, monkeypatch):
        monkeypatch.setattr(session, "orders_metadata", lambda folder: True)
        with SyncRepository(DiskRepository(tmp_path / "repository", Inline())) as repo:
            repo.initialise()
            yield repo

    def test_it_flushes_once(self, opened, monkeypatch):
        flushed = []
        monkeypatch.setattr(os, "fsync", flushed.append)
        for content in (b"content", b"large" * 100_000, b"content"):
            flushed.clear()
            key = opened.put(content)
            assert len(flushed) == 1
            assert opened.get(key) == content
        assert os.listdir(opened._repository.path / "sandbox") == []

    def test_an_object_that_exists_is_written_again(self, opened):
        key = opened.put(b"content")
        path = loose_file(opened._repository.path, key)
        before = path.stat().st_ino
        path.write_bytes(b"damaged")
        assert opened.put(b"content") == key
        assert path.read_bytes() == b"content"
        assert path.stat().st_ino != before

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
    def test_an_error_of_the_write_back_stores_nothing(self, opened, monkeypatch, number):
        monkeypatch.setattr(one_commit, "_sync_file_range", lambda: lambda *_: number)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            opened.put(b"content")
        assert caught.value.filename is not None
        assert list(opened.keys()) == []
        assert os.listdir(opened._repository.path / "sandbox") == []
