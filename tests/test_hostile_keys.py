"""Malformed keys cause no path traversal: no file outside the repository is opened."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objrepo import DiskRepository, MemoryRepository, ObjectNotFoundError, SandboxRepository
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
from objrepo.testing.fixtures import BAD_KEYS

touched = []
watching = False


def watch(event, arguments):
    if watching and (event in {"open", "sqlite3.connect"} or event.startswith(("os.", "shutil."))):
        paths = arguments[: 1 if event == "open" else 2]
        touched.extend(os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike))


sys.addaudithook(watch)  # audit hooks cannot be removed


@pytest.fixture
def victim(tmp_path):
    """A file outside the repository."""
    path = tmp_path / "victim.txt"
    path.write_bytes(b"a secret")
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: DiskRepository(folder / "repository"),
        lambda folder: SandboxRepository(folder / "sandboxes"),
        lambda folder: MemoryRepository(),
    ],
    ids=["disk", "sandbox", "memory"],
)
async def test_malformed_keys_open_no_file_outside_the_repository(make, tmp_path, victim):
    global watching
    async with make(tmp_path) as repo:
        await repo.initialise()
        await repo.put(b"content")
        keys = [
            *BAD_KEYS,
            f"aa{victim}",
            str(victim),
            f"../{victim.name}",
            f"../../{victim.name}",
            f"aa/../../{victim.name}",
        ]
        touched.clear()
        watching = True
        try:
            for key in keys:
                assert not await repo.has(key)
                for use in (repo.get, repo.size, repo.hash, repo.delete):
                    with pytest.raises(ObjectNotFoundError):
                        await use(key)
                for context in (repo.open(key), repo.stream([key])):
                    with pytest.raises(ObjectNotFoundError):
                        async with context:
                            pytest.fail("the object was opened")
        finally:
            watching = False
        assert not [path for path in touched if not path.removeprefix("file://").startswith(str(tmp_path))]
        assert not [path for path in touched if victim.name in path]
    assert victim.read_bytes() == b"a secret"


HEX = st.text("0123456789abcdef", min_size=60, max_size=68)
PARTS = st.sampled_from(
    ["..", ".", "/", "\\", "aa", "0" * 62, "0" * 64, "\0", "%2e", "~", "$HOME", "victim.txt", "'", ";", "\n", "é"]
)
KEYS = st.text(max_size=80) | HEX | st.lists(PARTS, max_size=8).map("".join)


def test_generated_keys_open_no_file_outside_the_repository(tmp_path, victim, number_of_keys):
    """No file outside the repository is opened, and malformed keys do not exist."""
    call = InPlace().call
    repo = DiskRepository(tmp_path / "repository", Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    call(repo.delete, call(repo.put, b"to go"))  # imports modules before the calls are watched
    present = call(repo.put, b"content")

    async def stream(keys):
        async with repo.stream(keys):
            pass

    @settings(max_examples=number_of_keys // 20, deadline=None)
    @given(st.lists(KEYS, min_size=20, max_size=20))
    def tried(keys):
        global watching
        touched.clear()
        watching = True
        try:
            assert call(repo.has_many, keys) == [key == present for key in keys]
            for key in keys:
                assert call(repo.has, key) == (key == present)
                for use in (repo.get, repo.size, repo.delete, lambda key: stream([key])):
                    with pytest.raises(ObjectNotFoundError):
                        call(use, key)
        finally:
            watching = False
        outside = [
            path for path in touched if not path.removeprefix("file://").startswith(str(tmp_path / "repository"))
        ]
        assert not outside

    tried()
    assert victim.read_bytes() == b"a secret"
