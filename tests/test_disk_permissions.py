"""Permissions of the files and folders of a repository on disk: the umask, and repositories that a group shares."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

USE = """
    import os, sys, tempfile
    from objrepo import DiskRepository
    from objrepo.offload import Inline
    from objrepo.sync.runner import InPlace

    call = InPlace().call

    def use(folder, name):
        repo = DiskRepository(folder, Inline())
        call(repo.__aenter__)
        call(repo.initialise)
        call(repo.put, name + b" loose")
        call(repo.put_many, [name, name + b" too", b"of all"])
        call(repo.maintain)
        call(repo.delete, call(repo.put_many, [name + b" to go", b"x"])[0])
        call(repo.put, name + b" again")
        call(repo.maintain, False, False)
        call(repo.put_many, [name + b" more", name + b" and more"])
        assert call(repo.verify).ok
        return call(repo.info).objects

    folder, umask, name, *user = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        use(place + "/warm", b"")  # imports modules before the privileges are dropped
    if user:
        uid, gid, *groups = map(int, user)
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    os.umask(int(umask, 8))
    print(use(folder, name.encode()))
"""


def use(folder, umask, name, *user):
    """Use a repository in another process; return the number of its objects."""
    command = [sys.executable, "-c", textwrap.dedent(USE), str(folder), umask, name, *map(str, user)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(done.stderr)
    return int(done.stdout)


@pytest.mark.parametrize("umask", ["077", "027", "022"])
def test_no_file_or_folder_exceeds_the_umask(tmp_path, umask):
    use(tmp_path / "repository", umask, "me")
    paths = [tmp_path / "repository", *(tmp_path / "repository").rglob("*")]
    assert len(paths) > 10
    for path in paths:
        assert not stat.S_IMODE(path.stat().st_mode) & int(umask, 8), path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run processes of other users")
def test_a_group_can_share_a_repository():
    """With umask 002 and a setgid directory."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        team = Path(place) / "team"
        team.mkdir()
        os.chown(team, 4000, 5000)
        team.chmod(0o2775)
        repository = team / "repository"
        assert use(repository, "002", "first", 4000, 5000) == 8
        assert use(repository, "002", "second", 4001, 5001, 5000) == 14
        assert use(repository, "002", "third", 4000, 5000) == 20
        with pytest.raises(PermissionError, match=r"readonly database|Permission denied"):
            use(repository, "022", "stranger", 4002, 5002)


UNDER_UMASK = """
import os, sys, anyio, objrepo
os.umask(int(sys.argv[2], 8))
async def main():
    async with objrepo.DiskRepository(sys.argv[1]) as repo:
        await repo.initialise()
        await repo.put(b"loose")
        await repo.put_many([b"one", b"two"])
        await repo.maintain()
        await repo.put(b"again")
        os._exit(0)  # SQLite removes its -wal and -shm files when the index is closed
anyio.run(main)
"""


@pytest.mark.parametrize("umask", ["002", "022", "077", "007"])
def test_every_file_has_the_mode_that_the_umask_allows(tmp_path, umask):
    folder = tmp_path / "repository"
    subprocess.run([sys.executable, "-c", UNDER_UMASK, str(folder), umask], check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert {"config.json", "packs.idx", "packs.idx-wal", "packs.idx-shm", "1000000"} <= set(modes)
    assert set(modes.values()) == {0o666 & ~int(umask, 8)}, modes
