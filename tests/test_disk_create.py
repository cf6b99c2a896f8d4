"""Creating and erasing repositories on disk: at any path, after a crash, under any umask."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import anyio
import pytest
from disk_objectstore import Container

from objrepo import (
    DiskRepository,
    NotInitialisedError,
    RepositoryError,
)

SYNC = """\
import sys, objrepo; from objrepo.offload import Inline; from objrepo.sync import SyncRepository
repo = SyncRepository(objrepo.DiskRepository(sys.argv[1], Inline()))"""

NAMES = [
    b"100% sure?",
    b"%20",
    b"a#b&c=d;e",
    b"two\nlines",
    b"\xff\xfe",
    b":memory:",
    b"file:x?mode=memory&cache=shared",
    b"n" * 255,
    "ä".encode() * 127,
]


@pytest.fixture
def anyio_backend():
    """One event loop is enough: these tests are about files."""
    return "asyncio"


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_any_path_that_the_system_allows(tmp_path, name):
    (tmp_path / "parent").mkdir()
    folder = tmp_path / "parent" / os.fsdecode(name)
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        loose = await repo.put(b"loose")
        packed = await repo.put_many([b"one", b"two"])
        await repo.maintain()
        await repo.delete(packed[0])
        await repo.maintain(live=False)
        await repo.repair(live=False)
        assert (await repo.verify()).ok
        assert sorted([key async for key in repo.keys()]) == sorted([loose, packed[1]])
        assert await repo.get(loose) == b"loose"
    assert os.listdir(os.fsencode(tmp_path / "parent")) == [name]
    assert (folder / "packs.idx").stat().st_size > 0
    async with DiskRepository(folder) as repo:
        await repo.initialise(clear=True)
        assert not await repo.has(loose)
        await repo.erase()
    assert os.listdir(tmp_path / "parent") == []


async def make(folder):
    """Create a repository with a loose and two packed objects."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        await repo.put(b"loose")
        await repo.put_many([b"one", b"two"])


KILLED = """
import os, shutil, signal, sys, anyio, objrepo
def rmtree(path):
    victims = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    for victim in victims[:int(sys.argv[2])]:
        os.unlink(victim)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "in place":
    real = os.rename
    def rename(source, target):
        if source == objrepo.DiskRepository(sys.argv[1]).path:
            raise OSError(16, "Device or resource busy")
        real(source, target)
    os.rename = rename
async def main():
    async with objrepo.DiskRepository(sys.argv[1]) as repo:
        shutil.rmtree = rmtree
        await repo.erase()
anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the work is that of other processes
@pytest.mark.parametrize("files", [0, 2, 100])
@pytest.mark.parametrize("how", ["renamed", "in place"])
class TestAnEraseThatWasKilled:
    @pytest.fixture
    async def erased(self, tmp_path, files, how):
        (tmp_path / "parent").mkdir()
        folder = tmp_path / "parent" / "a[b]*"
        await make(folder)
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(files), how], check=False)
        assert done.returncode == -signal.SIGKILL
        assert os.listdir(tmp_path / "parent"), "the erase was not finished"
        return folder

    async def test_the_repository_does_not_exist(self, erased):
        async with DiskRepository(erased) as repo:
            assert not await repo.is_initialised()
            with pytest.raises(NotInitialisedError):
                await repo.put(b"content")

    async def test_erase_finishes_it(self, erased):
        async with DiskRepository(erased) as repo:
            await repo.erase()
        assert os.listdir(erased.parent) == []

    @pytest.mark.parametrize("clear", [False, True])
    async def test_initialise_creates_a_new_repository(self, erased, clear, caplog):
        async with DiskRepository(erased) as repo:
            await repo.initialise(clear=clear)
            assert [key async for key in repo.keys()] == []
            assert await repo.get(await repo.put(b"content")) == b"content"
        assert os.listdir(erased.parent) == [erased.name]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestAFolderWithoutItsConfiguration:
    """As releases before 1.0 left it when an erase was interrupted."""

    @pytest.fixture(params=["all", "no objects", "no index", "folders only"])
    async def remains(self, tmp_path, request):
        folder = tmp_path / "parent" / "repository"
        await make(folder)
        (folder / "config.json").unlink()
        if request.param == "no index":
            (folder / "packs.idx").unlink()
        elif request.param != "all":
            shutil.rmtree(folder / "packs")
            shutil.rmtree(folder / "loose")
        if request.param == "folders only":
            for path in folder.iterdir():
                path.unlink() if path.is_file() else None
        return folder

    async def test_erase_finishes_it(self, remains):
        async with DiskRepository(remains) as repo:
            assert not await repo.is_initialised()
            await repo.erase()
        assert os.listdir(remains.parent) == []

    async def test_initialise_with_clear_replaces_it(self, remains):
        async with DiskRepository(remains) as repo:
            await repo.initialise(clear=True)
            assert [key async for key in repo.keys()] == []
        assert os.listdir(remains.parent) == [remains.name]

    async def test_initialise_keeps_objects_under_another_name(self, remains, caplog):
        files = {path.name for path in remains.rglob("*") if path.parent.parent.name in {"loose", "repository"}}
        async with DiskRepository(remains) as repo:
            await repo.initialise()
            assert [key async for key in repo.keys()] == []
            assert await repo.get(await repo.put(b"content")) == b"content"
        kept = [path for path in remains.parent.iterdir() if path != remains]
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        if not files:
            assert kept == []
            assert warnings == []
        else:
            (folder,) = kept
            (warning,) = warnings
            assert str(folder) in warning
            assert files <= {path.name for path in folder.rglob("*")}


async def test_an_incomplete_repository_is_not_replaced(tmp_path):
    folder = tmp_path / "repository"
    await make(folder)
    shutil.rmtree(folder / "loose")
    async with DiskRepository(folder) as repo:
        with pytest.raises(NotInitialisedError, match=r"is incomplete.*restore it from a backup"):
            await repo.initialise()
        assert (folder / "packs" / "1000000").stat().st_size == 6
        await repo.erase()
    assert os.listdir(tmp_path) == []


async def test_invalid_options_delete_nothing(tmp_path):
    await make(tmp_path / "repository")
    async with DiskRepository(tmp_path / "repository") as repo:
        with pytest.raises(ValueError, match="md5"):
            await repo.initialise(clear=True, hash_type="md5")
        assert (await repo.info()).objects == 3
    assert os.listdir(tmp_path) == ["repository"]


async def test_a_symbolic_link_to_a_repository(tmp_path):
    await make(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with DiskRepository(tmp_path / "link") as repo:
        await repo.erase()
        assert not (tmp_path / "real").exists()
        await repo.initialise()
        assert await repo.get(await repo.put(b"content")) == b"content"
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


async def test_many_erase_at_the_same_time(tmp_path):
    folder = tmp_path / "repository"
    script = f"{SYNC}; repo.erase()"
    async with DiskRepository(folder) as repo:
        await repo.initialise(loose_prefix_len=0)
        for number in range(300):
            await repo.put(b"%d" % number)
    erasing = [subprocess.Popen([sys.executable, "-c", script, str(folder)]) for _ in range(3)]
    assert [process.wait() for process in erasing] == [0, 0, 0]
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
async def test_a_mount_point(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        await make(folder)
        async with DiskRepository(folder) as repo:
            await repo.erase()
            assert os.listdir(folder) == []
            await repo.initialise()
            await repo.initialise(clear=True)
            assert await repo.get(await repo.put(b"content")) == b"content"
            assert (await repo.verify()).ok
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_folder_that_holds_other_files_is_not_erased(tmp_path):
    await make(tmp_path / "repository")
    (tmp_path / "repository" / "config.json").unlink()
    (tmp_path / "repository" / "thesis.tex").write_text("all of it")
    async with DiskRepository(tmp_path / "repository") as repo:
        for use in (repo.erase, repo.initialise, lambda: repo.initialise(clear=True)):
            with pytest.raises((RepositoryError, FileExistsError)):
                await use()
    assert (tmp_path / "repository" / "thesis.tex").read_text() == "all of it"
    assert os.listdir(tmp_path) == ["repository"]


class TestInitialise:
    async def test_initialise_takes_the_options_of_a_container(self, folder):
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
    async def test_invalid_options_raise_and_create_nothing(self, folder, options, error):
        async with DiskRepository(folder) as repo:
            with pytest.raises(error):
                await repo.initialise(**options)
            assert not await repo.is_initialised()
        assert not folder.exists()
        assert os.listdir(folder.parent) == []

    async def test_clear_replaces_the_repository(self, repo):
        key = await repo.put(b"content")
        uuid = await repo.uuid()
        await repo.initialise(clear=True, hash_type="sha1")
        assert not await repo.has(key)
        assert await repo.uuid() != uuid
        assert await repo.key_format() == "sha1"

    async def test_files_and_other_folders_are_not_initialised(self, tmp_path):
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

    async def test_concurrent_initialise_creates_one_repository(self, folder):
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
    async def test_initialise_where_rename_onto_a_folder_fails(self, folder, monkeypatch, others):
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

    async def test_initialise_where_rename_fails_raises_repository_error(self, folder, monkeypatch):
        def rename(source, target):
            (folder / "other").mkdir(parents=True)
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
    async def test_a_damaged_or_newer_configuration_raises_repository_error(self, repo, folder, text, says):
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

    async def test_other_types_of_path_raise_type_error(self):
        for nothing in (None, 7, b"bytes"):
            with pytest.raises(TypeError):
                DiskRepository(nothing)

    async def test_a_repository_erased_by_another_process_raises_not_initialised(self, repo, folder):
        key = await repo.put(b"content")
        shutil.rmtree(folder)
        with pytest.raises(NotInitialisedError):
            await repo.get(key)
        await repo.initialise()
        assert not await repo.has(key)
