"""Finding damage and mending it: checked reads, `verify`, `repair`, and what interrupted programs leave."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing

import anyio
import pytest
from disk_objectstore import Container

from helpers import flip, flip_packed, loose_file, own_pack, put_loose
from objrepo import CorruptObjectError, DiskRepository, MemoryRepository, RepositoryBusyError, SandboxRepository
from objrepo.disk import bulk_reader
from objrepo.testing.fixtures import content_of

SIZES = (10, 70_000, 400_000, 3_000_000)


def quarantined(folder):
    """Return the files in the quarantine, without the marks of lost objects."""
    return [name for name in os.listdir(folder / "quarantine") if not name.endswith(".lost")]


async def damaged_in_all_ways(repo, folder):
    """Make objects of which each is damaged in another way; return the keys of these, and contents of intact ones."""
    intact = {await repo.put(content_of(size, 1)): content_of(size, 1) for size in SIZES}
    loose = [await repo.put(content_of(size, 2)) for size in SIZES]
    with Container(folder) as container:
        packed = container.add_objects_to_pack([content_of(size, 3) for size in SIZES], compress=False)
        compressed = container.add_objects_to_pack([content_of(size, 4) for size in SIZES], compress=True)
        more = [content_of(size, 5) for size in SIZES]
        intact |= dict(zip(container.add_objects_to_pack(more, compress=True), more, strict=True))
    for key in loose:
        flip(loose_file(folder, key), 5)
    for key in packed + compressed:
        flip_packed(folder, key)
    return loose + packed + compressed, intact


class TestCheckedReads:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("where", ["loose", "packed", "compressed"])
    async def test_a_flipped_bit_comes_out(self, repo, folder, size, where):
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
        assert len(await repo.get(key)) == size, "who does not ask for it is not told"
        received = 0
        with pytest.raises(CorruptObjectError, match="hashes to"):
            async with repo.open(key, check=True) as stream:
                async for chunk in stream:
                    received += len(chunk)
        assert received < size, "the end is not given out"

    @pytest.mark.parametrize("size", [0, *SIZES])
    async def test_what_is_intact_is_given_out_however_it_is_read(self, repo, size):
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

    async def test_many_at_the_same_moment(self, repo, folder):
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

    async def test_a_range_cannot_be_checked(self, repo):
        key = await repo.put(b"content")
        for options in ({"offset": 1}, {"length": 3}):
            with pytest.raises(ValueError, match="range"):
                async with repo.open(key, check=True, **options):
                    pytest.fail("a part has no hash to compare with")

    @pytest.mark.parametrize("make", [MemoryRepository, SandboxRepository])
    async def test_other_repositories(self, make):
        async with make() as repo:
            await repo.initialise()
            key = await repo.put(content_of(1_000_000))
            assert await repo.get(key, check=True) == content_of(1_000_000)
            async with repo.open(key, check=True) as stream:
                assert await stream.read() == content_of(1_000_000)


class TestVerify:
    async def test_all_that_is_damaged_and_nothing_else(self, repo, folder):
        damaged, intact = await damaged_in_all_ways(repo, folder)
        report = await repo.verify()
        assert sorted(item.key for item in report.damaged) == sorted(damaged)
        assert report.objects == len(damaged) + len(intact)
        for key, content in intact.items():
            assert await repo.get(key, check=True) == content

    async def test_quick_looks_at_whether_the_bytes_are_there(self, repo, folder):
        _, intact = await damaged_in_all_ways(repo, folder)
        assert (await repo.verify(quick=True)).ok
        last = (await repo.put_many([content_of(1000, 9), b"the last"]))[-1]
        os.truncate(own_pack(folder), 1001)
        with Container(folder) as container:
            gone = container.add_objects_to_pack([b"in a pack of its own"])
        os.rename(folder / "packs" / "0", folder / "elsewhere")
        report = await repo.verify(quick=True)
        assert {last, *gone} <= {item.key for item in report.damaged}
        assert len(report.damaged) == 1 + len(gone) + 8 + 4
        assert not {item.key for item in report.damaged} & {key for key in intact if loose_file(folder, key).exists()}

    async def test_a_damaged_copy_of_an_object_that_is_intact_elsewhere(self, repo, folder):
        key = await repo.put(b"content")
        with Container(folder) as container:
            container.pack_all_loose()
        flip(loose_file(folder, key), 2)
        assert await repo.get(key, check=True) == b"content"
        assert [item.key for item in (await repo.verify()).damaged] == [key]

    async def test_what_is_left_behind(self, repo, folder):
        assert (await repo.verify()).leftovers == ()
        keys = await repo.put_many([b"12345", b"123"])
        await repo.delete(keys[0])
        for name in ("sandbox/half", "duplicates/twice", "packs/7.lock", "packs/-1", "packs/what", "loose/stray"):
            (folder / name).write_bytes(b"..")
        found = {
            (leftover.kind, leftover.path, leftover.size) for leftover in (await repo.verify(quick=True)).leftovers
        }
        assert found == {
            ("orphaned bytes", str(own_pack(folder)), 5),
            ("temporary file", f"{folder}/sandbox/half", 2),
            ("duplicate", f"{folder}/duplicates/twice", 2),
            ("lock", f"{folder}/packs/7.lock", 2),
            ("interrupted repack", f"{folder}/packs/-1", 2),
            ("unknown file", f"{folder}/packs/what", 2),
            ("unknown file", f"{folder}/loose/stray", 2),
        }


class TestRepair:
    async def test_nothing_to_do(self, repo):
        await repo.put(b"content")
        report = await repo.repair()
        assert (report.steps, report.lost) == ((), ())

    @pytest.mark.parametrize("live", [True, False])
    async def test_damaged_objects_go_to_the_quarantine(self, repo, folder, live):
        damaged, intact = await damaged_in_all_ways(repo, folder)
        dry = await repo.repair(dry_run=True, live=live)
        assert not (folder / "quarantine").exists()
        assert not (await repo.verify()).ok
        report = await repo.repair(live=live)
        assert report.steps == dry.steps
        assert sorted(report.lost) == sorted(damaged)
        assert await repo.has_many(damaged) == [False] * len(damaged)
        assert len(quarantined(folder)) == len(damaged)
        assert (await repo.verify()).ok
        for key, content in intact.items():
            assert await repo.get(key, check=True) == content
        await repo.maintain(live=False)
        assert (await repo.verify()).objects == len(intact)

    async def test_from_another_repository(self, repo, folder, tmp_path):
        async with DiskRepository(tmp_path / "other") as other:
            await other.initialise()
            sources = [content_of(size, seed) for size in SIZES for seed in (2, 3)]
            keys = await other.put_many(sources)
            broken = await other.put(content_of(SIZES[1], 4))
            flip(loose_file(tmp_path / "other", broken), 9)
            damaged, _ = await damaged_in_all_ways(repo, folder)
            report = await repo.repair(source=other)
        refilled = {step.subject for step in report.steps if step.action == "refilled"}
        assert refilled == set(keys) & set(damaged)
        assert set(report.lost) == set(damaged) - refilled
        for key, content in zip(keys, sources, strict=True):
            assert await repo.get(key, check=True) == content
        assert (await repo.verify()).ok

    async def test_an_intact_copy_is_enough(self, repo, folder):
        first, second = await put_loose(repo, [b"first", b"second"])
        with Container(folder) as container:
            container.pack_all_loose()
        flip(loose_file(folder, first), 2)
        flip_packed(folder, second)
        report = await repo.repair()
        assert {(step.action, step.subject) for step in report.steps} == {("restored", first), ("restored", second)}
        assert [await repo.get(key, check=True) for key in (first, second)] == [b"first", b"second"]
        assert (await repo.verify()).ok
        names = sorted(os.listdir(folder / "quarantine"))
        assert names == sorted([first, f"{second}.packed"])

    async def test_what_cannot_be_read_just_now_is_not_damaged(self, repo, folder, monkeypatch):
        keys = [await repo.put(b"loose"), *await repo.put_many([b"one", b"two"])]

        def failing(error):
            def fail(*_):
                raise error

            return fail

        for error in (OSError(errno.EMFILE, "Too many open files"), RepositoryBusyError("the index is locked")):
            with monkeypatch.context() as patched:
                for name in ("open_loose", "open_packed"):
                    patched.setattr(f"objrepo.disk.verify.{name}", failing(error))
                for use in (repo.verify, repo.repair):
                    with pytest.raises(type(error), match=r"Too many|locked"):
                        await use()
        assert not (folder / "quarantine").exists()
        assert all(await repo.has_many(keys))

    async def test_the_same_object_damaged_again(self, repo, folder):
        for number in range(3):
            key = await repo.put(b"content")
            flip(loose_file(folder, key), 2)
            assert (await repo.repair()).lost == (key,)
            assert len(quarantined(folder)) == number + 1

    async def test_a_source_with_other_keys(self, repo):
        async with SandboxRepository() as other:
            with pytest.raises(ValueError, match="uuid4"):
                await repo.repair(source=other)

    async def test_what_is_left_over_where_nobody_else_is_at_work(self, repo, folder):
        key = await repo.put(b"content")
        (folder / "sandbox" / "half").write_bytes(b"..")
        (folder / "packs" / "7.lock").touch()
        with pytest.raises(RepositoryBusyError, match="repair --exclusive"):
            await repo.repair()
        dry = await repo.repair(dry_run=True, live=False)
        assert len(dry.steps) == 2
        assert (folder / "packs" / "7.lock").exists()
        report = await repo.repair(live=False)
        assert report.steps == dry.steps
        assert os.listdir(folder / "sandbox") == os.listdir(folder / "packs") == []
        await repo.maintain()
        assert await repo.get(key) == b"content"

    @pytest.mark.parametrize("point", range(1, 6))
    @pytest.mark.parametrize("by", ["repair", "maintain"])
    async def test_a_repack_of_disk_objectstore_that_was_killed(self, repo, folder, monkeypatch, point, by):
        contents = [b"%d" % number * 9 for number in range(50)]
        with Container(folder) as container:
            keys = container.add_objects_to_pack(contents)
            container.delete_objects(keys[:3])
            del keys[:3], contents[:3]
            steps = iter(range(1, 100))

            def stopping(function):
                def stopped(*arguments, **options):
                    if next(steps) >= point:
                        raise KeyboardInterrupt
                    return function(*arguments, **options)

                return stopped

            session = container._get_operation_session()
            monkeypatch.setattr(session, "commit", stopping(session.commit))
            with monkeypatch.context() as patched:
                for name in ("remove", "link", "unlink"):
                    patched.setattr(os, name, stopping(getattr(os, name)))
                with pytest.raises(KeyboardInterrupt):
                    container.repack_pack("0")
            session.rollback()
        assert [await repo.get(key) for key in keys] == contents
        if by == "repair":
            report = await repo.repair(live=False)
            assert {step.action for step in report.steps} <= {"recovered", "removed"}
            assert report.steps
        else:
            (folder / "packs" / "-1.lock").unlink(missing_ok=True)
            await repo.maintain(live=False)
        assert not (folder / "packs" / "-1").exists()
        assert [await repo.get(key) for key in keys] == contents
        assert (await repo.verify()).ok
        with Container(folder) as container:
            container.repack()
            assert not any(vars(container.validate()).values())


async def test_a_pack_rewritten_in_place_under_a_stream(repo, folder, monkeypatch):
    monkeypatch.setattr(bulk_reader, "BATCH_BYTES", 1000)
    contents = [b"%03d" % number * 100 for number in range(100)]
    keys = await repo.put_many(contents)
    seen = []
    async with repo.stream(keys) as objects:
        async for _, stream in objects:
            seen.append(await stream.read())
            if len(seen) == 1:
                # A new file may get the inode of one that is gone: then only the time of its last change tells.
                own_pack(folder).write_bytes(b"".join(reversed(contents)))
                with closing(sqlite3.connect(folder / "packs.idx")) as connection, connection:
                    for number, key in enumerate(reversed(keys)):
                        connection.execute("UPDATE db_object SET offset = ? WHERE hashkey = ?", (number * 300, key))
    assert seen == contents
