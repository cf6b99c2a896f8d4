"""Fsync of files and directories on every system and file system."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys

import pytest

from objrepo import DiskRepository, fsync
from objrepo.fsync import fsync_directory, fsync_file

CONTENT = b"content"


def refuse_directories(monkeypatch, number):
    """Let fsync of directories fail as it does on a file system that does not support it."""
    real = os.fsync

    def fake(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fake)
    monkeypatch.setattr(fsync, "_reported", set())


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
async def test_a_file_system_without_fsync_of_directories_is_logged_once(tmp_path, monkeypatch, caplog, number):
    refuse_directories(monkeypatch, number)
    with caplog.at_level(logging.WARNING, "objrepo"):
        for name in ("one", "two"):
            async with DiskRepository(tmp_path / name) as repo:
                await repo.initialise()
                key = await repo.put(CONTENT)
                keys = await repo.put_many([b"a", b"b", b"c"])
                await repo.maintain()
                await repo.maintain(live=False)
                assert await repo.get(key) == CONTENT
                await repo.delete(keys[0])
                await repo.erase()
    (record,) = caplog.records
    assert "does not support fsync of directories" in record.getMessage()
    assert os.strerror(number) in record.getMessage()


async def test_an_input_output_error_of_a_directory_is_an_error(tmp_path, monkeypatch):
    async with DiskRepository(tmp_path / "repository") as repo:
        await repo.initialise()
        refuse_directories(monkeypatch, errno.EIO)
        with pytest.raises(OSError, match="Input/output error") as caught:
            await repo.put(CONTENT)
        assert caught.value.errno == errno.EIO
        monkeypatch.undo()
        key = await repo.put(CONTENT)
        assert await repo.get(key) == CONTENT


def test_without_fcntl(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with open(tmp_path / "file", "wb") as file:
        file.write(CONTENT)
        fsync_file(file)
        assert (tmp_path / "file").read_bytes() == CONTENT


def fullfsync(monkeypatch, number):
    """Emulate macOS's F_FULLFSYNC, failing with an errno unless it is 0; return the calls that succeeded."""
    synced = []

    def fcntl(descriptor, command):
        if number:
            raise OSError(number, os.strerror(number))
        synced.append(command)

    monkeypatch.setattr("fcntl.F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr("fcntl.fcntl", fcntl)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append("fsync"))
    return synced


@pytest.mark.parametrize(("number", "expected"), [(0, [51]), (errno.ENOTSUP, ["fsync"]), (errno.ENOTTY, ["fsync"])])
def test_macos_uses_fullfsync_where_the_file_system_supports_it(tmp_path, monkeypatch, number, expected):
    synced = fullfsync(monkeypatch, number)
    with open(tmp_path / "file", "wb") as file:
        fsync_file(file)
    assert synced == expected


def test_an_input_output_error_of_fullfsync_is_an_error(tmp_path, monkeypatch):
    fullfsync(monkeypatch, errno.EIO)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="Input/output error"):
        fsync_file(file)


def test_without_a_way_to_open_directories(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", None)
    fsync_directory(tmp_path)
