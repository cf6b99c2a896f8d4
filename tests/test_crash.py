"""Nothing that was acknowledged is lost, whenever a process is killed or the power goes; `nox -s crash` is longer."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers import loose_file, sha256
from objrepo import DiskRepository, RepositoryError
from objrepo.fsync import fsync_directory
from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.sync.runner import InPlace

CRASH = Path(__file__).parent / "crash"
sys.path.insert(0, str(CRASH))

from power import Disk, recording  # noqa: E402

call = InPlace().call


def put_in_batch(repo, contents):
    with InPlace().enter(repo.batch()) as batch:
        return call(batch.put_many, contents)


def run(*arguments, code=0):
    """Run a crash test program, without measuring its coverage."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=CRASH, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "names",
    [("put", "put_unflushed", "put_many", "batch", "put_full", "delete", "initialise"), ("pack", "repack", "repair")],
)
def test_killed_before_calls_that_change_something(names):
    every = 30 if "pack" in names else 12
    lines = run("stops.py", "--every", str(every), *names).splitlines()
    assert [line.split(":")[0] for line in lines] == list(names)
    assert all(line.endswith(", 0 inconsistent") for line in lines)


def test_killed_at_random_moments():
    assert run("kills.py", "--kills", "24", "--seed", "1").endswith("no failure\n")


def test_killed_while_using_a_bucket():
    assert run("buckets.py", "--kills", "8", "--seed", "2").endswith("no failure\n")


def test_many_concurrent_processes():
    assert run("many.py", "--seconds", "5", "--seed", "1").endswith("no failure\n")


def test_corrupted_files_do_no_harm():
    assert run("mutate.py", "--count", "60", "--seed", "1").endswith("60 mutations, 0 failures\n")


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_thousands_of_tasks(loop):
    assert "2000 tasks" in run("soak.py", "--seconds", "3", "--tasks", "2000", "--loop", loop)


def test_the_checks_detect_a_broken_group_commit():
    """Inserting rows before their bytes are written is detected."""
    script = """
import sys
import stops
from objrepo.disk import group_commit
real = group_commit.append
def append(pack, pack_id, objects):
    start = pack.seek(0, 2)
    sizes = [len(content) for content in objects.values()]
    rows = [(k, pack_id, start + sum(sizes[:n]), s, 0, s) for n, (k, s) in enumerate(zip(objects, sizes))]
    group_commit.ContainerSession = None
    import gc
    session = next(o for o in gc.get_objects() if type(o).__name__ == "ContainerSession" and "index" in o.__dict__)
    session.index.insert(rows)
    return real(pack, pack_id, objects)
group_commit.append = append
stops.SCENARIOS = (stops.put_many,)
sys.argv += ["--every", "1"]
stops.main()
"""
    assert "0 inconsistent" not in run("-c", script, code=1)


class TestPower:
    """What was acknowledged is on the disk, also if nothing is that was not flushed."""

    @pytest.fixture
    def disk(self, tmp_path):
        (tmp_path / "top").mkdir()
        (tmp_path / "moments").mkdir()
        disk = Disk(tmp_path / "top")
        yield disk
        disk.close()

    @pytest.fixture
    def opened(self, disk):
        with SyncRepository(DiskRepository(disk.top / "repository", Inline())) as repo:
            yield repo._repository

    @pytest.fixture
    def left(self, disk, tmp_path):
        """Return a function that opens the repository as a power failure would leave it now."""
        with ExitStack() as stack:

            def open_left(place=None):
                if place is None:
                    place = tmp_path / f"left {len(os.listdir(tmp_path))}"
                    disk.keep(place)
                repo = DiskRepository(place / "repository", Inline())
                stack.enter_context(SyncRepository(repo))
                return repo

            yield open_left

    def test_initialise(self, disk, opened, tmp_path, left):
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
        found = left()
        assert call(found.uuid) == call(opened.uuid)
        assert call(found.put, b"content") == hashlib.sha256(b"content").hexdigest()

    @pytest.mark.parametrize("ordered", [False, True])
    @pytest.mark.parametrize("prefix", [0, 2])
    def test_each_way_to_put(self, disk, opened, tmp_path, left, prefix, ordered):
        with recording(disk, tmp_path / "moments", ordered):
            call(lambda: opened.initialise(loose_prefix_len=prefix))
            for put in (
                lambda: [call(opened.put, b"loose")],
                lambda: [call(opened.put, [b"in ", b"pieces" * 100_000])],
                lambda: call(opened.put_many, [b"first", b"group"]),
                lambda: call(opened.put_many, [b"second", b"group", b"loose", b"large" * 100_000]),
                lambda: put_in_batch(opened, [b"in a", b"batch", b"first", b"large" * 100_001]),
            ):
                keys = put()
                found = left()
                for key in keys:
                    call(found.get, key, True)
                assert call(found.verify).ok

    def put_at_each_moment(self, disk, opened, tmp_path, left):
        """Put on a file system that orders its metadata; return what may be left at any moment, and the keys."""
        with recording(disk, tmp_path / "moments", ordered=True):
            call(opened.initialise)
            disk.moments.clear()
            shutil.rmtree(tmp_path / "moments")
            (tmp_path / "moments").mkdir()
            loose_file(opened.path, sha256(b"damaged")).parent.mkdir()
            loose_file(opened.path, sha256(b"damaged")).write_bytes(b"DAMAGED")
            keys = [call(opened.put, content) for content in (b"content", b"large" * 100_000, b"damaged", b"content")]
        assert len(disk.moments) >= 6
        return [left(), *map(left, disk.moments)], keys

    def test_at_no_moment_a_file_is_short(self, disk, opened, tmp_path, left):
        repositories, keys = self.put_at_each_moment(disk, opened, tmp_path, left)
        for key in keys:
            call(repositories[0].get, key, True)
        for repo in repositories:
            damaged = {each.key for each in call(repo.verify).damaged}
            assert damaged <= {sha256(b"damaged")}, "which was before"

    @pytest.mark.parametrize("step", ["write_back", "fsync_file"])
    def test_the_checks_detect_a_step_that_is_missing(self, disk, opened, tmp_path, left, step, monkeypatch):
        monkeypatch.setattr(f"objrepo.disk.loose.{step}", lambda file: None)
        with pytest.raises((AssertionError, RepositoryError), match=r"which was before|object does not exist"):
            self.test_at_no_moment_a_file_is_short(disk, opened, tmp_path, left)

    @pytest.mark.parametrize("ordered", [False, True])
    def test_put_fsyncs_an_object_that_another_process_has_not(self, disk, opened, tmp_path, left, ordered):
        with recording(disk, tmp_path / "moments", ordered):
            call(opened.initialise)
            for content, folder in ((b"loose", "loose"), (b"packed", "packs")):
                key = hashlib.sha256(content).hexdigest()
                if folder == "loose":
                    path = opened.path / "loose" / key[:2] / key[2:]
                    path.parent.mkdir()
                    path.write_bytes(content)
                else:
                    (opened.path / "packs" / "0").write_bytes(content)
                    with opened.backend.sessions.check_out() as session:
                        session.index.insert([(key, 0, 0, 6, 0, 6)])
                assert call(opened.put_many, [content, b"x"])[0] == call(opened.put, content) == key
                assert call(left().get, key, True) == content

    def test_puts_that_are_not_flushed_cost_no_durable_object(self, disk, opened, tmp_path, left):
        """The worst that a disk may be left with: the names of files, and none of their bytes."""
        contents = [b"loose", b"both", b"large" * 100_000, *(b"group %d" % number for number in range(20))]
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
            keys = [call(opened.put, content) for content in contents[:3]] + call(opened.put_many, contents[3:])
            with SyncRepository(DiskRepository(opened.path, Inline(), durable=False)) as unflushed:
                keys.append(unflushed.put(b"packed"))
                call(opened.maintain)
                lost = [unflushed.put(content) for content in (b"lost", b"put again", *contents)][:2]
                for folder in (opened.path / "loose", *(opened.path / "loose").iterdir()):
                    fsync_directory(folder)
            keys.append(call(opened.put, b"put again"))
        found = left()
        assert lost[0] in {damaged.key for damaged in call(found.verify).damaged}
        call(lambda: found.repair(live=False))
        assert call(found.has_many, lost) == [False, True]
        for key in keys:
            call(found.get, key, True)
        assert call(found.verify).ok

    @pytest.mark.parametrize("options", [{}, {"compress": True}, {"incremental_cleanup": False}, {"live": False}])
    def test_at_no_moment_of_maintenance_an_object_is_missing(self, disk, opened, tmp_path, left, options):
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
            keys = call(opened.put_many, [b"one", b"two", b"three"])
            keys += [call(opened.put, b"%d" % number * 1000) for number in range(3)]
            call(opened.maintain)
            keys += [call(opened.put, b"more %d" % number) for number in range(3)]
            call(opened.delete_many, [keys.pop(1), keys.pop(3)])
            disk.moments.clear()
            shutil.rmtree(tmp_path / "moments")
            (tmp_path / "moments").mkdir()
            call(lambda: opened.maintain(**options))
        assert len(disk.moments) > 1
        for repo in [left(), *map(left, disk.moments)]:
            for key in keys:
                call(repo.get, key, True)
            assert call(repo.verify).damaged == ()

    def test_deleted_objects_stay_deleted(self, disk, opened, tmp_path, left):
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
            keys = call(opened.put_many, [b"one", b"two"])
            keys.append(call(opened.put, b"loose"))
            keys.append(call(opened.put, b"one"))
            call(opened.delete_many, keys[:3])
        found = left()
        assert call(found.has_many, keys) == [False] * 4
        assert call(found.verify).ok

    def test_damaged_objects_are_durable_in_the_quarantine_before_removal(self, disk, opened, tmp_path, left):
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
            packed = call(opened.put_many, [b"packed", b"others"])[0]
            loose = call(opened.put, b"loose")
            (opened.path / "loose" / loose[:2] / loose[2:]).write_bytes(b"LOOSE")
            with open(opened.path / "packs" / "1000000", "r+b") as pack:
                pack.write(b"P")
                os.fsync(pack)
            call(opened.repair)
        found = left()
        assert not any(call(found.has_many, [packed, loose]))
        assert (found.path / "quarantine" / f"{packed}.packed").read_bytes() == b"Packed"
        assert (found.path / "quarantine" / loose).exists()

    def test_the_checks_detect_a_broken_group_commit(self, disk, opened, tmp_path, left, monkeypatch):
        """Without the flush of the folder, a loose object is found to be lost."""
        with recording(disk, tmp_path / "moments"):
            call(opened.initialise)
            monkeypatch.setattr("objrepo.disk.loose.fsync_directory", lambda folder: None)
            key = call(opened.put, b"content")
        with pytest.raises(RepositoryError):
            call(left().get, key)
