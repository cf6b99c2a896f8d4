"""Reading single objects from a repository on disk."""

from __future__ import annotations

import os
import shutil
import zlib

import pytest
from disk_objectstore import Container

from objrepo import CorruptObjectError
from objrepo.disk import index, pack_files, reader
from objrepo.testing.fixtures import content_of


async def test_loose_packed_compressed_and_duplicate_objects_are_read(repo, folder):
    contents = [content_of(size, size % 251) for size in (10, 300, 70_000, 0, 400_000, 5000, 3_000_000)]
    with Container(folder) as container:
        keys = [
            container.add_objects_to_pack([content], compress=number % 2 == 1)[0]
            for number, content in enumerate(contents)
        ]
    keys.append(await repo.put(b"loose"))
    contents.append(b"loose")
    expected = dict(zip(keys, contents, strict=True))
    for _ in range(2):
        for key, content in expected.items():
            assert await repo.get(key) == content
            async with repo.open(key, offset=7, length=100_000) as stream:
                assert await stream.read() == content[7:100_007]
        async with repo.stream(keys) as objects:
            assert {key: await stream.read() async for key, stream in objects} == expected
        with Container(folder) as container:
            container.pack_all_loose()  # which keeps the loose file


async def test_a_pack_that_is_replaced_while_it_is_opened_is_opened_again(repo, folder, monkeypatch):
    key = await repo.put(content_of(600_000))
    await repo.maintain()
    real = pack_files.PackFiles.descriptor
    times = []

    def descriptor(self, pack_id):
        found = real(self, pack_id)
        times.append(pack_id)
        if len(times) < 3:
            shutil.copy(folder / "packs" / "0", folder / "other")
            os.replace(folder / "other", folder / "packs" / "0")
        elif len(times) == 3:
            (folder / "packs" / "0").rename(folder / "away")
        elif len(times) == 4:
            pytest.fail("the read must have failed already")
        return found

    monkeypatch.setattr(pack_files.PackFiles, "descriptor", descriptor)
    with pytest.raises(CorruptObjectError, match="missing"):
        async with repo.open(key):
            pass
    (folder / "away").rename(folder / "packs" / "0")
    times[:] = [1] * 10
    monkeypatch.setattr(pack_files.PackFiles, "descriptor", real)
    async with repo.open(key) as stream:
        assert await stream.read() == content_of(600_000)


@pytest.mark.parametrize("size", [6, 8, 1_000_000_000])
def test_decompression_stops_at_the_size_in_the_index(size):
    row = index.Row("key", 0, 0, 10, True, size)
    with pytest.raises(CorruptObjectError, match="when decompressed"):
        reader.inflated(row, zlib.compress(b"content"))
    with pytest.raises(CorruptObjectError):
        reader.inflated(row, zlib.compress(b"content" * 100)[:-5])
