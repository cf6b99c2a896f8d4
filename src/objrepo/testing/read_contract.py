"""The contract of reading: `has`, `get`, `size`, `hash`, `open` and `stream`."""

from __future__ import annotations

import hashlib
import io
import os
import random
from typing import Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream

from objrepo.errors import ObjectNotFoundError, RepositoryClosedError
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.testing.fixtures import BAD_KEYS, NEED_AN_OBJECT, NOT_STRINGS, SIZES, content_of

CONTENT = content_of(3 * 1024 * 1024 + 7)


class ReadContract:
    """Promises of operations that read."""

    async def test_repositories_and_streams_have_the_types_of_the_protocol(self, repo: AsyncRepository) -> None:
        assert isinstance(repo, AsyncRepository)
        key = await repo.put(b"content")
        async with repo.open(key) as stream:
            assert isinstance(stream, ObjectStream)
            assert isinstance(stream, ByteReceiveStream)

    @pytest.mark.parametrize("method", NEED_AN_OBJECT)
    async def test_malformed_keys_raise_not_found(self, repo: AsyncRepository, absent: str, method: str) -> None:
        kept = await repo.put(b"kept")
        for key in (*BAD_KEYS, absent):
            with pytest.raises(ObjectNotFoundError) as caught:
                await NEED_AN_OBJECT[method](repo, key)
            assert isinstance(caught.value, FileNotFoundError)
            assert caught.value.keys == (key,)
            assert len(str(caught.value)) < 400
        for value in NOT_STRINGS:
            with pytest.raises(TypeError):
                await NEED_AN_OBJECT[method](repo, value)
        assert [key async for key in repo.keys()] == [kept]

    async def test_one_key_in_place_of_many_is_a_type_error(self, repo: AsyncRepository) -> None:
        """A str is an iterable of its characters, none of which is a key."""
        key = await repo.put(b"content")
        with pytest.raises(TypeError, match="not one str"):
            await repo.has_many(key)
        with pytest.raises(TypeError, match="not one str"):
            await repo.delete_many(key)
        with pytest.raises(TypeError, match="not one str"):
            async with repo.stream(key):
                pass
        assert await repo.get(key) == b"content"

    async def test_has(self, repo: AsyncRepository, absent: str) -> None:
        key = await repo.put(b"content")
        assert await repo.has(key)
        for value in (*BAD_KEYS, *NOT_STRINGS, absent):
            assert not await repo.has(value)
        assert await repo.has_many([absent, key, "", key, None, absent]) == [False, True, False, True, False, False]  # type: ignore[list-item]
        assert await repo.has_many(iter([key])) == [True]
        assert await repo.has_many([]) == []

    async def test_hash_is_the_sha256_of_the_content(self, repo: AsyncRepository) -> None:
        for content in (b"", b"content", CONTENT):
            assert await repo.hash(await repo.put(content)) == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_stream_returns_the_content(self, repo: AsyncRepository, size: int) -> None:
        content = content_of(size)
        key = await repo.put(content)
        async with repo.open(key) as stream:
            assert (stream.key, stream.size) == (key, size)
            assert await stream.read() == content
            assert await stream.read() == b""
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        async with repo.open(key) as stream:
            chunks = [chunk async for chunk in stream]
            assert all(chunks)
            assert b"".join(chunks) == content
        async with repo.open(key) as stream:
            assert size == 0 or 1 <= len(await stream.receive(10)) <= 10
            for count in (0, -1):
                with pytest.raises(ValueError, match="max_bytes"):
                    await stream.receive(count)

    async def test_a_stream_reads_and_seeks_as_a_file_does(self, repo: AsyncRepository) -> None:
        choose = random.Random(7)
        file = io.BytesIO(CONTENT)
        async with repo.open(await repo.put(CONTENT)) as stream:
            for _ in range(300):
                whence = choose.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))
                offset = choose.randint(-len(CONTENT), len(CONTENT) + 10) // choose.choice((1, 1000))
                try:
                    position = file.seek(offset, whence)
                except ValueError:
                    position = -1
                if position < 0 or (whence != os.SEEK_SET and position == 0 > offset):
                    file.seek(await stream.tell())  # `BytesIO` stops at the start, files raise
                else:
                    assert await stream.seek(offset, whence) == position == await stream.tell()
                size = choose.choice((0, 1, 5000, 700_000))
                assert await stream.read(size) == file.read(size)
                buffer = bytearray(choose.choice((0, 3, 10_000)))
                data = file.read(len(buffer))
                assert await stream.readinto(buffer) == len(data)
                assert buffer[: len(data)] == data

    async def test_invalid_arguments_of_a_stream_raise(self, repo: AsyncRepository) -> None:
        async with repo.open(await repo.put(b"content")) as stream:
            for offset, whence in ((-1, os.SEEK_SET), (-8, os.SEEK_END), (-1, os.SEEK_CUR)):
                with pytest.raises(OSError, match="negative") as caught:
                    await stream.seek(offset, whence)
                assert isinstance(caught.value, ValueError)
            for whence in (-1, 3, 99):
                with pytest.raises(ValueError, match="whence"):
                    await stream.seek(0, whence)
            wrong: Any
            for wrong in ("1", 1.5):
                with pytest.raises(TypeError):
                    await stream.seek(wrong)
                with pytest.raises(TypeError):
                    await stream.read(wrong)
            with pytest.raises(TypeError):
                await stream.readinto(b"not writable")  # type: ignore[arg-type]
            assert await stream.tell() == 0
            assert await stream.read(None) == b"content"

    async def test_a_closed_stream_raises_repository_closed_error(self, repo: AsyncRepository) -> None:
        async with repo.open(await repo.put(CONTENT)) as stream:
            await stream.receive()
            await stream.aclose()
            await stream.aclose()
            for use in (stream.receive, stream.read, stream.tell, lambda: stream.seek(0)):
                with pytest.raises(RepositoryClosedError) as caught:
                    await use()
                assert isinstance(caught.value, ValueError)

    async def test_ranges(self, repo: AsyncRepository) -> None:
        size = len(CONTENT)
        key = await repo.put(CONTENT)
        for offset, length in ((0, 0), (0, 5), (5, None), (size - 3, 10), (size, None), (size + 9, 4), (9, 2_000_000)):
            async with repo.open(key, offset=offset, length=length) as stream:
                wanted = CONTENT[offset:] if length is None else CONTENT[offset : offset + length]
                assert stream.size == len(wanted)
                assert await stream.read() == wanted
                assert await stream.seek(0, os.SEEK_END) == len(wanted)
                assert await stream.seek(0) == 0
                assert await stream.read(3) == wanted[:3]

    async def test_invalid_ranges_raise(self, repo: AsyncRepository) -> None:
        key = await repo.put(b"content")
        bad: Any
        for bad in (dict(offset=-1), dict(length=-1)):
            with pytest.raises(ValueError, match="must not be negative"):
                async with repo.open(key, **bad):
                    pytest.fail("the range is invalid")
        for bad in (dict(offset="1"), dict(length=1.5), dict(offset=None)):
            with pytest.raises(TypeError):
                async with repo.open(key, **bad):
                    pytest.fail("the range is invalid")

    async def test_stream_yields_each_object_once(self, repo: AsyncRepository) -> None:
        contents = [b"%d" % number for number in range(300)] + [CONTENT, b"", CONTENT[:300_000]]
        keys = await repo.put_many(contents)
        seen = {}
        async with repo.stream([*keys, *keys[:5]]) as objects:
            async for key, stream in objects:
                assert key == stream.key
                assert key not in seen
                seen[key] = await stream.read()
        assert seen == dict(zip(keys, contents, strict=True))

    async def test_stream_names_every_missing_key(self, repo: AsyncRepository, absent: str) -> None:
        key = await repo.put(b"content")
        with pytest.raises(ObjectNotFoundError) as caught:
            async with repo.stream([absent, key, "no key", absent]):
                pytest.fail("two objects do not exist")
        assert caught.value.keys == (absent, "no key")
        async with repo.stream([]) as objects:
            assert [key async for key, _ in objects] == []

    async def test_an_object_of_a_stream_is_closed_at_the_next_step(self, repo: AsyncRepository) -> None:
        keys = await repo.put_many([CONTENT, CONTENT[1:], b"content"])
        async with repo.stream(keys) as objects:
            _, first = await anext(objects)
            await first.receive()
            _, second = await anext(objects)
            with pytest.raises(RepositoryClosedError):
                await first.receive()
        with pytest.raises(RepositoryClosedError):
            await second.receive()
        with pytest.raises(RepositoryClosedError):
            await anext(objects)

    async def test_many_tasks_read_concurrently(self, repo: AsyncRepository) -> None:
        contents = [content_of(1000 * seed, seed) for seed in range(20)]
        keys = await repo.put_many(contents)

        async def read(key: str, content: bytes) -> None:
            assert await repo.get(key) == content
            async with repo.open(key) as stream:
                assert await stream.read() == content

        async with anyio.create_task_group() as group:
            for key, content in list(zip(keys, contents, strict=True)) * 10:
                group.start_soon(read, key, content)
