"""Reading zips of objects, such as AiiDA archives."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile

import anyio
import pytest

from helpers import flip, loose_file, open_files
from objrepo import (
    ArchiveRepository,
    CorruptObjectError,
    DiskRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryError,
    SandboxRepository,
    copy,
    export,
)
from objrepo.testing.fixtures import content_of
from web import serving

CONTENTS = [b"", b"small", b"zeros" * 1000, content_of(200_000), content_of(3_000_000)]


def key_of(content):
    return hashlib.sha256(content).hexdigest()


def make(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        for content in contents:
            archive.writestr(f"repo/{key_of(content)}", content)
        archive.writestr("repo/no-key", b"")
        archive.writestr("0" * 64, b"in another folder")
    return path


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
async def archive(request, tmp_path):
    async with ArchiveRepository(make(tmp_path / "some.aiida", CONTENTS, request.param)) as archive:
        yield archive


class TestReading:
    async def test_an_archive_is_read_as_any_repository(self, archive, tmp_path):
        keys = [key_of(content) for content in CONTENTS]
        for key, content in zip(keys, CONTENTS, strict=True):
            assert await archive.get(key) == await archive.get(key, check=True) == content
            assert (await archive.size(key), await archive.hash(key)) == (len(content), key)
            async with archive.open(key, offset=3, length=100_000) as stream:
                assert await stream.read() == content[3:100_003]
            async with archive.open(key, check=True) as stream:
                assert b"".join([chunk async for chunk in stream]) == content
                await stream.seek(len(content) // 2)
                assert await stream.read() == content[len(content) // 2 :]
        assert sorted([key async for key in archive.keys()]) == sorted(keys)
        async with archive.stream(keys) as objects:
            assert [(key, await stream.read()) async for key, stream in objects] == list(
                zip(keys, CONTENTS, strict=True)
            )
        info = await archive.info(detailed=True)
        assert (info.objects, info.size, info.key_format) == (5, sum(map(len, CONTENTS)), "sha256")
        assert await archive.is_initialised()
        assert (await archive.verify()).ok
        assert (await archive.maintain()).steps == ()

    async def test_missing_and_malformed_keys_are_not_found(self, archive):
        for key in ("0" * 64, "no-key", "repo/no-key", "../metadata.json", "metadata.json", ""):
            assert not await archive.has(key)
            with pytest.raises(ObjectNotFoundError):
                await archive.get(key)

    async def test_writing_raises(self, archive):
        before = archive.path.read_bytes()
        uses = (
            lambda: archive.put(b"new"),
            lambda: archive.put_many([b"new"]),
            lambda: archive.delete(key_of(b"small")),
            archive.initialise,
            archive.erase,
        )
        for use in uses:
            with pytest.raises(ReadOnlyError, match=r"some\.aiida is read-only"):
                await use()
        with pytest.raises(ObjectNotFoundError):
            await archive.delete("0" * 64)
        assert archive.path.read_bytes() == before

    async def test_many_tasks_read_an_archive(self, archive):
        async def read(content):
            async with archive.open(key_of(content)) as stream:
                assert b"".join([chunk async for chunk in stream]) == content

        async with anyio.create_task_group() as group:
            for _ in range(20):
                for content in CONTENTS:
                    group.start_soon(read, content)

    async def test_leaving_closes_the_file(self, archive, tmp_path):
        async with archive.open(key_of(CONTENTS[-1])) as stream:
            await stream.receive()
            assert len(open_files(tmp_path)) == 1
        assert open_files(tmp_path) == []

    async def test_copy_into_a_repository(self, archive, repo):
        assert (await copy(archive, repo)).copied == len(CONTENTS)
        assert (await repo.verify()).objects == len(CONTENTS)


class TestDamage:
    async def test_other_files_raise_repository_error(self, tmp_path):
        async with ArchiveRepository(tmp_path / "missing.zip") as archive:
            assert not await archive.is_initialised()
            with pytest.raises(NotInitialisedError, match=r"missing\.zip"):
                await archive.get("0" * 64)
        for content in (b"", b"no zip", os.urandom(1000)):
            (tmp_path / "bad.zip").write_bytes(content)
            async with ArchiveRepository(tmp_path / "bad.zip") as archive:
                with pytest.raises(RepositoryError, match=r"bad\.zip"):
                    await archive.has("0" * 64)

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            (
                {"objrepo/__init__.py": "", "objrepo/cli.py": "", "objrepo-1.dist-info/WHEEL": "Wheel-Version: 1.0"},
                r"some\.zip is a zip without objects: none of its 3 members .* 'objrepo/__init__\.py'",
            ),
            (
                {"metadata.json": '{"export_version": "0.10"}', "data.json": "{}", "nodes/ab/cd/ef/path/file": "text"},
                r"AiiDA archive of version 0\.10, which has no objects: convert it by `verdi archive migrate`",
            ),
            ({"metadata.json": '{"export_version": "0.4"}', "data.json": "{}"}, r"AiiDA archive of version 0\.4,"),
            *(
                ({"metadata.json": metadata, "data": ""}, r"is a zip without objects")
                for metadata in ("", "[]", "{}", '{"export_version": 1}', "\udcff")
            ),
            ({"repo/no-key": ""}, "the first is 'repo/no-key'"),
            ({"0" * 64: "in no folder"}, "is a zip without objects"),
        ],
    )
    async def test_a_zip_without_objects(self, tmp_path, members, message):
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.encode(errors="surrogateescape"))
        async with ArchiveRepository(tmp_path / "some.zip") as archive:
            for use in (archive.is_initialised, archive.info, archive.verify, lambda: archive.get("0" * 64)):
                with pytest.raises(RepositoryError, match=message) as caught:
                    await use()
                assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("members", [{}, {"repo/": ""}, {"metadata.json": '{"export_version": "main_0001"}'}])
    async def test_an_archive_of_no_objects(self, tmp_path, members):
        """`export` of an empty repository writes a zip without members."""
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        async with ArchiveRepository(tmp_path / "some.zip") as archive:
            assert await archive.is_initialised()
            assert (await archive.verify()).objects == 0

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    async def test_changed_bytes_are_detected(self, tmp_path, compression):
        path = make(tmp_path / "some.zip", CONTENTS, compression)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"repo/{key_of(CONTENTS[4])}")
        data = bytearray(path.read_bytes())
        data[member.header_offset + 2000] ^= 1
        path.write_bytes(data)
        async with ArchiveRepository(path) as archive:
            with pytest.raises(CorruptObjectError) as caught:
                await archive.get(key_of(CONTENTS[4]), check=True)
            assert caught.value.key == key_of(CONTENTS[4])
            assert [item.key for item in (await archive.verify()).damaged] == [key_of(CONTENTS[4])]
            assert await archive.get(key_of(CONTENTS[3]), check=True) == CONTENTS[3]

    async def test_a_wrong_list_of_members(self, tmp_path):
        path = make(tmp_path / "some.zip", CONTENTS)
        async with ArchiveRepository(path) as archive:
            members = archive.backend._members()
            members[key_of(b"small")].header_offset = 10**9
            members[key_of(CONTENTS[2])].header_offset += 1
            members[key_of(CONTENTS[3])].compress_type = zipfile.ZIP_LZMA
            members[key_of(CONTENTS[4])].file_size += 10**6
            for content in (b"small", *CONTENTS[2:]):
                with pytest.raises(CorruptObjectError):
                    await archive.get(key_of(content), check=True)
            assert await archive.get(key_of(b"")) == b""


async def test_sixty_thousand_objects(tmp_path):
    """They open at once: only their entries in the central directory are read."""
    path = tmp_path / "large.aiida"
    keys = []
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(60_000):
            content = b"%d" % number
            keys.append(key_of(content))
            archive.writestr(f"repo/{keys[-1]}", content)
    start = time.perf_counter()
    async with ArchiveRepository(path) as archive:
        assert await archive.get(keys[31_234]) == b"31234"
        taken = time.perf_counter() - start
        assert (await archive.info()).objects == 60_000
    assert taken < 30, "of the order of a second"
    async with DiskRepository(tmp_path / "repository") as repo:
        await repo.initialise()


class TestRemote:
    """Remote archives are read by range requests."""

    @pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
    def content(self, request, tmp_path):
        return make(tmp_path / "some.aiida", CONTENTS, request.param).read_bytes()

    async def test_on_a_web_server(self, content):
        with serving({"/a/some.aiida?token=1": content}) as (url, asked):
            async with ArchiveRepository(f"{url}/a/some.aiida?token=1") as archive:
                assert str(archive) == f"ArchiveRepository at {url}/a/some.aiida"
                assert await archive.is_initialised()
                assert sorted([key async for key in archive.keys()]) == sorted(map(key_of, CONTENTS))
                for each in CONTENTS:
                    assert await archive.get(key_of(each), check=True) == each
                    async with archive.open(key_of(each), offset=3, check=False) as stream:
                        assert b"".join([chunk async for chunk in stream]) == each[3:]
                async with archive.stream(map(key_of, CONTENTS)) as objects:
                    assert {key: await stream.read() async for key, stream in objects} == {
                        key_of(each): each for each in CONTENTS
                    }
                assert (await archive.verify()).ok
                asked.clear()
                assert await archive.get(key_of(b"small")) == b"small"
                assert len(asked) == 1
                assert all(wanted is not None for _, wanted in asked), "in ranges"

    async def test_in_a_bucket(self, content, memory_bucket):
        import obstore

        obstore.put(memory_bucket, "some.aiida", content)
        async with ArchiveRepository("s3://bucket/some.aiida") as archive:
            assert str(archive) == "ArchiveRepository at s3://bucket/some.aiida"
            for each in CONTENTS:
                assert await archive.get(key_of(each)) == each

    async def test_a_missing_file_and_a_server_without_ranges(self, content):
        with serving({"/some.aiida": content}, ranges=False) as (url, _):
            async with ArchiveRepository(f"{url}/other.aiida") as archive:
                assert not await archive.is_initialised()
                with pytest.raises(NotInitialisedError, match="there is no archive at http://"):
                    await archive.info()
            async with ArchiveRepository(f"{url}/some.aiida") as archive:
                with pytest.raises(RepositoryError, match="Range request not supported") as caught:
                    await archive.info()
                assert "\n" not in str(caught.value)

    async def test_a_large_central_directory_is_read(self, tmp_path):
        contents = [b"%d" % number for number in range(5000)]
        content = make(tmp_path / "many.zip", contents).read_bytes()
        with serving({"/many.zip": content}) as (url, asked):
            async with ArchiveRepository(f"{url}/many.zip") as archive:
                assert (await archive.info()).objects == 5000
                assert len(asked) < 12, "the list of members, and no member"

    async def test_verify_of_large_members(self, tmp_path):
        """Each member is read ahead in the pool in which all of them are verified."""
        contents = [os.urandom(16) * (6 * 1024 * 1024 // 16) for _ in range(40)]
        content = make(tmp_path / "large.zip", contents).read_bytes()
        with serving({"/large.zip": content}, latency=0.05) as (url, _):
            async with ArchiveRepository(f"{url}/large.zip") as archive:
                with anyio.fail_after(60):
                    assert (await archive.verify()).objects == 40


class TestExport:
    @pytest.mark.parametrize("compress", [False, True])
    async def test_round_trip(self, repo, tmp_path, compress):
        keys = [await repo.put(content) for content in CONTENTS]
        keys += await repo.put_many(b"%d" % number for number in range(1500))
        steps = []
        report = await export(repo, tmp_path / "all.zip", compress=compress, progress=steps.append)
        assert (report.objects, report.copied, report.ok) == (1505, 1505, True)
        assert (steps[-1].done, steps[-1].total) == (1505, 1505)
        async with ArchiveRepository(tmp_path / "all.zip") as archive:
            assert sorted([key async for key in archive.keys()]) == sorted(keys)
            assert (await archive.verify()).ok
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert archive.testzip() is None
            assert archive.read(f"repo/{keys[0]}") == CONTENTS[0]

    async def test_equal_objects_make_equal_archives(self, repo, tmp_path):
        keys = await repo.put_many(CONTENTS)
        for name in ("a.zip", "b.zip"):
            await export(repo, tmp_path / name, sorted(keys[:3]))
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    async def test_damaged_objects_are_left_out(self, repo, folder, tmp_path):
        keys = [await repo.put(content) for content in CONTENTS]
        flip(loose_file(folder, keys[1]), 2)
        flip(loose_file(folder, keys[-1]), 1_000_000)
        report = await export(repo, tmp_path / "all.zip")
        assert {item.key for item in report.damaged} == {keys[1], keys[-1]}
        async with ArchiveRepository(tmp_path / "all.zip") as archive:
            assert sorted([key async for key in archive.keys()]) == sorted([keys[0], *keys[2:-1]])
            assert (await archive.verify()).ok

    async def test_a_failed_export_leaves_no_file(self, repo, tmp_path):
        keys = await repo.put_many(CONTENTS)
        (tmp_path / "zips").mkdir()
        with pytest.raises(ObjectNotFoundError):
            await export(repo, tmp_path / "zips" / "some.zip", [*keys, "0" * 64])

        def stop(progress):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await export(repo, tmp_path / "zips" / "some.zip", progress=stop)
        assert list((tmp_path / "zips").iterdir()) == []
        with pytest.raises(FileNotFoundError):
            await export(repo, tmp_path / "no" / "some.zip")
        (tmp_path / "zips" / "some.zip").write_bytes(b"mine")
        with pytest.raises(FileExistsError):
            await export(repo, tmp_path / "zips" / "some.zip")
        assert (tmp_path / "zips" / "some.zip").read_bytes() == b"mine"

    async def test_an_empty_repository_is_exported(self, repo, tmp_path):
        assert (await export(repo, tmp_path / "empty.zip")).copied == 0
        async with ArchiveRepository(tmp_path / "empty.zip") as archive:
            assert (await archive.info()).objects == 0
            assert await archive.key_format() == "sha256"

    async def test_keys_of_other_formats_are_read(self, tmp_path):
        async with DiskRepository(tmp_path / "sha1") as sha1, SandboxRepository() as sandbox:
            await sha1.initialise(hash_type="sha1")
            for source, key_format in ((sha1, "sha1"), (sandbox, "uuid4")):
                key = await source.put(b"content")
                await export(source, tmp_path / f"{key_format}.zip", check=True)
                async with ArchiveRepository(tmp_path / f"{key_format}.zip") as archive:
                    assert await archive.key_format() == (await archive.info()).key_format == key_format
                    assert await archive.get(key, check=True) == b"content"
                    assert await archive.hash(key) == key_of(b"content")
                    assert (await archive.verify()).objects == 1

    async def test_repositories_with_uuid_keys_are_exported(self, tmp_path):
        async with SandboxRepository() as repo:
            key = await repo.put(b"content")
            assert (await export(repo, tmp_path / "some.zip")).copied == 1
        with zipfile.ZipFile(tmp_path / "some.zip") as archive:
            assert archive.read(f"repo/{key}") == b"content"
