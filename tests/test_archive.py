"""Zips of objects, such as AiiDA's archives, to be read."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile

import anyio
import pytest

from objrepo import (
    ArchiveRepository,
    CorruptObjectError,
    DiskRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryError,
    copy,
)
from objrepo.testing.fixtures import content_of
from test_lanes import open_files

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
    async def test_everything(self, archive, tmp_path):
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

    async def test_what_is_not_there(self, archive):
        for key in ("0" * 64, "no-key", "repo/no-key", "../metadata.json", "metadata.json", ""):
            assert not await archive.has(key)
            with pytest.raises(ObjectNotFoundError):
                await archive.get(key)

    async def test_nothing_can_be_written(self, archive):
        before = archive._path.read_bytes()
        uses = (
            lambda: archive.put(b"new"),
            lambda: archive.put_many([b"new"]),
            lambda: archive.delete(key_of(b"small")),
            archive.initialise,
            archive.erase,
        )
        for use in uses:
            with pytest.raises(ReadOnlyError, match=r"some\.aiida can only be read"):
                await use()
        with pytest.raises(ObjectNotFoundError):
            await archive.delete("0" * 64)
        assert archive._path.read_bytes() == before

    async def test_many_readers_at_the_same_time(self, archive):
        async def read(content):
            async with archive.open(key_of(content)) as stream:
                assert b"".join([chunk async for chunk in stream]) == content

        async with anyio.create_task_group() as group:
            for _ in range(20):
                for content in CONTENTS:
                    group.start_soon(read, content)

    async def test_no_file_stays_open(self, archive, tmp_path):
        async with archive.open(key_of(CONTENTS[-1])) as stream:
            await stream.receive()
            assert len(open_files(tmp_path)) == 1
        assert open_files(tmp_path) == []

    async def test_out_of_it_into_a_repository(self, archive, repo):
        assert (await copy(archive, repo)).copied == len(CONTENTS)
        assert (await repo.verify()).objects == len(CONTENTS)


class TestDamage:
    async def test_no_archive(self, tmp_path):
        async with ArchiveRepository(tmp_path / "missing.zip") as archive:
            assert not await archive.is_initialised()
            with pytest.raises(NotInitialisedError, match=r"missing\.zip"):
                await archive.get("0" * 64)
        for content in (b"", b"no zip", os.urandom(1000)):
            (tmp_path / "bad.zip").write_bytes(content)
            async with ArchiveRepository(tmp_path / "bad.zip") as archive:
                with pytest.raises(RepositoryError, match=r"bad\.zip"):
                    await archive.has("0" * 64)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    async def test_bytes_that_were_changed(self, tmp_path, compression):
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

    async def test_a_list_of_members_that_lies(self, tmp_path):
        path = make(tmp_path / "some.zip", CONTENTS)
        async with ArchiveRepository(path) as archive:
            members = archive._members()
            members[key_of(b"small")].header_offset = 10**9
            members[key_of(CONTENTS[2])].header_offset += 1
            members[key_of(CONTENTS[3])].compress_type = zipfile.ZIP_LZMA
            members[key_of(CONTENTS[4])].file_size += 10**6
            for content in (b"small", *CONTENTS[2:]):
                with pytest.raises(CorruptObjectError):
                    await archive.get(key_of(content), check=True)
            assert await archive.get(key_of(b"")) == b""


async def test_sixty_thousand_objects(tmp_path):
    """They are opened at once: what is read of each is its line in the list of members."""
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
