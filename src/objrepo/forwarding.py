"""`ForwardingRepository`: the base of repositories that add something to another repository."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from types import TracebackType
from typing import Any, Self

from anyio.abc import ByteSendStream

from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter, Source
from objrepo.reports import MaintenanceReport, ProgressCallback, RepositoryInfo, VerifyReport
from objrepo.with_only import NoSyncWith

__all__ = ("ForwardingRepository",)


class ForwardingRepository(NoSyncWith, AsyncRepository):
    """Forwards every method of the protocol to another repository; a subclass overrides what it does differently.

    :param repository: the repository that does the work. Entering and leaving this one enters and leaves it.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"<{self}>"

    def __copy__(self) -> Self:
        return deepcopy(self)  # the other repository is copied too, so that the copy is closed

    async def __aenter__(self) -> Self:
        await self._repository.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._repository.__aexit__(exc_type, exc, traceback)

    async def initialise(self, *args: Any, **options: Any) -> None:
        await self._repository.initialise(*args, **options)

    async def is_initialised(self) -> bool:
        return await self._repository.is_initialised()

    async def uuid(self) -> str | None:
        return await self._repository.uuid()

    async def key_format(self) -> str:
        return await self._repository.key_format()

    async def put(self, source: Source) -> str:
        return await self._repository.put(source)

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        return await self._repository.put_many(sources, progress)

    def create(self) -> ObjectWriter:
        return self._repository.create()

    def batch(self) -> AbstractAsyncContextManager[AsyncRepository]:
        return self._repository.batch()

    async def has(self, key: str) -> bool:
        return await self._repository.has(key)

    async def has_many(self, keys: Iterable[str]) -> list[bool]:
        return await self._repository.has_many(keys)

    async def get(self, key: str, check: bool | None = None) -> bytes:
        return await self._repository.get(key, check)

    async def size(self, key: str) -> int:
        return await self._repository.size(key)

    async def hash(self, key: str) -> str:
        return await self._repository.hash(key)

    def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> AbstractAsyncContextManager[ObjectStream]:
        return self._repository.open(key, offset, length, check)

    async def send_object(
        self,
        stream: ByteSendStream,
        key: str,
        offset: int = 0,
        length: int | None = None,
        check: bool | None = None,
    ) -> int:
        return await self._repository.send_object(stream, key, offset, length, check)

    def stream(
        self, keys: Iterable[str], check: bool | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, ObjectStream]]]:
        return self._repository.stream(keys, check)

    def keys(self) -> AsyncIterator[str]:
        return self._repository.keys()

    async def delete(self, key: str) -> None:
        await self._repository.delete(key)

    async def delete_many(self, keys: Iterable[str]) -> None:
        await self._repository.delete_many(keys)

    async def info(self, detailed: bool = False) -> RepositoryInfo:
        return await self._repository.info(detailed)

    async def maintain(self, dry_run: bool = False, live: bool = True, *args: Any, **options: Any) -> MaintenanceReport:
        return await self._repository.maintain(dry_run, live, *args, **options)

    async def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        return await self._repository.verify(progress, quick)

    async def erase(self) -> None:
        await self._repository.erase()
