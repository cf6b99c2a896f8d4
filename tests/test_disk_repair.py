"""Repair of a repository on disk: quarantine, sources of intact copies, invalid rows, unreadable files."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing, suppress

import pytest
from disk_objectstore import Container

from helpers import DAMAGED_SIZES, damaged_in_all_ways, flip, flip_packed, loose_file, own_pack, put_loose
from objrepo import CorruptObjectError, DiskRepository, RepositoryBusyError, SandboxRepository
from objrepo.testing.fixtures import content_of
from processes import drop_capabilities


def spoil_rows(folder, keys, column="offset"):
    """Put text into a column of the index where a number belongs."""
    with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as connection:
        connection.executemany(f"UPDATE db_object SET {column} = 'x' WHERE hashkey = ?", [(key,) for key in keys])


class TestInvalidRows:
    @pytest.mark.parametrize("column", ["offset", "length", "size"])
    async def test_maintain_keeps_a_pack_that_only_invalid_rows_name(self, repo, folder, column):
        keys = await repo.put_many([b"one", b"two"])
        other = await repo.put(b"loose")
        spoil_rows(folder, keys, column)
        with suppress(CorruptObjectError):
            await repo.maintain(live=False)
        assert own_pack(folder).read_bytes() == b"onetwo"
        assert await repo.get(other, check=True) == b"loose"

    async def test_maintain_rewrites_the_other_packs(self, repo, folder):
        with Container(folder) as container:
            packed = container.add_objects_to_pack([b"to go", b"stays"])
        spoiled = await repo.put_many([b"one", b"two"])
        spoil_rows(folder, spoiled[:1])
        await repo.delete_many([packed[0], spoiled[1]])
        with pytest.raises(CorruptObjectError, match=f"{spoiled[0]}.*no numbers"):
            await repo.maintain(live=False)
        assert sorted(path.stat().st_size for path in (folder / "packs").iterdir()) == [5, 6]
        assert await repo.get(packed[1], check=True) == b"stays"

    async def test_an_interrupted_repack_keeps_the_bytes_of_invalid_rows(self, repo, folder):
        with Container(folder) as container:
            keys = container.add_objects_to_pack([b"one", b"two"])
        (folder / "packs" / "0").rename(folder / "packs" / "-1")
        with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as connection:
            connection.execute("UPDATE db_object SET pack_id = -1")
        spoil_rows(folder, keys)
        await repo.repair(live=False)
        assert [path.read_bytes() for path in (folder / "packs").iterdir()] == [b"onetwo"]

    @pytest.mark.parametrize("intact", [False, True])
    async def test_repair_quarantines_an_invalid_row(self, repo, folder, intact):
        keys = await repo.put_many([b"one", b"two"])
        if intact:
            await repo.put(b"one")
        spoil_rows(folder, keys[:1])
        assert [damaged.key for damaged in (await repo.verify()).damaged] == keys[:1]
        report = await repo.repair()
        assert [(step.action, step.subject) for step in report.steps] == [
            ("restored" if intact else "quarantined", keys[0])
        ]
        assert "'x'" in (folder / "quarantine" / f"{keys[0]}.packed").read_text()
        assert (await repo.verify()).ok
        assert await repo.has_many(keys) == [intact, True]

    async def test_lengths_too_large_to_be_added_do_not_stop_verify(self, repo, folder):
        keys = await repo.put_many([b"one", b"two", b"three"])
        with closing(sqlite3.connect(folder / "packs.idx", isolation_level=None)) as connection:
            connection.execute(f"UPDATE db_object SET length = {2**63 - 1} WHERE hashkey <> ?", (keys[0],))
        assert {damaged.key for damaged in (await repo.verify()).damaged} == set(keys[1:])


class TestLostObjects:
    async def test_the_next_repair_with_a_source_takes_what_an_earlier_one_could_not(self, repo, folder, tmp_path):
        contents = [b"loose", b"packed"]
        async with DiskRepository(tmp_path / "source") as source, DiskRepository(tmp_path / "empty") as empty:
            await source.initialise()
            await empty.initialise()
            for content in contents:
                await source.put(content)
            keys = [await repo.put(b"loose"), *await repo.put_many([b"packed", b"other"])]
            flip(loose_file(folder, keys[0]), 1)
            flip_packed(folder, keys[1])
            assert set((await repo.repair(source=empty)).lost) == set(keys[:2])
            for key in keys[:2]:
                loose_file(source.path, key).chmod(0o644)
                flip(loose_file(source.path, key), 1)  # the source itself is damaged
            assert set((await repo.repair(source=source)).lost) == set(keys[:2])
            for key in keys[:2]:
                flip(loose_file(source.path, key), 1)
            dry = await repo.repair(dry_run=True, source=source)
            report = await repo.repair(source=source)
            assert report.steps == dry.steps
            assert {(step.action, step.subject) for step in report.steps} == {("refilled", key) for key in keys[:2]}
            assert [await repo.get(key, check=True) for key in keys] == [*contents, b"other"]
            await repo.delete_many(keys[:2])
            assert (await repo.repair(source=source)).steps == (), "what was deleted since does not come back"

    async def test_an_object_that_was_put_again_is_no_longer_lost(self, repo, folder, tmp_path):
        async with DiskRepository(tmp_path / "source") as source:
            await source.initialise()
            key = await repo.put(b"content")
            flip(loose_file(folder, key), 1)
            assert (await repo.repair()).lost == (key,)
            await repo.put(b"content")
            assert (await repo.repair(source=source)).steps == ()
            await source.put(b"content")
            await repo.delete(key)
            assert (await repo.repair(source=source)).steps == ()


UNREADABLE = """
    import os, sys
    from objrepo import DiskRepository
    from objrepo.offload import Inline
    from objrepo.sync.runner import InPlace
    call = InPlace().call
    repo = DiskRepository(sys.argv[1], Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    loose = [call(repo.put, b"loose %d" % number) for number in range(3)]
    packed = call(repo.put_many, [b"one", b"two"])
    path = lambda key: f"{sys.argv[1]}/loose/{key[:2]}/{key[2:]}"
    with open(path(loose[1]), "r+b") as file:
        file.write(b"L")
    unreadable = [path(loose[0]), sys.argv[1] + "/packs/1000000"]
    for each in unreadable:
        os.chmod(each, 0)
    for quick in (False, True):
        report = call(repo.verify, None, quick)
        damaged = {each.key: each.reason for each in report.damaged}
        if not quick:
            assert set(damaged) == {loose[0], loose[1], *packed}, damaged
            assert "Permission denied" in damaged[loose[0]] and "Permission denied" in damaged[packed[0]]
            assert report.objects == 5
    report = call(repo.repair)
    actions = {step.subject: step.action for step in report.steps}
    skipped = dict.fromkeys([loose[0], *packed], "skipped")
    assert actions == skipped | {loose[1]: "quarantined"}, actions
    for each in unreadable:
        os.chmod(each, 0o644)
    assert call(repo.get, loose[0], True) == b"loose 0"
    assert [call(repo.get, key, True) for key in packed] == [b"one", b"two"]
    assert call(repo.verify).ok
    print("done")
"""


def run_without_powers(script, folder):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        preexec_fn=drop_capabilities,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_verify_and_repair_go_on_past_unreadable_files(tmp_path):
    run_without_powers(UNREADABLE, tmp_path / "repository")


async def test_repair_goes_on_past_a_temporary_file_that_cannot_be_removed(repo, folder):
    (folder / "sandbox" / "a folder").mkdir()
    (folder / "sandbox" / "file").touch()
    report = await repo.repair(live=False)
    assert {os.path.basename(step.subject): step.action for step in report.steps} == {
        "a folder": "skipped",
        "file": "removed",
    }


async def test_a_quarantined_copy_is_whole_or_the_damaged_one_stays(repo, folder, monkeypatch):
    """Without space for the copy in the quarantine, the damaged bytes stay in the pack."""
    keys = await repo.put_many([b"one" * 1000, b"two" * 1000])
    flip_packed(folder, keys[0])
    (folder / "quarantine").mkdir()
    real_open = open

    def opened(path, mode="r", *arguments, **options):
        inside = str(path).startswith(f"{folder}/quarantine/")
        return real_open("/dev/full", "wb") if inside else real_open(path, mode, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", opened)
        report = await repo.repair()
    assert [(step.action, step.subject) for step in report.steps] == [("skipped", keys[0])]
    assert await repo.has(keys[0])
    assert [damaged.key for damaged in (await repo.verify()).damaged] == [keys[0]]


class TestRepair:
    async def test_repair_of_an_intact_repository_does_nothing(self, repo):
        await repo.put(b"content")
        report = await repo.repair()
        assert (report.steps, report.lost) == ((), ())

    @pytest.mark.parametrize("live", [True, False])
    async def test_damaged_objects_are_quarantined(self, repo, folder, live):
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

    async def test_damaged_objects_are_restored_from_another_repository(self, repo, folder, tmp_path):
        async with DiskRepository(tmp_path / "other") as other:
            await other.initialise()
            sources = [content_of(size, seed) for size in DAMAGED_SIZES for seed in (2, 3)]
            keys = await other.put_many(sources)
            broken = await other.put(content_of(DAMAGED_SIZES[1], 4))
            flip(loose_file(tmp_path / "other", broken), 9)
            damaged, _ = await damaged_in_all_ways(repo, folder)
            report = await repo.repair(source=other)
        refilled = {step.subject for step in report.steps if step.action == "refilled"}
        assert refilled == set(keys) & set(damaged)
        assert set(report.lost) == set(damaged) - refilled
        for key, content in zip(keys, sources, strict=True):
            assert await repo.get(key, check=True) == content
        assert (await repo.verify()).ok

    async def test_damaged_copies_are_restored_from_an_intact_copy(self, repo, folder):
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

    async def test_temporary_errors_are_not_damage(self, repo, folder, monkeypatch):
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

    async def test_an_object_is_quarantined_each_time_it_is_damaged(self, repo, folder):
        for number in range(3):
            key = await repo.put(b"content")
            flip(loose_file(folder, key), 2)
            assert (await repo.repair()).lost == (key,)
            assert len(quarantined(folder)) == number + 1

    async def test_a_source_with_another_key_format_raises_value_error(self, repo):
        async with SandboxRepository() as other:
            with pytest.raises(ValueError, match="uuid4"):
                await repo.repair(source=other)

    async def test_exclusive_repair_removes_leftovers(self, repo, folder):
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
    async def test_a_killed_repack_of_disk_objectstore_is_finished(self, repo, folder, monkeypatch, point, by):
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


def quarantined(folder):
    """Return the files in the quarantine, without the marks of lost objects."""
    return [name for name in os.listdir(folder / "quarantine") if not name.endswith(".lost")]
