"""Who may read and write what is created: no more than the umask lets, and a group where that is wanted."""

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
        use(place + "/warm", b"")  # what is imported on the first use is imported before the powers are gone
    if user:
        uid, gid, *groups = map(int, user)
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    os.umask(int(umask, 8))
    print(use(folder, name.encode()))
"""


def use(folder, umask, name, *user):
    """Have another process use a repository; return how many objects there are then."""
    command = [sys.executable, "-c", textwrap.dedent(USE), str(folder), umask, name, *map(str, user)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(done.stderr)
    return int(done.stdout)


@pytest.mark.parametrize("umask", ["077", "027", "022"])
def test_nothing_is_more_open_than_the_umask(tmp_path, umask):
    use(tmp_path / "repository", umask, "me")
    paths = [tmp_path / "repository", *(tmp_path / "repository").rglob("*")]
    assert len(paths) > 10
    for path in paths:
        assert not stat.S_IMODE(path.stat().st_mode) & int(umask, 8), path


def test_a_sandbox_is_its_users_own(tmp_path):
    script = f"""
        import os
        os.umask(0)
        from objrepo import SandboxRepository
        from objrepo.offload import Inline
        from objrepo.sync.runner import InPlace
        call = InPlace().call
        repo = SandboxRepository({str(tmp_path)!r}, Inline())
        call(repo.__aenter__)
        call(repo.put, b"content")
        print(oct(os.stat(repo.folder).st_mode & 0o777))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"0o700\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two other users")
def test_a_group_shares_a_repository():
    """What the README says about it."""
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
