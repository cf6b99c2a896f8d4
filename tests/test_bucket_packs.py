"""Packs in a bucket: their format, the local index, maintenance, repair, and how many requests each call takes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objrepo import CorruptObjectError, ObjectNotFoundError, RepositoryBusyError, RepositoryError, S3Repository
from objrepo.bucket import encoding
from objrepo.bucket.age import Moment
from objrepo.bucket.encoding import DamagedError, Entry, Place, SnapshotHead, Span
from objrepo.bucket.listing import pages
from objrepo.bucket.local_index import LocalIndex
from s3_server import s3_server

hashes = st.binary(min_size=32, max_size=32)
spans = st.builds(Span, hashes, st.integers(0, 2**28 - 1), st.integers(0, 2**44 - 1))
entries = st.builds(
    Entry,
    rows=st.dictionaries(hashes, st.lists(spans, max_size=5).map(sorted), max_size=3),
    **{name: st.frozensets(hashes, max_size=4) for name in ("deleted", "tombstones", "forgotten", "retired", "gone")},
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
async def repo(server, tmp_path):
    async with S3Repository(**server.options, retry_timeout=2, index=str(tmp_path / "index")) as repo:
        await repo.initialise()
        server.requests.clear()
        yield repo


@pytest.fixture
async def other(server, repo, tmp_path):
    """The same repository on another machine."""
    async with S3Repository(**server.options, retry_timeout=2, index=str(tmp_path / "other")) as other:
        yield other


def small(count, start=0):
    return [b"content %d" % number for number in range(start, start + count)]


def names(server, folder):
    return sorted(name for name in server.objects if name.startswith(f"{folder}/"))


def with_flipped_bit(content, position):
    damaged = bytearray(content)
    damaged[position] ^= 1
    return bytes(damaged)


def let_a_day_pass(server):
    for name in server.modified:
        server.modified[name] -= 90_000


class TestEncoding:
    @given(entry=entries, position=st.integers(0, 10**6))
    def test_an_entry_is_decoded_or_known_to_be_damaged(self, entry, position):
        content = encoding.encode_entry(entry)
        assert encoding.decode_entry(content) == entry
        assert encoding.encode_entry(entry) != content, "no two writers write the same"
        for damaged in (with_flipped_bit(content, position % len(content)), content[: position % len(content)]):
            with pytest.raises(DamagedError):
                encoding.decode_entry(damaged)

    @given(rows=st.lists(spans, max_size=5), position=st.integers(0, 10**6))
    def test_a_footer_is_decoded_or_known_to_be_damaged(self, rows, position):
        pack, content = encoding.encode_footer(rows)
        assert encoding.footer_size(content[-64:]) == len(content)
        assert encoding.decode_footer(pack, content) == sorted(rows)
        with pytest.raises(DamagedError):
            encoding.decode_footer(pack, with_flipped_bit(content, position % len(content)))
        with pytest.raises(DamagedError):
            encoding.decode_footer(bytes(32), content)

    @given(numbers=st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 2**28 - 1), st.integers(0, 2**44 - 1)))
    def test_locations(self, numbers):
        assert encoding.decode_location(encoding.encode_location(*numbers)) == numbers
        assert len(encoding.encode_location(*numbers)) + 32 == encoding.ROW_BYTES == 44

    def test_what_does_not_fit_is_refused(self):
        for span in (Span(bytes(32), 2**28, 1), Span(bytes(32), 0, 2**44)):
            with pytest.raises(ValueError, match="do not fit"):
                encoding.encode_footer([span])
        with pytest.raises(ValueError, match="more than 16777216 packs"):
            encoding.encode_location(2**24, 0, 0)

    def test_the_head_of_a_snapshot(self):
        head = SnapshotHead(1, 2, 3, 4, 5)
        assert SnapshotHead.decode(head.encode()) == head
        assert head.size == 64 + 2 * 32 + 7 * 40 + 5 * 44 + 32
        for damaged in (head.encode()[:-1], bytes(64)):
            with pytest.raises(DamagedError):
                SnapshotHead.decode(damaged)


class TestLocalIndex:
    @given(data=st.data())
    @settings(max_examples=30, deadline=None)
    def test_it_is_a_dictionary(self, data):
        keys = [bytes([number]) * 32 for number in range(0, 250, 10)]
        packs = [bytes([number]) * 32 for number in range(3)]
        some = st.frozensets(st.sampled_from(keys), max_size=6)
        with TemporaryDirectory() as folder:
            index = LocalIndex(Path(folder) / "index")
            model: dict[bytes, Place] = {}
            tombstones: dict[bytes, int] = {}
            for number in range(1, data.draw(st.integers(2, 6))):
                rows = {pack: [Span(key, number, 7) for key in data.draw(some)] for pack in packs}
                entry = Entry(rows=rows, deleted=data.draw(some), tombstones=data.draw(some), forgotten=data.draw(some))
                index.apply(number, entry)
                index.apply(number, entry)
                index.apply(number + 2, entry)
                model |= {span.key: Place(pack, number, 7) for pack in packs for span in rows[pack]}
                for key in entry.deleted:
                    model.pop(key, None)
                tombstones |= dict.fromkeys(entry.deleted | entry.tombstones, number)
                tombstones = {key: each for key, each in tombstones.items() if key not in entry.forgotten}
                if data.draw(st.booleans()):
                    self.reload(index, model, tombstones, number)
                assert index.number == number
                assert index.places(keys) == model
                assert index.tombstones(keys) == tombstones
                after, end = sorted(data.draw(st.tuples(*[st.sampled_from([b"", *keys, b"\xff" * 33])] * 2)))
                with index.scan() as scan:
                    found = [(key, encoding.decode_location(location)) for key, location in scan.rows(after, end)]
                    assert [(key, Place(scan.packs[pack], *rest)) for key, (pack, *rest) in found] == [
                        (key, model[key]) for key in sorted(model) if after < key <= end
                    ]
                    assert scan.tombstones(after, end) == sorted(
                        (key, each) for key, each in tombstones.items() if after < key <= end
                    )
            index.close()

    def reload(self, index, model, tombstones, number):
        """Replace the content by a snapshot of it."""
        packs = sorted({place.pack for place in model.values()})
        rows = [key + encoding.encode_location(packs.index(model[key].pack), *model[key][1:]) for key in sorted(model)]
        chunks = [b"".join(rows[start : start + 3]) for start in range(0, len(rows), 3)]
        index.load(number, number, packs, tombstones.items(), (), chunks)

    def test_a_load_that_fails_changes_nothing(self, tmp_path):
        def damaged():
            yield b"k" * 32 + bytes(12)
            raise DamagedError("its checksum is wrong")

        index = LocalIndex(tmp_path / "index")
        index.apply(1, Entry(rows={b"p" * 32: [Span(b"k" * 32, 1, 2)]}))
        with pytest.raises(DamagedError):
            index.load(5, 1, [b"q" * 32], chunks=damaged())
        assert index.number == 1
        assert index.places([b"k" * 32]) == {b"k" * 32: Place(b"p" * 32, 1, 2)}
        index.close()

    async def test_one_that_is_damaged_is_made_anew(self, repo, server, tmp_path):
        contents = small(10)
        keys = await repo.put_many(contents)
        (path,) = (tmp_path / "index").glob("*.index")
        for damage in ("overwritten", "truncated", "of another version", "removed", "emptied"):
            await repo.__aexit__(None, None, None)
            if damage == "overwritten":
                path.write_bytes(os.urandom(10_000))
            elif damage == "truncated":
                path.write_bytes(path.read_bytes()[:5000])
            elif damage == "of another version":
                with sqlite3.connect(path) as db:
                    db.execute("PRAGMA user_version = 99")
                db.close()
            elif damage == "removed":
                path.unlink()
            else:
                path.write_bytes(b"")
            await repo.__aenter__()
            assert [await repo.get(key) for key in keys] == contents, damage
            assert await repo.put_many(contents) == keys
        assert len(names(server, "packs")) == 1, "none was stored again"

    async def test_one_that_is_damaged_while_it_is_open(self, repo, tmp_path):
        contents = small(3000)
        keys = await repo.put_many(contents)
        (path,) = (tmp_path / "index").glob("*.index")
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(path.stat().st_size - 8192))
        for key, content in list(zip(keys, contents, strict=True))[::300]:
            assert await repo.get(key) == content
        assert all(await repo.has_many(keys))

    def test_one_that_is_opened_while_another_process_removes_it(self, tmp_path, monkeypatch):
        """The file and its log have different names: who opens it in between would write to a log that is removed."""
        path = tmp_path / "index"
        first, second = LocalIndex(path), LocalIndex(path)
        first.apply(1, Entry(deleted=frozenset([b"k" * 32])))
        threads = []
        unlink = Path.unlink

        def unlink_and_open(self, **options):
            unlink(self, **options)
            if self == path:
                threads.append(threading.Thread(target=second.apply, args=(1, Entry(deleted=frozenset([b"l" * 32])))))
                threads[-1].start()
                threads[-1].join(0.3)

        monkeypatch.setattr(Path, "unlink", unlink_and_open)
        first.remove()
        monkeypatch.undo()
        threads[0].join()
        assert first.number == second.number == 1
        assert first.tombstones([b"l" * 32]) == {b"l" * 32: 1}
        for index in (first, second):
            index.close()

    async def test_a_folder_that_cannot_be_written(self, server, repo, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        async with S3Repository(**server.options, index=str(tmp_path / "file")) as unwritable:
            with pytest.raises(OSError, match="file"):
                await unwritable.put(b"content")

    async def test_a_cache_folder_that_cannot_be_written(self, server, repo, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setattr("objrepo.bucket.backend.cache_folder", lambda: tmp_path / "file" / "objrepo")
        async with S3Repository(**server.options) as other:
            key = await other.put(b"content")
            (folder,) = {Path(other.backend._temporary.name)}
            assert len(list(folder.iterdir())) >= 1
        assert "pass index=" in caplog.text
        assert not folder.exists()
        assert await repo.get(key) == b"content"

    async def test_the_same_bucket_copied_elsewhere_has_an_index_of_its_own(self, repo, server, tmp_path):
        keys = await repo.put_many(small(10))
        with s3_server() as second:
            second.objects.update(server.objects)
            await repo.delete_many(keys)
            async with S3Repository(**second.options, index=str(tmp_path / "index")) as copied:
                assert all(await copied.has_many(keys))
                assert await copied.get(keys[0]) == b"content 0"
        assert not any(await repo.has_many(keys))

    async def test_a_bucket_that_was_restored_from_a_backup(self, repo, server):
        keys = await repo.put_many(small(10))
        backup = dict(server.objects)
        later = await repo.put_many(small(10, 10))
        server.objects.clear()
        server.objects.update(backup)
        assert await repo.has_many(keys) == [True] * 10
        assert await repo.has_many(later) == [False] * 10
        assert await repo.put_many(small(10, 10)) == later
        assert [await repo.get(key) for key in later] == small(10, 10)


class Clock:
    """The time that the repository sees.

    :ivar seconds: it is changed by tests.
    """

    seconds = 1000.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("objrepo.bucket.age.clocks", lambda: (clock.seconds, 0.0))
    return clock


class TestTime:
    async def test_a_pack_that_is_stored_as_the_hour_ends(self, repo, server, clock):
        await repo.put_many(small(2))
        clock.seconds += 3590

        def be_slow(method, name, *_):
            clock.seconds += 20 if name.startswith("packs/") else 0

        server.answer = be_slow
        (key, _) = await repo.put_many(small(2, 2))
        assert await repo.get(key) == b"content 2"

    async def test_a_pack_that_takes_two_hours(self, repo, server, clock):
        """The log may have been replaced by a snapshot meanwhile, so its end is looked for again."""
        pauses = [7200]

        def be_slow(method, name, *_):
            clock.seconds += pauses.pop() if name.startswith("packs/") and pauses else 0

        server.answer = be_slow
        keys = await repo.put_many(small(2))
        assert [await repo.get(key) for key in keys] == small(2)

    async def test_a_removal_is_not_repeated_a_day_later(self, repo, other, server, clock):
        """The machine slept while it waited for an answer; meanwhile, the object was forgotten and stored again."""
        key = await repo.put(b"content")
        removals = []

        def sleep(method, name, query, headers):
            if method == "POST" and query.startswith("delete"):
                removals.append(name)
                clock.seconds += 90_000
                return 503, "SlowDown"
            return None

        server.answer = sleep
        await repo.delete(key)
        assert len(removals) == 1
        assert not await other.has(key)

    async def test_an_object_that_was_deleted_elsewhere_is_read_for_an_hour_at_most(self, repo, other, clock):
        (key, _) = await repo.put_many(small(2))
        assert await other.has(key)
        await repo.delete(key)
        assert await other.get(key) == b"content 0", "its index is not brought up to date by each get"
        clock.seconds += 3600
        with pytest.raises(ObjectNotFoundError):
            await other.get(key)

    def test_it_passes_by_every_clock(self, monkeypatch):
        times = [0.0, 0.0]
        monkeypatch.setattr("objrepo.bucket.age.clocks", lambda: tuple(times))
        moment = Moment()
        for passed, is_recent in (([3599, 3599], True), ([3600, 0], False), ([0, 3600], False), ([-9000, 3599], True)):
            times[:] = passed
            assert moment.is_recent() == is_recent


async def test_files_of_other_programs_are_ignored_and_stay(repo, other, server):
    theirs = ["log/0-notes", "log/notes.txt", "log/17", "snapshots/README", f"packs/{'z' * 64}", "packs/data.csv"]
    server.objects.update(dict.fromkeys(theirs, b"theirs"))
    keys = await repo.put_many(small(10))
    assert all(await other.has_many(keys))
    await repo.maintain(live=False)
    await repo.maintain(live=False)
    assert await other.get(keys[0]) == b"content 0"
    assert (await repo.verify()).ok
    for name in names(server, "snapshots")[:1]:
        del server.objects[name]
    await repo.repair(live=False)
    assert all(await repo.has_many(keys))
    assert {name for name in server.objects if server.objects[name] == b"theirs"} == set(theirs)


def test_a_listing_follows_the_packs(tmp_path):
    """Else each pack of a large repository is read many times by a copy, and by `verify`."""
    index = LocalIndex(tmp_path / "index")
    packs = [bytes([number]) * 32 for number in range(2)]
    keys = [number.to_bytes(32) for number in range(70_000)]
    index.load(1, 0, packs, chunks=[b"".join(key + encoding.encode_location(key[-1] % 2, 8, 1) for key in keys)])
    log = SimpleNamespace(index=index, update=lambda: 1, look=lambda keys: ({}, {}))
    loose = SimpleNamespace(pages=lambda after="": iter([([], "g")]))
    found = [item.place.pack for items in pages(log, loose) for item in items]
    assert found == sorted(found)
    assert len(found) == len(keys)
    index.close()


class TestRequests:
    """These numbers are in `docs/buckets.md`."""

    async def count(self, server, function):
        server.requests.clear()
        result = await function
        return len(server.requests), result

    async def test_many_objects(self, repo, other, server):
        contents = small(20_000)
        assert not await other.has("0" * 64)
        count, keys = await self.count(server, repo.put_many(contents))
        assert count <= 15
        count, again = await self.count(server, repo.put_many(contents))
        assert count <= 10
        assert again == keys
        count, found = await self.count(server, repo.has_many(keys))
        assert (count, all(found)) == (1, True)
        assert (await self.count(server, self.read_all(repo, keys)))[0] <= 100
        assert (await self.count(server, other.has_many(keys)))[0] <= 30
        assert (await self.count(server, repo.verify()))[0] <= 150
        assert (await self.count(server, repo.delete_many(keys)))[0] == 1

    async def read_all(self, repo, keys):
        async with repo.stream(keys) as objects:
            assert sorted([key async for key, _ in objects]) == sorted(keys)

    async def test_single_objects(self, repo, server):
        assert (await self.count(server, repo.put(b"first")))[0] == 3, "it reads the first entry of the log"
        count, key = await self.count(server, repo.put(b"content"))
        assert count == 2
        assert (await self.count(server, repo.put(b"content")))[0] == 2
        assert (await self.count(server, repo.get(key)))[0] == 1
        assert (await self.count(server, repo.has(key)))[0] == 2
        assert (await self.count(server, repo.has("0" * 64)))[0] == 2
        (packed, _) = await repo.put_many([b"one", b"two"])
        assert (await self.count(server, repo.put(b"one")))[0] == 1
        assert (await self.count(server, repo.get(packed)))[0] == 1
        assert (await self.count(server, repo.size(packed)))[0] == 0
        assert (await self.count(server, repo.has(packed)))[0] == 1
        assert (await self.count(server, repo.delete(packed)))[0] == 1

    async def test_a_thousand_puts_at_once(self, repo, server):
        contents = small(1000)

        async def put_all():
            async with anyio.create_task_group() as group:
                for content in contents:
                    group.start_soon(repo.put, content)

        assert (await self.count(server, put_all()))[0] <= 100
        assert len([key async for key in repo.keys()]) == 1000

    async def test_what_another_machine_has_packed(self, repo, other, server):
        (first, *_) = await repo.put_many(small(10))
        await other.has(first)
        (second, *_) = await repo.put_many(small(10, 10))
        assert (await self.count(server, other.has(second)))[0] == 3
        (third, *_) = await repo.put_many(small(10, 20))
        assert (await self.count(server, other.get(third)))[0] <= 4


class TestManyMachines:
    async def test_a_deleted_object_is_stored_again(self, repo, other):
        """Deduplication does not rest on an index that is out of date."""
        for contents in (small(10), [b"alone"]):
            keys = await repo.put_many(contents)
            assert all(await other.has_many(keys))
            await repo.delete_many(keys)
            assert await other.put_many(contents) == keys
            assert [await repo.get(key) for key in keys] == contents

    async def test_the_loose_object_of_a_deleted_one_does_not_count(self, repo, other, server):
        """Its writer was killed before it had removed it."""
        key = await repo.put(b"content")
        loose = server.objects[f"{key[:2]}/{key[2:]}"]
        await repo.delete(key)
        server.objects[f"{key[:2]}/{key[2:]}"] = loose
        for each in (repo, other):
            assert not await each.has(key)
            with pytest.raises(ObjectNotFoundError):
                await each.get(key)
            with pytest.raises(ObjectNotFoundError):
                await each.delete(key)
            assert [each async for each in each.keys()] == []
            assert (await each.info()).objects == 0
        assert await other.put(b"content") == key
        assert await repo.get(key) == b"content"
        await repo.maintain()
        assert names(server, key[:2]) == []
        assert await repo.get(key) == b"content"

    async def test_a_large_object_is_stored_again(self, repo, server):
        content = os.urandom(5 * 1024 * 1024)
        key = await repo.put(content)
        await repo.delete(key)
        assert await repo.put(content) == key
        assert await repo.get(key) == content
        async with repo.open(key, offset=3_000_000, length=10) as stream:
            assert await stream.read() == content[3_000_000:3_000_010]
        await repo.maintain(live=False)
        await repo.maintain(live=False)
        assert len(names(server, "packs")) == 1
        assert await repo.get(key) == content
        assert (await repo.verify()).ok

    async def test_a_reader_with_an_old_index(self, repo, other, server):
        """What it knows has been moved to other packs, and the log that it has seen is gone."""
        contents = small(100)
        keys = await repo.put_many(contents)
        assert await other.get(keys[0]) == contents[0]
        await repo.delete_many(keys[30:])
        for _ in range(2):
            await repo.maintain(live=False)
        assert names(server, "log") == names(server, "log")[-1:]
        assert [await other.get(key) for key in keys[:30]] == contents[:30]
        for key in keys[30:]:
            with pytest.raises(ObjectNotFoundError):
                await other.get(key)
        with pytest.raises(ObjectNotFoundError):
            async with other.stream(keys):
                pass


class TestMaintenance:
    async def test_loose_objects_are_packed(self, repo, other, server):
        contents = small(20)
        keys = [await repo.put(content) for content in contents]
        large = await repo.put(bytes(100_000))
        assert names(server, "packs") == []
        (planned, *_) = [step for step in (await repo.maintain(dry_run=True)).steps if step.name == "pack_loose"]
        assert (planned.objects, planned.size) == (20, sum(map(len, contents)))
        assert names(server, "packs") == []
        assert planned in (await repo.maintain()).steps
        assert len(names(server, "packs")) == 1
        assert [name for name in server.objects if name[2] == "/"] == [f"{large[:2]}/{large[2:]}"]
        assert [await other.get(key) for key in keys] == contents
        assert (await other.info()).objects == 21
        assert await other.put(contents[0]) == keys[0]

    async def test_packs_with_holes_are_rewritten(self, repo, server):
        contents = small(100)
        keys = await repo.put_many(contents)
        before = names(server, "packs")
        await repo.delete_many(keys[20:])
        report = await repo.maintain()
        assert [step.objects for step in report.steps if step.name == "repack"] == [20]
        assert before[0] in names(server, "packs"), "it is not a day old"
        let_a_day_pass(server)
        await repo.maintain()
        assert len(names(server, "packs")) == 1
        assert before[0] not in names(server, "packs")
        assert [await repo.get(key) for key in keys[:20]] == contents[:20]

    async def test_small_packs_are_put_together(self, repo, server):
        keys = [key for start in range(0, 100, 10) for key in await repo.put_many(small(10, start))]
        await repo.maintain(live=False)
        assert len(names(server, "packs")) == 1
        assert [await repo.get(key) for key in keys] == small(100)

    async def test_packs_that_are_put_together_are_full(self, repo, server, monkeypatch):
        monkeypatch.setattr("objrepo.bucket.packs.PACK_BYTES", 2000)
        for module in ("maintenance.PACK_BYTES", "maintenance._SMALL_PACK"):
            monkeypatch.setattr(f"objrepo.bucket.{module}", 2000)
        contents = [os.urandom(300) for _ in range(60)]
        for start in range(0, 60, 2):
            await repo.put_many(contents[start : start + 2])
        await repo.maintain(live=False)
        assert len(names(server, "packs")) == 12, "5 objects of 344 bytes, with their rows, fit into each"

    async def test_a_damaged_object_stays_where_it_is(self, repo, server):
        keys = await repo.put_many(small(10))
        (pack,) = names(server, "packs")
        server.objects[pack] = with_flipped_bit(server.objects[pack], 3)
        await repo.delete_many(keys[5:])
        await repo.maintain(live=False)
        assert pack in names(server, "packs")
        with pytest.raises(CorruptObjectError):
            await repo.get(keys[0])
        assert [await repo.get(key) for key in keys[1:5]] == small(10)[1:5]
        report = await repo.verify()
        assert [each.key for each in report.damaged] == [keys[0]]

    async def test_snapshots_replace_the_log(self, repo, other, server, monkeypatch):
        for number in range(40):
            keys = await repo.put_many(small(2, 2 * number))
        await repo.maintain()
        assert len(names(server, "snapshots")) == 1
        assert len(names(server, "log")) >= 40, "readers that are following it may need it for a day"
        let_a_day_pass(server)
        await repo.maintain()
        assert len(names(server, "log")) < 10
        assert all(await other.has_many(keys))
        assert len([key async for key in other.keys()]) == 80

    async def test_one_process_at_a_time(self, repo, server):
        server.objects["lease"] = json.dumps({"holder": "another", "until": time.time() + 60}).encode()
        with pytest.raises(RepositoryBusyError, match="another process maintains s3://bucket"):
            await repo.maintain()
        await repo.maintain(dry_run=True)
        server.objects["lease"] = json.dumps({"holder": "another", "until": time.time() - 1}).encode()
        await repo.maintain()
        assert "until" not in json.loads(server.objects["lease"])

    async def test_a_process_that_was_taken_over_stops(self, repo, server, monkeypatch):
        await repo.put(b"content")

        def take_over(method, name, *_):
            if name.startswith("packs/"):
                server.objects["lease"] = json.dumps({"holder": "another", "until": time.time() + 60}).encode()

        monkeypatch.setattr("objrepo.bucket.lease._SECONDS", -1.0)  # each step renews it
        server.answer = take_over
        with pytest.raises(RepositoryBusyError, match="another process has begun to maintain"):
            await repo.maintain()
        assert json.loads(server.objects["lease"])["holder"] == "another"
        assert await repo.get(hashlib.sha256(b"content").hexdigest()) == b"content"


class TestFormats:
    async def test_format_1_is_read_and_written_as_before_until_it_is_upgraded(self, repo, server, monkeypatch):
        marker = json.loads(server.objects["objrepo.json"])
        server.objects["objrepo.json"] = json.dumps({**marker, "objrepo": 1}).encode()
        del server.objects["log/0000000000000001"]
        await repo.__aexit__(None, None, None)
        await repo.__aenter__()
        keys = await repo.put_many(small(10))
        assert all(await repo.has_many(keys))
        await repo.maintain()
        assert names(server, "packs") == []
        assert "upgrade" in [step.name for step in (await repo.maintain(dry_run=True, upgrade=True)).steps]
        assert json.loads(server.objects["objrepo.json"])["objrepo"] == 1
        await repo.maintain(upgrade=True)
        assert json.loads(server.objects["objrepo.json"]) == {**marker, "objrepo": 2}
        assert len(names(server, "packs")) == 1
        assert [await repo.get(key) for key in keys] == small(10)
        assert "upgrade" not in [step.name for step in (await repo.maintain(upgrade=True)).steps]

    @pytest.mark.parametrize("conditions", ["refused", "ignored"])
    async def test_a_store_without_conditional_writes_gets_format_1(self, server, conditions):
        server.ignores_conditions = conditions == "ignored"
        if conditions == "refused":
            server.answer = lambda *request: (501, "NotImplemented") if "if-none-match" in request[-1] else None
        async with S3Repository(**server.options, retry_timeout=2) as repo:
            await repo.initialise()
            keys = await repo.put_many(small(10))
            assert [await repo.get(key) for key in keys] == small(10)
            assert json.loads(server.objects["objrepo.json"])["objrepo"] == 1
            with pytest.raises(RepositoryError, match="has no conditional writes"):
                await repo.maintain(upgrade=True)

    async def test_an_unknown_format(self, repo, server):
        marker = json.loads(server.objects["objrepo.json"])
        server.objects["objrepo.json"] = json.dumps({**marker, "objrepo": 3}).encode()
        await repo.__aexit__(None, None, None)
        await repo.__aenter__()
        with pytest.raises(RepositoryError, match="use a release that supports it"):
            await repo.put(b"content")


class TestRepair:
    @pytest.mark.parametrize("damage", ["entry lost", "entry damaged", "all lost", "snapshot damaged"])
    async def test_the_log_is_made_anew_from_the_packs(self, repo, other, server, damage):
        keys = await repo.put_many(small(2000))
        loose = await repo.put(b"alone")
        if damage == "snapshot damaged":
            await repo.maintain(live=False)
            (name,) = names(server, "snapshots")
            server.objects[name] = with_flipped_bit(server.objects[name], 200)
        elif damage == "entry damaged":
            name = names(server, "log")[-1]
            server.objects[name] = with_flipped_bit(server.objects[name], 200)
        else:
            for name in names(server, "log")[: 1 if damage == "entry lost" else None]:
                del server.objects[name]
        with pytest.raises(RepositoryError, match=r"repair\(live=False\)"):
            await other.has(keys[0])
        assert (await other.repair(dry_run=True)).steps[0].action == "recovered"
        with pytest.raises(ValueError, match="while other programs use it"):
            await other.repair()
        await other.repair(live=False)
        for each in (other, repo):
            assert all(await each.has_many([*keys, loose]))
            assert await each.get(keys[0]) == b"content 0"
        more = await repo.put_many(small(2, 5000))
        assert await other.has_many(more) == [True, True]

    @pytest.mark.parametrize("damage", ["a bit", "its end"])
    async def test_a_pack_with_a_damaged_list_is_found_and_written_anew(self, repo, other, server, damage):
        keys = await repo.put_many(small(10))
        await repo.delete(keys[9])
        (pack,) = names(server, "packs")
        content = server.objects[pack]
        server.objects[pack] = with_flipped_bit(content, -70) if damage == "a bit" else content[:-1]
        assert [await other.get(key) for key in keys[:9]] == small(9)
        assert (await repo.verify(quick=True)).ok
        report = await repo.verify()
        assert (report.objects, report.size) == (9, sum(map(len, small(9))))
        assert [each.key for each in report.damaged] == [pack]
        assert [step.subject for step in (await repo.repair(dry_run=True)).steps] == [pack]
        assert len(names(server, "packs")) == 1
        (step,) = (await repo.repair(live=False)).steps
        assert (step.action, step.subject) == ("recovered", pack)
        await repo.maintain(live=False)
        assert pack not in names(server, "packs")
        assert (await repo.verify()).ok
        assert [await other.get(key) for key in keys[:9]] == small(9)

    async def test_an_intact_repository_is_not_changed(self, repo, other, server):
        """Otherwise deleted objects would come back."""
        keys = await repo.put_many(small(10))
        loose = await repo.put(b"alone")
        await repo.delete_many([*keys[:5], loose])
        before = dict(server.objects)
        assert (await other.repair(live=False)).steps == ()
        assert {name for name in before if before[name] != server.objects.get(name)} <= {"lease"}
        assert await other.has_many([*keys, loose]) == [False] * 5 + [True] * 5 + [False]

    async def test_a_damaged_pack_is_skipped(self, repo, server):
        keys = await repo.put_many(small(10))
        more = await repo.put_many(small(10, 10))
        damaged = next(name for name in names(server, "packs") if b"content 5" in server.objects[name])
        server.objects[damaged] = server.objects[damaged][:-1]
        for name in names(server, "log"):
            del server.objects[name]
        steps = (await repo.repair(live=False)).steps
        assert [(step.action, step.subject) for step in steps[1:]] == [("skipped", damaged)]
        assert not any(await repo.has_many(keys))
        assert all(await repo.has_many(more))

    async def test_format_1_needs_none(self, server):
        server.answer = lambda *request: (501, "NotImplemented") if "if-none-match" in request[-1] else None
        async with S3Repository(**server.options, retry_timeout=2) as repo:
            await repo.initialise()
            assert (await repo.repair(live=False)).steps == ()


class TestLostPacks:
    async def test_a_pack_that_is_missing_is_damage(self, repo, server):
        keys = await repo.put_many(small(10))
        (pack,) = names(server, "packs")
        content = server.objects.pop(pack)
        with pytest.raises(CorruptObjectError, match=r"its pack [0-9a-f]+ does not exist"):
            await repo.get(keys[0])
        assert len((await repo.verify()).damaged) == 10
        server.objects[pack] = content[:50]
        with pytest.raises(CorruptObjectError):
            await repo.get(keys[-1])
        assert len((await repo.verify()).damaged) >= 5


async def test_erase_removes_everything(repo, server, tmp_path):
    keys = await repo.put_many(small(10))
    await repo.put(b"alone")
    await repo.delete(keys[0])
    await repo.maintain(live=False)
    await repo.erase()
    assert server.objects == {}
    assert list((tmp_path / "index").iterdir()) == []
