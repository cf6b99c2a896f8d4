"""`DiskRepository(durable=False)`: what is not flushed, what readers see, and what a power failure may leave."""

from __future__ import annotations

import errno
import os
import pickle
import sqlite3
import threading

import pytest

from helpers import loose_file, own_pack, sha256
from objrepo import CorruptObjectError, DiskRepository, open_repository
from objrepo.disk import loose
from objrepo.offload import Inline
from objrepo.sync import SyncRepository

LARGE = b"large" * 200_000


@pytest.fixture
def opened(tmp_path):
    with SyncRepository(DiskRepository(tmp_path / "repository", Inline(), durable=False)) as repo:
        repo.initialise()
        yield repo


@pytest.fixture
def flushes(monkeypatch):
    """Return a list to which each fsync adds an item."""
    found = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (found.append(file), real(file)))
    return found


@pytest.fixture(params=["unnamed files", "no unnamed files", "a file system without unnamed files", "no links"])
def files(request, monkeypatch):
    """Write with each kind of temporary file."""
    if request.param == "no unnamed files":
        monkeypatch.setattr(loose, "_UNNAMED", 0)
    elif request.param == "a file system without unnamed files":

        def refuse(folder, flags):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), folder)

        monkeypatch.setattr(loose, "_open_unnamed", refuse)
    elif request.param == "no links":

        def forbid(source, target, **_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

        monkeypatch.setattr(os, "link", forbid)


def names(path):
    return sorted(os.listdir(path))


@pytest.mark.usefixtures("files")
def test_objects_in_files_of_their_own_are_not_flushed(opened, flushes):
    keys = [opened.put(b"one"), opened.put([b"in ", b"pieces"]), opened.put(LARGE), *opened.put_many([b"a", b"b"])]
    assert [opened.get(key) for key in keys] == [b"one", b"in pieces", LARGE, b"a", b"b"]
    opened.delete(keys[0])
    assert flushes == []
    assert not any(opened._repository.path.joinpath("sandbox").iterdir())
    assert opened.verify().ok


def test_groups_are_flushed_once(opened, flushes):
    keys = opened.put_many([b"%d" % number for number in range(40)])
    assert len(flushes) == 2  # the pack and its directory
    assert own_pack(opened._repository.path).exists()
    assert opened.get(keys[-1]) == b"39"


def test_a_pickled_repository_has_the_same_durability(tmp_path):
    for durable in (False, True):
        assert pickle.loads(pickle.dumps(DiskRepository(tmp_path, durable=durable))).backend.durable is durable


@pytest.mark.parametrize(
    ("text", "durable"),
    [
        ("disk:a?durable=no", False),
        ("disk:a?durable=yes", True),
        ("checked:disk:a?durable=no", False),
        ("disk:a", True),
    ],
)
def test_durable_in_a_url(text, durable):
    repo = open_repository(text)
    assert repo.backend.durable is durable
    assert repo.path.name == "a"


@pytest.mark.usefixtures("files")
class TestAnObjectThatExists:
    def test_an_intact_file_stays_as_it_may_be_durable(self, opened):
        path = loose_file(opened._repository.path, opened.put(b"content"))
        before = path.stat().st_ino
        assert opened.put(b"content") == sha256(b"content")
        assert path.stat().st_ino == before
        assert names(opened._repository.path / "sandbox") == []

    @pytest.mark.parametrize("damaged", [b"", b"\0" * 7])
    def test_a_damaged_file_is_replaced(self, opened, damaged):
        path = loose_file(opened._repository.path, opened.put(b"content"))
        path.write_bytes(damaged)
        opened.put(b"content")
        assert path.read_bytes() == b"content"
        assert names(opened._repository.path / "sandbox") == []

    def test_a_failed_replacement_leaves_nothing(self, opened, monkeypatch):
        path = loose_file(opened._repository.path, opened.put(b"content"))
        path.write_bytes(b"damaged")

        def fail(source, target):
            raise OSError(errno.EIO, os.strerror(errno.EIO), target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="Input/output error"):
            opened.put(b"content")
        assert names(opened._repository.path / "sandbox") == []
        assert path.read_bytes() == b"damaged"


@pytest.mark.usefixtures("files")
def test_readers_never_see_a_part_of_an_object(opened):
    contents = [bytes([number]) * 300_000 for number in range(40)]
    paths = [loose_file(opened._repository.path, sha256(content)) for content in contents]
    seen = set()
    done = threading.Event()

    def watch():
        while not done.is_set():
            seen.update(path.stat().st_size for path in paths if path.exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for content in contents:
            opened.put(content)
    finally:
        done.set()
        watcher.join()
    assert seen <= {300_000}


class TestWhatAPowerFailureMayLeave:
    """The damage is made by hand; `test_crash.py` shows that durable objects have none."""

    def damage(self, repo, kind):
        """Store objects, damage one as a power failure may, and return its key and that of an intact one."""
        folder = repo._repository.path
        if kind in ("an empty file", "a file of zeros", "a short file"):
            key, intact = repo.put(b"content"), repo.put(b"intact")
            left = {"an empty file": b"", "a file of zeros": b"\0" * 7, "a short file": b"con"}[kind]
            loose_file(folder, key).write_bytes(left)
        else:
            intact, *_, key = repo.put_many([b"%d" % number for number in range(40)])
            if kind == "a pack that is cut short":
                os.truncate(own_pack(folder), own_pack(folder).stat().st_size - 1)
            else:
                with sqlite3.connect(folder / "packs.idx") as index:
                    index.execute("UPDATE db_object SET offset = 1000 WHERE hashkey = ?", (key,))
                index.close()
        return key, intact

    @pytest.mark.parametrize(
        "kind",
        [
            "an empty file",
            "a file of zeros",
            "a short file",
            "a pack that is cut short",
            "a row beyond the end of a pack",
        ],
    )
    def test_verify_finds_it_and_repair_removes_it(self, opened, kind):
        key, intact = self.damage(opened, kind)
        with pytest.raises(CorruptObjectError):
            opened.get(key, check=True)
        assert [damaged.key for damaged in opened.verify().damaged] == [key]
        assert [step.action for step in opened.repair().steps] == ["quarantined"]
        assert opened.has_many([key, intact]) == [False, True]
        assert opened.verify().ok
        opened.maintain()
