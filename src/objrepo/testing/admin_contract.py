"""The contract of operations on a whole repository: entering, listing, deleting, maintaining, verifying, erasing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import anyio
import pytest

from objrepo.errors import NotInitialisedError, ObjectNotFoundError, RepositoryClosedError
from objrepo.protocol import AsyncRepository
from objrepo.reports import Progress
from objrepo.testing.fixtures import NEED_AN_OBJECT, content_of

KEY = "0" * 64


NEED_A_REPOSITORY: dict[str, Callable[[AsyncRepository, str], Any]] = {
    **NEED_AN_OBJECT,
    "put": lambda repo, _: repo.put(b"content"),
    "put_many": lambda repo, _: repo.put_many([b"content"]),
    "has": lambda repo, key: repo.has(key),
    "has_many": lambda repo, key: repo.has_many([key]),
    "keys": lambda repo, _: anext(repo.keys(), None),
    "key_format": lambda repo, _: repo.key_format(),
    "info": lambda repo, _: repo.info(),
    "maintain": lambda repo, _: repo.maintain(),
    "verify": lambda repo, _: repo.verify(),
}

NEED_NONE: dict[str, Callable[[AsyncRepository, str], Any]] = {
    "initialise": lambda repo, _: repo.initialise(),
    "is_initialised": lambda repo, _: repo.is_initialised(),
    "uuid": lambda repo, _: repo.uuid(),
    "erase": lambda repo, _: repo.erase(),
}


class AdminContract:
    """Promises of operations on a whole repository."""

    @pytest.mark.parametrize("method", [*NEED_A_REPOSITORY, *NEED_NONE])
    async def test_use_outside_of_async_with_raises_repository_closed_error(
        self, repository: AsyncRepository, method: str
    ) -> None:
        use = (NEED_A_REPOSITORY | NEED_NONE)[method]
        with pytest.raises(RepositoryClosedError, match="async with"):
            await use(repository, KEY)
        async with repository:
            pass
        with pytest.raises(RepositoryClosedError, match="async with"):
            await use(repository, KEY)

    @pytest.mark.parametrize("method", NEED_A_REPOSITORY)
    async def test_all_methods_agree_on_whether_the_repository_is_initialised(
        self, repository: AsyncRepository, method: str
    ) -> None:
        """Either all of them raise NotInitialisedError before ``initialise``, or none does."""
        async with repository:
            try:
                await repository.key_format()
            except NotInitialisedError:
                assert await repository.uuid() is None
                with pytest.raises(NotInitialisedError, match=r"initialise\(\)"):
                    await NEED_A_REPOSITORY[method](repository, KEY)
                assert not await repository.is_initialised()
            else:  # the repository needs no `initialise`
                with pytest.raises(ObjectNotFoundError) if method in NEED_AN_OBJECT else nullcontext():
                    await NEED_A_REPOSITORY[method](repository, KEY)

    async def test_initialise_again_changes_nothing(self, repo: AsyncRepository) -> None:
        key = await repo.put(b"content")
        uuid = await repo.uuid()
        await repo.initialise()
        assert await repo.is_initialised()
        assert await repo.uuid() == uuid
        assert await repo.get(key) == b"content"
        with pytest.raises(TypeError):
            await repo.initialise(no_such_option=1)

    async def test_leaving_an_inner_async_with_closes_nothing(self, repo: AsyncRepository) -> None:
        key = await repo.put(content_of(1_000_000))
        async with repo.open(key) as stream:
            await stream.receive()
            async with repo:
                assert await repo.has(key)
            assert len(await stream.read()) > 900_000, "the inner `async with` does not close the stream"
        assert await repo.get(key) == content_of(1_000_000)

    async def test_one_repository_serves_two_event_loops(self, repo: AsyncRepository, anyio_backend: Any) -> None:
        ours = await repo.put(b"ours")
        name, options = anyio_backend

        async def other() -> str:
            async with repo:
                assert await repo.get(ours) == b"ours"
                return await repo.put(b"theirs")

        theirs = await anyio.to_thread.run_sync(lambda: anyio.run(other, backend=name, backend_options=options))
        assert await repo.get(theirs) == b"theirs"

    async def test_keys_lists_each_key_once(self, repo: AsyncRepository) -> None:
        assert [key async for key in repo.keys()] == []
        keys = await repo.put_many(b"%d" % number for number in range(1100))
        await repo.delete_many(keys[:50])
        assert sorted([key async for key in repo.keys()]) == sorted(keys[50:])

    async def test_delete_many_deletes_all_or_none(self, repo: AsyncRepository, absent: str) -> None:
        keys = await repo.put_many([b"first", b"second", b"third"])
        with pytest.raises(ObjectNotFoundError) as caught:
            await repo.delete_many([keys[0], absent, "no key", keys[1]])
        assert caught.value.keys == (absent, "no key")
        assert all(await repo.has_many(keys)), "nothing was deleted"
        await repo.delete_many([keys[0], keys[1], keys[0]])
        assert await repo.has_many(keys) == [False, False, True]
        with pytest.raises(ObjectNotFoundError):
            await repo.get(keys[0])
        await repo.delete_many([])
        await repo.delete(keys[2])
        assert [key async for key in repo.keys()] == []

    async def test_a_deleted_object_can_be_put_again(self, repo: AsyncRepository) -> None:
        key = await repo.put(b"content")
        await repo.maintain()
        await repo.delete(key)
        assert await repo.get(await repo.put(b"content")) == b"content"

    async def test_info(self, repo: AsyncRepository) -> None:
        assert (await repo.info()).objects == 0
        await repo.put_many([b"1", b"22", b"333"])
        info = await repo.info()
        assert (info.objects, info.size) == (3, None)
        assert (info.uuid, info.key_format) == (await repo.uuid(), await repo.key_format())
        assert (await repo.info(detailed=True)).size == 6
        await repo.maintain()
        assert (await repo.info(detailed=True)).size == 6

    async def test_maintain(self, repo: AsyncRepository) -> None:
        contents = [b"%d" % number for number in range(20)]
        keys = await repo.put_many(contents)
        assert (await repo.maintain(dry_run=True)).dry_run
        for live in (True, False):
            assert not (await repo.maintain(live=live)).dry_run
            assert [await repo.get(key) for key in keys] == contents
            assert (await repo.info()).objects == 20
        with pytest.raises(TypeError):
            await repo.maintain(no_such_option=True)

    async def test_verify(self, repo: AsyncRepository) -> None:
        assert (await repo.verify()).objects == 0
        await repo.put_many([b"1", b"22", content_of(1_000_000)])
        steps: list[Progress] = []
        report = await repo.verify(progress=steps.append)
        assert (report.objects, report.size, report.damaged, report.ok) == (3, 1_000_003, (), True)
        assert (steps[-1].done, steps[-1].total, steps[-1].unit) == (3, 3, "objects")

    async def test_erase(self, repo: AsyncRepository) -> None:
        key = await repo.put(b"content")
        await repo.erase()
        await repo.erase()
        await repo.initialise()
        assert not await repo.has(key)
        assert await repo.get(await repo.put(b"content")) == b"content"

    async def test_str_names_the_class(self, repo: AsyncRepository) -> None:
        assert type(repo).__name__ in str(repo)
