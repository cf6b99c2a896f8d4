"""Keys that would lead out of the repository, if paths were made of them: nothing outside is even opened."""

from __future__ import annotations

import os
import sys

import pytest

from objrepo import DiskRepository, MemoryRepository, ObjectNotFoundError, SandboxRepository
from objrepo.testing.fixtures import BAD_KEYS

touched = []
watching = False


def watch(event, arguments):
    if watching and (event in {"open", "sqlite3.connect"} or event.startswith(("os.", "shutil."))):
        paths = arguments[: 1 if event == "open" else 2]
        touched.extend(os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike))


sys.addaudithook(watch)  # it cannot be taken away again


@pytest.fixture
def victim(tmp_path):
    """A file outside of the repository, and what it is called by those who are up to something."""
    path = tmp_path / "victim.txt"
    path.write_bytes(b"nobody else's business")
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
async def test_nothing_outside_is_touched(make, tmp_path, victim):
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
                            pytest.fail("it was opened")
        finally:
            watching = False
        assert not [path for path in touched if not path.removeprefix("file://").startswith(str(tmp_path))]
        assert not [path for path in touched if victim.name in path]
    assert victim.read_bytes() == b"nobody else's business"
