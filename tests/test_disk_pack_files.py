"""Open packs: their number, positional reads, decompression."""

from __future__ import annotations

import os

import anyio

from helpers import open_files
from objrepo import DiskRepository
from objrepo.disk import pack_files
from objrepo.testing.fixtures import content_of


async def test_the_number_of_open_packs_is_bounded(folder):
    async with DiskRepository(folder) as repo:
        await repo.initialise(pack_size_target=50)
        keys = [await repo.put(content_of(100, number)) for number in range(40)]
        await repo.maintain()
        assert (await repo.info()).pack_files == 40
        for key in keys * 2:
            assert len(await repo.get(key)) == 100
        async with anyio.create_task_group() as tasks:
            for key in keys * 2:
                tasks.start_soon(repo.get, key)
        async with repo.stream(keys) as objects:
            assert len([key async for key, _ in objects]) == 40
        assert 0 < len(open_files(folder / "packs")) <= 8 * 8


async def test_objects_are_read_without_pread_and_without_open_packs(repo, folder, monkeypatch):
    """As on Windows."""
    for module in ("reader", "bulk_reader"):
        monkeypatch.setattr(f"objrepo.disk.{module}.read_at", pack_files._seek_and_read)
    monkeypatch.setattr(pack_files, "_MAX_OPEN", 0)
    contents = [b"%d" % number for number in range(300)]
    expected = dict(zip(await repo.put_many(contents), contents, strict=True))
    for key, content in expected.items():
        assert await repo.get(key) == content
    async with repo.stream(expected) as objects:
        assert {key: await stream.read() async for key, stream in objects} == expected
    assert not open_files(folder / "packs")


def test_short_reads_are_continued(tmp_path, monkeypatch):
    """Linux reads at most 2 GiB in one call, other systems less."""
    (tmp_path / "file").write_bytes(content_of(1000))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
    with open(tmp_path / "file", "rb") as file:
        assert pack_files.read_at(file.fileno(), 500, 100) == content_of(1000)[100:600]
        assert pack_files.read_at(file.fileno(), 500, 900) == content_of(1000)[900:]
