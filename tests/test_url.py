"""Repositories by their URLs."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from objrepo import ArchiveRepository, DiskRepository, MemoryRepository, SandboxRepository, open_repository, url
from objrepo.offload import Inline


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("folder", DiskRepository, "folder"),
        ("./a folder/b", DiskRepository, "a folder/b"),
        ("disk:folder", DiskRepository, "folder"),
        ("disk:/absolute/100%25", DiskRepository, "/absolute/100%"),
        ("DISK:folder", DiskRepository, "folder"),
        ("C:\\folder", DiskRepository, "C:\\folder"),
        (Path("folder.zip.d"), DiskRepository, "folder.zip.d"),
        ("export.aiida", ArchiveRepository, "export.aiida"),
        (Path("some.zip"), ArchiveRepository, "some.zip"),
        ("zip:anything", ArchiveRepository, "anything"),
    ],
)
def test_paths(text, kind, path):
    offload = Inline()
    repo = open_repository(text, offload)
    assert type(repo) is kind
    assert repo.offload is offload
    assert str(repo).endswith(str(Path(path).absolute()))


async def test_without_a_path(tmp_path):
    assert type(open_repository("memory:")) is MemoryRepository
    assert type(open_repository("sandbox:")) is SandboxRepository
    async with open_repository(f"sandbox:{tmp_path}") as repo:
        await repo.put(b"content")
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["disk:", "zip:", "", "memory:more"])
def test_what_is_missing_or_too_much(text):
    with pytest.raises(ValueError, match=r"write|follows|path"):
        open_repository(text)


def test_an_unknown_scheme():
    with pytest.raises(ValueError, match=r"unknown scheme 'ftp'.*disk:, zip:, sandbox:, memory:"):
        open_repository("ftp://host/folder")


def test_schemes_of_other_packages(monkeypatch):
    def entry_points(**wanted):
        points = [EntryPoint("mine", f"{__name__}:opened", "objrepo.backends")]
        return [point for point in points if point.matches(**wanted)]

    monkeypatch.setattr(url, "entry_points", entry_points)
    offload = Inline()
    assert open_repository("mine://some/where?x=%20", offload) == ("//some/where?x=%20", offload)
    with pytest.raises(ValueError, match="memory:, mine:"):
        open_repository("other:")


def opened(rest, offload):
    return rest, offload
