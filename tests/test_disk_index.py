"""The index of packed objects: in read-only places, on file systems that SQLite does not support, and its errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile

import pytest

from objrepo import DiskRepository, RepositoryBusyError, RepositoryError
from objrepo.disk.index import index_error
from processes import drop_capabilities

WRITE = """
import os, sys, anyio, objrepo
async def main():
    async with objrepo.DiskRepository(sys.argv[1]) as repo:
        await repo.initialise()
        await repo.put_many(b"%d" % number for number in range(50))
        os._exit(0)  # the 50 commits stay in packs.idx-wal
anyio.run(main)
"""

READ = """
import sys, anyio, objrepo
copies = []
sys.addaudithook(lambda event, arguments: copies.append(arguments) if event == "tempfile.mkdtemp" else None)
async def main():
    async with objrepo.DiskRepository(sys.argv[1]) as repo:
        keys = [key async for key in repo.keys()]
        contents = sorted([await repo.get(key) for key in keys], key=int)
        assert contents == [b"%d" % number for number in range(50)], contents
        assert (await repo.verify()).objects == 50
        for _ in range(3):
            assert await repo.has_many(keys) == [True] * 50
        made = len(copies)
        for write in (lambda: repo.put_many([b"x", b"y"]), lambda: repo.delete(keys[0]), repo.maintain):
            try:
                await write()
            except (OSError, objrepo.RepositoryError):
                pass
            else:
                assert sys.argv[2] == "writable", "it was acknowledged"
        print(made)
anyio.run(main)
"""


@pytest.fixture
def anyio_backend():
    """One event loop is enough: these tests are about files."""
    return "asyncio"


@pytest.fixture
def killed(tmp_path):
    """A repository whose last commits are in ``packs.idx-wal`` only."""
    folder = tmp_path / "repository"
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True)
    assert (folder / "packs.idx-wal").stat().st_size > 0
    return folder


@contextlib.contextmanager
def read_only_mount(folder):
    """Mount a folder onto itself, read-only."""
    done = subprocess.run(["mount", "--bind", str(folder), str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not permitted")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def modes(folder, directories, files):
    """Change the modes of all files and folders in a folder."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(directories if path.is_dir() else files)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o777)


PLACES = {
    "mount": (read_only_mount, {}, "read-only"),
    "nothing writable": (modes, dict(directories=0o555, files=0o444), "read-only"),
    "directories writable": (modes, dict(directories=0o755, files=0o444), "writable"),
    "files writable": (modes, dict(directories=0o555, files=0o644), "writable"),
}


class TestAReadOnlyPlace:
    @pytest.mark.parametrize("shm", [True, False], ids=["with shm", "without shm"])
    @pytest.mark.parametrize("place", PLACES)
    def test_commits_in_the_journal_are_read(self, killed, tmp_path, place, shm):
        if not shm:
            (killed / "packs.idx-shm").unlink()
        manager, options, writable = PLACES[place]
        (tmp_path / "tmp").mkdir()
        with manager(killed, **options):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(killed), writable],
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=drop_capabilities,
                env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
            )
        assert done.stderr == ""
        assert int(done.stdout) <= 1, "calls share one copy"
        assert os.listdir(tmp_path / "tmp") == [], "it is removed in the end"

    def test_a_copy_that_cannot_be_created_is_an_error(self, killed, tmp_path):
        (killed / "packs.idx-shm").unlink()
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp").chmod(0o555)
        with modes(killed, 0o555, 0o444):
            script = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'tmp')!r}\n{READ}"
            done = subprocess.run(
                [sys.executable, "-c", script, str(killed), ""],
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=drop_capabilities,
            )
        assert "RepositoryError: the index" in done.stderr
        assert "set TMPDIR to a folder with" in done.stderr

    async def test_a_change_is_noticed(self, killed, monkeypatch):
        """A snapshot that is replaced, or a place that is read-only for this process only."""
        (killed / "packs.idx-shm").unlink()
        refuse_to_open(monkeypatch, killed)
        async with DiskRepository(killed) as repo:
            assert (await repo.info()).objects == 50
            subprocess.run([sys.executable, "-c", WRITE.replace("range(50)", "range(50, 70)"), str(killed)], check=True)
            assert (await repo.info()).objects == 70

    async def test_without_a_journal_no_copy_is_made(self, tmp_path, monkeypatch):
        async with DiskRepository(tmp_path / "repository") as repo:
            await repo.initialise()
            await repo.put_many([b"one", b"two"])
        refuse_to_open(monkeypatch, tmp_path / "repository")
        monkeypatch.setattr(tempfile, "mkdtemp", None)
        async with DiskRepository(tmp_path / "repository") as repo:
            assert (await repo.info()).objects == 2

    async def test_a_locked_index_is_busy(self, tmp_path, monkeypatch):
        """And is not read without its locks."""
        folder = tmp_path / "repository"
        async with DiskRepository(folder) as repo:
            await repo.initialise()
        monkeypatch.setattr("objrepo.disk.index._BUSY_SECONDS", 0.1)
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        with contextlib.closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("DELETE FROM db_object")
            async with DiskRepository(folder) as repo:
                with pytest.raises(RepositoryBusyError):
                    await repo.info()


def refuse_to_open(monkeypatch, folder):
    """Let SQLite fail to open a folder's index for writing, as on a read-only file system."""
    real = sqlite3.connect

    def connect(database, **options):
        if database.startswith(f"{(folder / 'packs.idx').as_uri()}?mode=rw"):
            real(f"{folder.as_uri()}?mode=rw", uri=True).execute("SELECT 1 FROM sqlite_master")
        return real(database, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


class TestErrors:
    async def test_no_shared_memory(self, tmp_path):
        """As on network file systems."""
        async with DiskRepository(tmp_path / "repository") as repo:
            await repo.initialise()
            (tmp_path / "repository" / "packs.idx-shm").symlink_to("packs.idx-shm")
            with pytest.raises(RepositoryError, match=r"packs.idx cannot be opened: .*network file systems \(NFS"):
                await repo.put_many([b"one", b"two"])

    async def test_a_path_that_is_too_long_for_sqlite(self, tmp_path):
        folder = tmp_path.joinpath(*["n" * 200] * 3)
        async with DiskRepository(folder) as repo:
            with pytest.raises(RepositoryError, match="a path of less than 512 bytes"):
                await repo.initialise()
        assert not folder.exists()

    async def test_errors_are_told_apart_by_their_code(self, tmp_path):
        index = tmp_path / "locked, busy"  # the text of every error
        index.write_bytes(b"no database" * 100)
        with (
            contextlib.closing(sqlite3.connect(index)) as connection,
            pytest.raises(sqlite3.DatabaseError) as caught,
        ):
            connection.execute("SELECT * FROM db_object")
        assert "is damaged" in str(index_error(index, caught.value))
        index.unlink()
        with contextlib.closing(sqlite3.connect(index)) as connection:
            with pytest.raises(sqlite3.OperationalError) as caught:
                connection.execute('SELECT * FROM "locked"')
            assert "locked" in str(caught.value)
            error = index_error(index, caught.value)
            assert "cannot be used" in str(error)
            assert not isinstance(error, RepositoryBusyError)
            connection.execute("BEGIN EXCLUSIVE")
            with (
                contextlib.closing(sqlite3.connect(index, timeout=0)) as other,
                pytest.raises(sqlite3.OperationalError) as caught,
            ):
                other.execute("BEGIN EXCLUSIVE")
            assert isinstance(index_error(index, caught.value), RepositoryBusyError)

    async def test_the_locks_of_sqlite_are_kept(self, tmp_path):
        """On POSIX, a process that closes any descriptor of a file releases all its locks on it."""
        index = tmp_path / "packs.idx"
        with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            with pytest.raises(sqlite3.OperationalError) as caught:
                connection.execute("SELECT * FROM db_object")
            assert "cannot be used" in str(index_error(index, caught.value))
            script = f"import sqlite3; sqlite3.connect({str(index)!r}, timeout=0).execute('BEGIN EXCLUSIVE')"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
            assert "database is locked" in done.stderr

    async def test_an_index_that_is_missing(self, tmp_path):
        missing = tmp_path / "missing"
        with pytest.raises(sqlite3.OperationalError) as caught:
            sqlite3.connect(f"{missing.as_uri()}?mode=rw", uri=True).execute("SELECT 1")
        assert isinstance(index_error(missing, caught.value), FileNotFoundError)


async def test_an_index_with_another_schema_raises_repository_error(repo, folder):
    key = await repo.put(b"content")
    connection = sqlite3.connect(folder / "packs.idx")
    connection.execute("ALTER TABLE db_object RENAME COLUMN offset TO place")
    connection.close()
    async with DiskRepository(folder) as other:
        with pytest.raises(RepositoryError, match="no such column"):
            await other.get(key)
