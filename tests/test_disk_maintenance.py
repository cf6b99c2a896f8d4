"""Maintenance on full disks, and after packers that failed or were killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from disk_objectstore import Container

from helpers import flip, loose_file, put_loose, run_on_small_file_system
from objrepo import CorruptObjectError, DiskRepository
from objrepo.disk import index
from objrepo.testing.fixtures import content_of

PREPARE = """
    import errno, os, sys
    from objrepo import DiskRepository, RepositoryError
    from objrepo.offload import Inline
    from objrepo.sync.runner import InPlace
    from objrepo.testing.fixtures import content_of
    call = InPlace().call
    folder = sys.argv[1] + "/repository"
    repo = DiskRepository(folder, Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    packs = lambda: {name: os.stat(f"{folder}/packs/{name}").st_size for name in os.listdir(folder + "/packs")}

    def fill(leave):
        "Leave only some bytes free on the disk."
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with open(sys.argv[1] + "/ballast", "wb") as file:
            file.write(bytes(max(free - leave, 0)))
"""


def notes(folder):
    return [path.name for path in folder.glob("append-*")]


class TestFullDisk:
    def test_a_packing_that_fails_leaves_the_packs_as_they_were(self, tmp_path):
        script = """
    first = call(repo.put, content_of(100_000, 1))
    call(repo.maintain)
    keys = [call(repo.put, content_of(200_000, number)) for number in range(2, 12)]
    fill(leave=700_000)
    before = packs()
    for _ in range(3):
        try:
            call(repo.maintain)
        except (OSError, RepositoryError) as error:
            assert "No space left" in str(error), error
        else:
            sys.exit("it fitted")
        assert packs() == before, packs()
    os.unlink(sys.argv[1] + "/ballast")
    call(repo.maintain)
    assert list(packs().values()) == [2_100_000]
    assert all(call(repo.get, key, True) for key in [first, *keys])
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))

    @pytest.mark.parametrize("leave", [150_000, 250_000])
    def test_a_repack_frees_space_with_little_of_it(self, tmp_path, leave):
        script = f"""
    keys = [call(repo.put, content_of(100_000, number)) for number in range(20)]
    call(repo.maintain)
    call(repo.delete_many, keys[::2])
    kept = keys[1::2]
    fill(leave={leave})
    report = call(repo.maintain, False, False)
    assert sum(packs().values()) == 1_000_000, packs()
    assert [step.size for step in report.steps if step.name == "do_repack"] == [1_000_000]
    assert all(call(repo.get, key, True) for key in kept)
    assert call(repo.verify).ok
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))

    def test_packing_succeeds_after_the_steps_that_free_space(self, tmp_path):
        script = """
    gone = call(repo.put_many, [content_of(60_000, number) for number in range(30)])
    call(repo.delete_many, gone)
    keys = [call(repo.put, content_of(300_000, number)) for number in range(3)]
    fill(leave=200_000)
    report = call(repo.maintain, False, False)
    assert [step.name for step in report.steps] == ["pack_loose", "do_repack", "clean_storage", "do_vacuum"]
    assert list(packs().values()) == [900_000]
    assert all(call(repo.get, key, True) for key in keys)
        """
        run_on_small_file_system(tmp_path, textwrap.dedent(PREPARE) + textwrap.dedent(script))


KILLED = """
import os, sys
from disk_objectstore import Container
from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
call = InPlace().call
repo = DiskRepository(sys.argv[1], Inline())
call(repo.__aenter__)
def progress(done):
    if done.done:
        os.kill(os.getpid(), 9)
if sys.argv[2] == "commit":
    from sqlalchemy.orm import Session
    Session.commit = lambda self: os.kill(os.getpid(), 9)
    progress = None
call(lambda: repo.maintain(progress=progress))
"""


class TestUnfinishedAppends:
    async def test_a_damaged_loose_object_leaves_the_pack_as_it_was(self, repo, folder):
        keys = await put_loose(repo, [content_of(100_000, number) for number in range(5)])
        flip(loose_file(folder, keys[2]), 3)
        with pytest.raises(CorruptObjectError):
            await repo.maintain()
        assert not (folder / "packs" / "0").exists()
        assert notes(folder) == []

    @pytest.mark.parametrize("at", ["append", "commit"])
    async def test_what_a_killed_packer_appended_is_cut_off(self, repo, folder, at):
        packed = await repo.put(b"packed")
        await repo.maintain()
        contents = [content_of(300_000, number) for number in range(3)]
        keys = await put_loose(repo, contents)
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", KILLED, str(folder), at], check=False)
            assert done.returncode == -signal.SIGKILL
        assert (folder / "packs" / "0").stat().st_size > 6
        assert notes(folder) == ["append-0-6"], "what the first one appended was cut off by the second"
        await repo.maintain()
        assert (folder / "packs" / "0").stat().st_size == 900_006
        assert notes(folder) == []
        assert [await repo.get(key, check=True) for key in [packed, *keys]] == [b"packed", *contents]

    async def test_a_commit_that_fails_is_cut_off_as_soon_as_the_index_can_be_locked(self, repo, folder, monkeypatch):
        key = await repo.put(content_of(100_000))
        from sqlalchemy.orm import Session

        def fail(self):
            raise OSError("the commit failed")

        with monkeypatch.context() as patched:
            patched.setattr(Session, "commit", fail)
            with pytest.raises(OSError, match="the commit failed"):
                await repo.maintain()
        assert not (folder / "packs" / "0").exists()
        assert await repo.get(key, check=True) == content_of(100_000)

    async def test_rows_that_another_program_has_not_committed_yet_keep_their_bytes(self, folder, monkeypatch):
        """disk-objectstore releases the lock of a pack before it commits the rows."""
        monkeypatch.setattr(index, "_BUSY_SECONDS", 0.2)
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            (folder / "append-0-0").touch()
            with Container(folder) as container:
                container.add_objects_to_pack([b"one", b"two"], do_commit=False)
                await repo.maintain()
                assert (folder / "packs" / "0").read_bytes() == b"onetwo"
                container._get_operation_session().commit()
            await repo.maintain()
            assert notes(folder) == []
            assert await repo.get(hashlib.sha256(b"one").hexdigest(), check=True) == b"one"

    async def test_names_that_no_packer_gives_are_ignored(self, repo, folder):
        (folder / "packs" / "0").write_bytes(b"rest")
        (folder / "append-0-0").touch()
        (folder / "append-0-x").touch()
        await repo.maintain()
        assert os.listdir(folder / "packs") == []
        assert notes(folder) == ["append-0-x"], "no file of ours"
