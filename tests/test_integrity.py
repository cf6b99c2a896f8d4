"""Reads that compare the content with its hash."""

from __future__ import annotations

import anyio
import pytest
from disk_objectstore import Container

from helpers import DAMAGED_SIZES, flip, flip_packed, loose_file
from objrepo import CorruptObjectError, MemoryRepository, SandboxRepository
from objrepo.testing.fixtures import content_of


class TestCheckedReads:
    @pytest.mark.parametrize("size", DAMAGED_SIZES)
    @pytest.mark.parametrize("where", ["loose", "packed", "compressed"])
    async def test_a_flipped_bit_raises_corrupt_object_error(self, repo, folder, size, where):
        content = content_of(size)
        if where == "loose":
            key = await repo.put(content)
            flip(loose_file(folder, key), size - 1)
        else:
            with Container(folder) as container:
                key = container.add_objects_to_pack([content], compress=False)[0]
            flip_packed(folder, key)
        with pytest.raises(CorruptObjectError, match="hashes to") as caught:
            await repo.get(key, check=True)
        assert caught.value.key == key
        assert len(await repo.get(key)) == size, "the hash is compared only with check=True"
        received = 0
        with pytest.raises(CorruptObjectError, match="hashes to"):
            async with repo.open(key, check=True) as stream:
                async for chunk in stream:
                    received += len(chunk)
        assert received < size, "the end is withheld"

    @pytest.mark.parametrize("size", [0, *DAMAGED_SIZES])
    async def test_intact_objects_are_read_in_any_order(self, repo, size):
        content = content_of(size)
        key = await repo.put(content)
        assert await repo.get(key, check=True) == content
        async with repo.open(key, check=True) as stream:
            assert await stream.read() == content
            await stream.seek(size // 2)
            assert await stream.read() == content[size // 2 :]
            await stream.seek(0)
            assert b"".join([chunk async for chunk in stream]) == content
        async with repo.open(key, check=True) as stream:
            await stream.seek(max(size - 3, 0))
            assert await stream.read() == content[max(size - 3, 0) :]

    async def test_concurrent_reads_of_a_damaged_and_intact_objects(self, repo, folder):
        contents = [b"%d" % number * 10 for number in range(100)]
        keys = await repo.put_many(contents)
        flip_packed(folder, keys[50])
        outcomes = {}

        async def get(key):
            try:
                outcomes[key] = await repo.get(key, check=True)
            except CorruptObjectError as error:
                outcomes[key] = error.key

        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(get, key)
        assert outcomes.pop(keys[50]) == keys[50]
        del contents[50], keys[50]
        assert [outcomes[key] for key in keys] == contents

    async def test_a_range_cannot_be_verified(self, repo):
        key = await repo.put(b"content")
        for options in ({"offset": 1}, {"length": 3}):
            with pytest.raises(ValueError, match="range"):
                async with repo.open(key, check=True, **options):
                    pytest.fail("a range has no hash")

    @pytest.mark.parametrize("make", [MemoryRepository, SandboxRepository])
    async def test_other_repositories(self, make):
        async with make() as repo:
            await repo.initialise()
            key = await repo.put(content_of(1_000_000))
            assert await repo.get(key, check=True) == content_of(1_000_000)
            async with repo.open(key, check=True) as stream:
                assert await stream.read() == content_of(1_000_000)
