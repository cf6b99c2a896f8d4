"""`copy` and the page copier."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import zipfile

import anyio
import pytest

from helpers import flip, flip_packed, loose_file
from objrepo import (
    ArchiveRepository,
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    ObjectNotFoundError,
    SandboxRepository,
    copy,
    export,
)
from objrepo.testing.fixtures import content_of

CONTENTS = [b"", b"small", *(b"%d" % number * 40 for number in range(50)), content_of(300_000), content_of(2_000_000)]


@pytest.fixture
async def other(tmp_path):
    async with DiskRepository(tmp_path / "other") as other:
        await other.initialise()
        yield other


async def listed(repo):
    return sorted([key async for key in repo.keys()])


class TestCopy:
    @pytest.mark.parametrize("state", ["loose", "packed"])
    async def test_every_object_is_copied_once(self, repo, other, state):
        keys = [await repo.put(content) for content in CONTENTS]
        if state == "packed":
            await repo.maintain(compress=True)
        steps = []
        report = await copy(repo, other, progress=steps.append)
        assert (report.objects, report.copied, report.size) == (len(CONTENTS), len(CONTENTS), sum(map(len, CONTENTS)))
        assert (report.ok, report.deleted, report.renamed) == (True, 0, {})
        assert (steps[-1].done, steps[-1].total) == (len(CONTENTS), len(CONTENTS))
        assert [await other.get(key, check=True) for key in keys] == CONTENTS
        again = await copy(repo, other)
        assert (again.objects, again.copied, again.size) == (len(CONTENTS), 0, 0)

    async def test_only_missing_objects_are_copied(self, repo, other, monkeypatch):
        keys = await repo.put_many(CONTENTS)
        await other.put_many(CONTENTS[:-3])
        put = []
        real = other.put_many
        monkeypatch.setattr(other, "put_many", lambda contents: (put.extend(contents), real(contents))[1])
        report = await copy(repo, other)
        assert report.copied == 3
        assert put == [CONTENTS[-3]], "the two large objects are copied as streams"
        assert all(await other.has_many(keys))

    async def test_given_keys_are_copied_and_missing_ones_raise(self, repo, other):
        keys = await repo.put_many(CONTENTS)

        async def some():
            for key in keys[3:6]:
                yield key

        assert (await copy(repo, other, keys[:3])).copied == 3
        assert (await copy(repo, other, some())).copied == 3
        assert await listed(other) == sorted(keys[:6])
        with pytest.raises(ObjectNotFoundError) as caught:
            await copy(repo, other, [keys[7], "0" * 64])
        assert caught.value.keys == ("0" * 64,)

    async def test_several_pages_are_copied(self, repo, other):
        await repo.put_many(b"%d" % number for number in range(5000))
        report = await copy(repo, other)
        assert report.copied == 5000
        assert await listed(other) == await listed(repo)

    async def test_a_dry_run_only_counts(self, repo, other):
        await repo.put_many(CONTENTS)
        await other.put_many([*CONTENTS[:2], b"extraneous"])
        report = await copy(repo, other, delete=True, dry_run=True)
        assert (report.dry_run, report.copied, report.deleted) == (True, len(CONTENTS) - 2, 1)
        assert report.size == sum(map(len, CONTENTS[2:]))
        assert len(await listed(other)) == 3

    async def test_extraneous_objects_are_deleted_only_if_their_number_is_given(self, repo, other):
        await repo.put_many(CONTENTS)
        extraneous = await other.put_many([b"extraneous", b"more"])
        for deletions in (None, 1, 3):
            with pytest.raises(ValueError, match="deletions=2"):
                await copy(repo, other, delete=True, deletions=deletions)
            assert all(await other.has_many(extraneous))
        assert (await copy(repo, other, delete=True, deletions=2)).deleted == 2
        assert await listed(other) == await listed(repo)
        assert (await copy(repo, other)).deleted == 0
        with pytest.raises(ValueError, match="cannot be combined with keys"):
            await copy(repo, other, [extraneous[0]], delete=True, deletions=1)

    async def test_damaged_objects_are_reported_and_not_copied(self, repo, folder, other):
        keys = await repo.put_many(CONTENTS[:10])
        keys += [await repo.put(content) for content in CONTENTS[-2:]]
        flip_packed(folder, keys[5])
        for key in keys[-2:]:
            flip(loose_file(folder, key), 1000)
        report = await copy(repo, other)
        assert not report.ok
        assert {item.key for item in report.damaged} == {keys[5], *keys[-2:]}
        assert await listed(other) == sorted(set(keys) - {item.key for item in report.damaged})
        assert (await other.verify()).ok

    async def test_damaged_objects_are_not_copied_to_a_repository_with_other_keys(self, repo, folder):
        keys = [await repo.put(content) for content in CONTENTS]
        for key in (keys[1], keys[-1]):
            flip(loose_file(folder, key), 1)
        async with SandboxRepository() as target:
            report = await copy(repo, target)
            assert {item.key for item in report.damaged} == {keys[1], keys[-1]}
            assert len(await listed(target)) == report.copied == len(CONTENTS) - 2

    async def test_keys_that_are_given_twice_are_copied_once(self, repo, tmp_path):
        key = await repo.put(b"content")

        async def many():
            for _ in range(2500):
                yield key

        async with MemoryRepository() as target:
            assert (await copy(repo, target, many())).ok
            assert await listed(target) == [key]
        for name in ("some.zip", "some.tar"):
            assert (await export(repo, tmp_path / name, many())).copied == 1
        with zipfile.ZipFile(tmp_path / "some.zip") as archive:
            assert archive.namelist() == [f"repo/{key}"]
        with tarfile.open(tmp_path / "some.tar") as archive:
            assert archive.getnames() == [f"repo/{key}"]

    async def test_a_damaged_object_that_was_not_requested_ends_the_copy(self, repo, other, monkeypatch):
        """A repository that names another key than it was asked for must not make the copy try again forever."""
        await repo.put_many([b"one", b"two"])

        def stream(keys, check=None):
            raise CorruptObjectError("0" * 64, "a key that was not requested")

        monkeypatch.setattr(repo, "stream", stream)
        with anyio.fail_after(5), pytest.raises(CorruptObjectError, match="not requested"):
            await copy(repo, other)

    @pytest.mark.parametrize("make", [SandboxRepository, MemoryRepository, DiskRepository])
    async def test_repositories_with_different_keys_rename_objects(self, repo, tmp_path, make):
        keys = await repo.put_many(CONTENTS)
        async with make(tmp_path / "third") if make is not MemoryRepository else make() as third:
            await third.initialise(**({"hash_type": "sha1"} if make is DiskRepository else {}))
            report = await copy(repo, third)
            renamed = report.renamed or {key: key for key in keys}
            assert [await third.get(renamed[key]) for key in keys] == CONTENTS
            if report.renamed:
                with pytest.raises(ValueError, match="different keys"):
                    await copy(repo, third, delete=True, dry_run=True)
            back = await copy(third, repo)
            assert back.objects == len(CONTENTS)
        assert await listed(repo) == sorted(keys)

    async def test_objects_deleted_after_the_listing_are_left_out(self, repo, other, monkeypatch):
        keys = await repo.put_many(b"%d" % number for number in range(20))
        real = other.has_many

        async def has_many(asked):
            await repo.delete_many([key for key in keys[:5] if await repo.has(key)])
            return await real(asked)

        monkeypatch.setattr(other, "has_many", has_many)
        report = await copy(repo, other)
        assert report.copied == 15
        assert await listed(other) == sorted(keys[5:])

    async def test_a_cancelled_copy_continues_when_called_again(self, repo, other):
        await repo.put_many(b"%d" % number * 50 for number in range(3000))
        copied = 0
        for number in range(300):
            with anyio.move_on_after(number / 1000) as scope:
                copied += (await copy(repo, other)).copied
            if not scope.cancelled_caught:
                break
        assert await listed(other) == await listed(repo)
        assert (await other.verify()).ok

    async def test_an_error_is_raised_without_an_exception_group(self, repo, other, monkeypatch):
        await repo.put_many(CONTENTS)

        async def broken(contents):
            raise OSError("no space left")

        monkeypatch.setattr(other, "put_many", broken)
        with pytest.raises(OSError, match="no space left"):
            await copy(repo, other)

    async def test_ctrl_c_in_a_progress_callback_is_raised_alone(self, repo, other):
        await repo.put_many(CONTENTS)

        def interrupt(progress):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await copy(repo, other, progress=interrupt)

    async def test_a_path_is_no_repository(self, repo, tmp_path):
        for call in (copy(repo, tmp_path / "other"), copy("source", repo), export("source", tmp_path / "some.zip")):
            with pytest.raises(TypeError, match=r"such as that of open_repository\(path\), not "):
                await call

    async def test_an_archive_cannot_be_the_target(self, repo, tmp_path):
        with zipfile.ZipFile(tmp_path / "some.zip", "w"):
            pass
        await repo.put_many(CONTENTS)
        async with ArchiveRepository(tmp_path / "some.zip") as archive:
            with pytest.raises(OSError, match="is read-only"):
                await copy(repo, archive)


def test_a_copy_that_was_killed_continues_when_run_again(tmp_path):
    make = f"""
import anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(tmp_path / "source")!r}) as source:
        await source.initialise()
        await source.put_many(b"%d" % number * 30 for number in range(4000))
        for number in range(20):
            await source.put(b"%d" % number * 100_000)
    async with objrepo.DiskRepository({str(tmp_path / "target")!r}) as target:
        await target.initialise()
anyio.run(main)
"""
    run = f"""
import anyio, objrepo
async def main():
    async with objrepo.DiskRepository({str(tmp_path / "source")!r}) as source:
        async with objrepo.DiskRepository({str(tmp_path / "target")!r}) as target:
            print("begun", flush=True)
            print((await objrepo.copy(source, target)).ok, (await target.verify()).ok, (await target.info()).objects)
anyio.run(main)
"""
    subprocess.run([sys.executable, "-c", make], check=True)
    killed = 0
    for number in range(10):
        with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                process.wait(0.01 * number)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
    assert killed
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert done.stdout == "begun\nTrue True 4020\n"
