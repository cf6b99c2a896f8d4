"""The contract of `batch`: what is put is readable at once, and stored when the block is left."""

from __future__ import annotations

import anyio
import pytest

from objrepo.errors import ObjectNotFoundError, RepositoryClosedError
from objrepo.protocol import AsyncRepository
from objrepo.testing.fixtures import content_of
from objrepo.testing.put_contract import achunks

SMALL = [content_of(size, seed=size) for size in (0, 1, 1000, 64 * 1024)]
LARGE = content_of(3 * 1024 * 1024)


class BatchContract:
    """Promises of ``batch``."""

    async def test_a_batch_stores_everything_when_it_is_left(self, repo: AsyncRepository) -> None:
        contents = [*SMALL, LARGE]
        async with repo.batch() as batch:
            keys = [await batch.put(content) for content in contents]
        assert [await repo.get(key, check=True) for key in keys] == contents
        assert {key async for key in repo.keys()} == set(keys)
        assert (await repo.verify()).ok

    async def test_a_batch_takes_every_way_of_putting(self, repo: AsyncRepository) -> None:
        async with repo.batch() as batch:
            many = await batch.put_many([b"%d" % number for number in range(3000)])
            chunked = await batch.put(achunks(LARGE))
            async with batch.create() as writer:
                await writer.write(b"written")
            concurrent: dict[int, str] = {}

            async def put(number: int) -> None:
                concurrent[number] = await batch.put(b"at the same time %d" % number)

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(put, number)
        assert await repo.get(many[0]) == b"0"
        assert await repo.get(many[-1]) == b"2999"
        assert all(await repo.has_many(many))
        assert await repo.get(chunked) == LARGE
        assert await repo.get(writer.key) == b"written"
        assert await repo.get(concurrent[19]) == b"at the same time 19"

    async def test_objects_are_read_through_the_batch_before_its_end(self, repo: AsyncRepository, absent: str) -> None:
        earlier = await repo.put(b"stored earlier")
        async with repo.batch() as batch:
            keys = [await batch.put(content) for content in SMALL] + [await batch.put(LARGE), earlier]
            contents = [*SMALL, LARGE, b"stored earlier"]
            assert [await batch.get(key, check=True) for key in keys] == contents
            assert [await batch.size(key) for key in keys] == list(map(len, contents))
            assert await batch.has_many([*keys, absent]) == [True] * len(keys) + [False]
            async with batch.open(keys[2], offset=10, length=5) as stream:
                assert await stream.read() == SMALL[2][10:15]
            async with batch.stream(keys) as objects:
                assert {key: await stream.read() async for key, stream in objects} == dict(
                    zip(keys, contents, strict=True)
                )
            assert sorted([key async for key in batch.keys()]) == sorted(set(keys))
            assert await batch.hash(keys[1]) == await batch.hash(await batch.put(SMALL[1]))
            assert (await batch.verify()).ok
            with pytest.raises(ObjectNotFoundError):
                await batch.get(absent)
        assert [await repo.get(key) for key in keys] == contents

    async def test_an_object_is_deleted_before_the_end_of_its_batch(self, repo: AsyncRepository) -> None:
        async with repo.batch() as batch:
            kept, deleted = await batch.put_many([b"kept", b"deleted"])
            await batch.delete(deleted)
            assert not await batch.has(deleted)
        assert await repo.has_many([kept, deleted]) == [True, False]

    async def test_an_object_is_deleted_from_the_repository_while_a_batch_is_open(self, repo: AsyncRepository) -> None:
        earlier = await repo.put(b"stored earlier")
        async with repo.batch() as batch:
            key = await batch.put(b"content")
            await repo.delete(earlier)
            assert not await batch.has(earlier)
        assert await repo.get(key) == b"content"
        assert not await repo.has(earlier)

    async def test_a_batch_that_raises_leaves_nothing_half_written(self, repo: AsyncRepository) -> None:
        contents = [*SMALL, LARGE]
        keys: list[str] = []
        with pytest.raises(ZeroDivisionError):
            async with repo.batch() as batch:
                keys += [await batch.put(content) for content in contents]
                raise ZeroDivisionError
        for key, content in zip(keys, contents, strict=True):
            if await repo.has(key):
                assert await repo.get(key) == content
        assert (await repo.verify()).ok
        async with repo.batch() as batch:
            keys = [await batch.put(content) for content in contents]
        assert [await repo.get(key) for key in keys] == contents

    async def test_a_cancelled_batch_leaves_nothing_half_written(self, repo: AsyncRepository) -> None:
        with anyio.move_on_after(0.05) as scope:
            async with repo.batch() as batch:
                for number in range(1_000_000):
                    await batch.put(b"%d" % number)
        assert scope.cancelled_caught
        assert (await repo.verify()).ok
        async with repo.batch() as batch:
            key = await batch.put(b"afterwards")
        assert await repo.get(key) == b"afterwards"

    async def test_two_batches_with_the_same_objects_at_the_same_time(self, repo: AsyncRepository) -> None:
        contents = [b"%d" % number for number in range(50)]
        async with repo.batch() as first, repo.batch() as second:
            one = await first.put_many(contents)
            two = await second.put_many(contents[::-1])
            own = await second.put(b"of the second only")
        assert [await repo.get(key) for key in one] == contents
        assert [await repo.get(key) for key in two] == contents[::-1]
        assert await repo.get(own) == b"of the second only"
        assert (await repo.verify()).ok

    async def test_a_batch_in_a_batch(self, repo: AsyncRepository) -> None:
        async with repo.batch() as outer:
            async with outer.batch() as inner:
                key = await inner.put(b"content")
            assert await outer.get(key) == b"content"
        assert await repo.get(key) == b"content"

    async def test_a_batch_that_has_ended_says_so(self, repo: AsyncRepository) -> None:
        async with repo.batch() as batch:
            await batch.put(b"content")
        with pytest.raises(RepositoryClosedError):
            await batch.put(b"too late")
        with pytest.raises(RepositoryClosedError):
            await batch.get("0" * 64)

    async def test_a_batch_that_is_not_entered_shows_how_it_is_used(self, repo: AsyncRepository) -> None:
        with pytest.raises(AttributeError, match=r"use `async with repo\.batch\(\) as batch`"):
            await repo.batch().put(b"content")  # type: ignore[attr-defined]

    async def test_a_batch_of_a_repository_that_is_not_open(self, repository: AsyncRepository) -> None:
        with pytest.raises(RepositoryClosedError):
            async with repository.batch():
                pass
