"""Reading many objects from a repository on disk: plans, packs in order, concurrent changes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from disk_objectstore import CompressMode, Container

from helpers import own_pack
from objrepo import (
    CorruptObjectError,
    ObjectNotFoundError,
)
from objrepo.disk import bulk_reader, index
from objrepo.testing.fixtures import content_of


async def test_packed_objects_are_streamed_in_the_order_of_the_packs(repo, folder):
    contents = [b"%d" % number * 20 for number in range(1000)]
    keys = await repo.put_many(contents)
    await repo.delete_many(keys[100:150])  # leaves unreferenced bytes
    del keys[100:150], contents[100:150]
    async with repo.stream(reversed(keys)) as objects:
        seen = [(key, await stream.read()) async for key, stream in objects]
    assert seen == list(zip(keys, contents, strict=True))


@pytest.mark.parametrize("scan", [True, False])
async def test_keys_are_found_by_a_scan_and_by_lookups(repo, monkeypatch, scan):
    for module in (bulk_reader, index):
        monkeypatch.setattr(module, "SCANNED_FOR_ONE", 1000 if scan else 0)
    contents = [b"%d" % number for number in range(400)]
    keys = await repo.put_many(contents)
    asked = [*keys[::2], "0" * 64]
    assert await repo.has_many(asked) == [True] * 200 + [False]
    async with repo.stream(keys[::2]) as objects:
        assert [await stream.read() async for _, stream in objects] == contents[::2]


async def test_more_objects_than_one_plan_holds_are_streamed(repo, monkeypatch):
    monkeypatch.setattr(bulk_reader, "_PLANNED_AT_MOST", 100)
    contents = [b"%d" % number for number in range(350)]
    expected = dict(zip(await repo.put_many(contents), contents, strict=True))
    async with repo.stream(expected) as objects:
        assert {key: await stream.read() async for key, stream in objects} == expected
    with pytest.raises(ObjectNotFoundError) as caught:
        async with repo.stream([*expected, "0" * 64]):
            pytest.fail("an object is missing")
    assert caught.value.keys == ("0" * 64,)


async def test_plans_may_hold_large_compressed_and_damaged_objects(repo, folder, monkeypatch):
    monkeypatch.setattr(bulk_reader, "_PLANNED_AT_MOST", 10)
    contents = [content_of(size, size % 250) for size in (5, 400_000, 6, 7, 300_001, 300_000, 8)]
    contents += [b"%d" % number for number in range(30)]
    keys = [await repo.put(content) for content in contents[:5]]
    with Container(folder) as container:
        keys += container.add_objects_to_pack(contents[5:8], compress=True)
    keys += await repo.put_many(contents[8:])
    async with repo.stream(keys) as objects:
        assert [await stream.read() async for _, stream in objects] == contents
    os.truncate(own_pack(folder), own_pack(folder).stat().st_size - 1)
    seen = []
    with pytest.raises(CorruptObjectError) as caught:
        async with repo.stream(keys) as objects:
            async for _, stream in objects:
                seen.append(await stream.read())
    assert seen == contents[:-1]
    assert caught.value.key == keys[-1]


async def test_an_index_that_changes_at_every_read_can_be_read(repo, monkeypatch):
    versions = iter(range(1_000_000))
    monkeypatch.setattr(index.Index, "version", lambda self: next(versions))
    contents = [b"%d" % number for number in range(300)]
    expected = dict(zip(await repo.put_many(contents), contents, strict=True))
    async with repo.stream(expected) as objects:
        assert {key: await stream.read() async for key, stream in objects} == expected


@pytest.mark.parametrize("mode", [CompressMode.NO, CompressMode.YES])
async def test_a_stream_continues_after_a_repack(repo, folder, mode):
    contents = [b"%d" % number * 3 for number in range(700)]
    keys = await repo.put_many(contents)
    expected = dict(zip(keys, contents, strict=True))
    await repo.get(keys[0])
    seen = {}
    async with repo.stream(keys) as objects:
        async for key, stream in objects:
            if len(seen) == 10:
                await repo.delete_many(keys[::7][:20])  # so that a repack moves the rest
                with Container(folder) as container:
                    container.repack(compress_mode=mode)
                for gone in keys[::7][:20]:
                    expected.pop(gone) if gone not in seen else None
            try:
                seen[key] = await stream.read()
            except ObjectNotFoundError:
                pytest.fail("an open stream can be read")
            if len(seen) == 256:
                break
    assert all(seen[key] == content for key, content in expected.items() if key in seen)
    rest = [key for key in expected if key not in seen]
    async with repo.stream(rest) as objects:
        assert {key: await stream.read() async for key, stream in objects} == {key: expected[key] for key in rest}


async def test_objects_deleted_during_a_stream_raise_not_found(repo, folder):
    keys = await repo.put_many(b"%d" % number for number in range(600))
    seen = []
    with pytest.raises(ObjectNotFoundError) as caught:
        async with repo.stream(keys) as objects:
            async for key, stream in objects:
                if not seen:
                    with Container(folder) as container:
                        container.delete_objects(keys[300:])
                        container.repack()
                assert await stream.read()
                seen.append(key)
    assert caught.value.keys == (keys[300],)
    assert seen == keys[:300]


async def test_a_stream_continues_after_a_pack_is_rewritten_in_place(repo, folder, monkeypatch):
    monkeypatch.setattr(bulk_reader, "BATCH_BYTES", 1000)
    contents = [b"%03d" % number * 100 for number in range(100)]
    keys = await repo.put_many(contents)
    seen = []
    async with repo.stream(keys) as objects:
        async for _, stream in objects:
            seen.append(await stream.read())
            if len(seen) == 1:
                # A new file may reuse the inode number of a deleted one; only its ctime differs then.
                own_pack(folder).write_bytes(b"".join(reversed(contents)))
                with closing(sqlite3.connect(folder / "packs.idx")) as connection, connection:
                    for number, key in enumerate(reversed(keys)):
                        connection.execute("UPDATE db_object SET offset = ? WHERE hashkey = ?", (number * 300, key))
    assert seen == contents
