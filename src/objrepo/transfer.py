"""Copying objects from one repository to another: what is missing there, checked on the way, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Any, Final

import anyio
import anyio.lowlevel

from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, DamagedObject, Progress, ProgressCallback
from objrepo.sources import closing_generator
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES

__all__ = ("batched_keys", "copy")

_PAGE_KEYS: Final = 1000
_PAGES_AT_ONCE: Final = 2
"""How many pages of keys are on their way: while one is read, the other is written."""


async def copy(
    source: AsyncRepository,
    target: AsyncRepository,
    keys: Iterable[str] | AsyncIterable[str] | None = None,
    *,
    delete: bool = False,
    deletions: int | None = None,
    check: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> CopyReport:
    """Copy objects that the target does not have. Both repositories are entered by the caller.

    Where both have keys of the same kind, and these are hashes, only what is missing travels, and is compared with its
    key before it is stored: a copy that was interrupted goes on where it was by being called again. Else everything
    travels, and the report says which key became which.

    Cancellation is waited for, as that of ``put_many``; what was copied by then stays.

    :param keys: which objects; all of them unless given.
    :param delete: whether to delete from the target what the source does not have; only together with ``deletions``.
    :param deletions: how many objects that will be, as a ``dry_run`` told it.
    :param check: whether to read back from the target what was stored there, and to compare that too.
    :param dry_run: only count what would be copied and deleted.
    :param progress: told how many objects have been looked at.
    :raises ObjectNotFoundError: if one of the keys is not in the source.
    :raises CorruptObjectError: if what was stored in the target comes back as something else.
    :raises ValueError: if something else than ``deletions`` objects would be deleted; then nothing is. Or if only some
        keys are to be copied and others deleted.
    """
    if delete and keys is not None:
        raise ValueError("cannot delete what the source does not have when only some keys are copied")
    work = _Copy(source, target, check, dry_run, progress)
    await work.prepare(keys)
    await work.run(source.keys() if keys is None else keys)
    extraneous = await work.extraneous() if delete else []
    if extraneous and not dry_run:
        if len(extraneous) != deletions:
            raise ValueError(
                f"{len(extraneous)} objects of {target} are not in {source}: "
                f"to delete them, pass deletions={len(extraneous)}"
            )
        for start in range(0, len(extraneous), _PAGE_KEYS):
            await target.delete_many(extraneous[start : start + _PAGE_KEYS])
    return work.report(len(extraneous))


class _Copy:
    """One copy under way, and what it has come to."""

    def __init__(
        self,
        source: AsyncRepository,
        target: AsyncRepository,
        check: bool,
        dry_run: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self._source = source
        self._target = target
        self._check = check
        self._dry_run = dry_run
        self._progress = progress
        self._hash: str | None = None
        self._listed = False
        self._total: int | None = None
        self._seen = self._copied = self._size = 0
        self._damaged: list[DamagedObject] = []
        self._renamed: dict[str, str] = {}

    async def prepare(self, keys: Any) -> None:
        """Find out whether both know objects by the same keys, and how many there are."""
        key_format = await self._source.key_format()
        if key_format == await self._target.key_format() and key_format != "uuid4":
            self._hash = key_format
        self._listed = keys is None
        self._total = (await self._source.info()).objects if self._listed else None

    async def run(self, keys: Iterable[str] | AsyncIterable[str]) -> None:
        """Copy page by page, some of them at the same time."""
        slots = anyio.Semaphore(_PAGES_AT_ONCE)
        failures: list[Exception] = []

        async def one(page: list[str]) -> None:
            try:
                await self._copy_page(page)
            except Exception as error:  # noqa: BLE001  (the first one is raised below, on its own)
                failures.append(error)
                group.cancel_scope.cancel()
            finally:
                slots.release()

        async with aclosing(batched_keys(keys)) as pages, anyio.create_task_group() as group:
            try:
                async for page in pages:
                    await slots.acquire()
                    group.start_soon(one, page)
            except Exception as error:  # noqa: BLE001  (likewise)
                failures.append(error)
                group.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def extraneous(self) -> list[str]:
        """Return the keys of the target that the source does not have."""
        if self._hash is None:
            raise ValueError(
                f"{self._source} and {self._target} have different keys: what is extraneous cannot be told"
            )
        found = []
        async with aclosing(batched_keys(self._target.keys())) as pages:
            async for page in pages:
                present = await self._source.has_many(page)
                found += [key for key, there in zip(page, present, strict=True) if not there]
        return found

    def report(self, deleted: int) -> CopyReport:
        """Return what was done."""
        return CopyReport(
            dry_run=self._dry_run,
            objects=self._seen,
            copied=self._copied,
            size=self._size,
            deleted=deleted,
            damaged=tuple(self._damaged),
            renamed=self._renamed,
        )

    async def _copy_page(self, page: list[str]) -> None:
        missing = page
        if self._hash is not None:
            present = await self._target.has_many(page)
            missing = [key for key, there in zip(page, present, strict=True) if not there]
        if self._dry_run:
            await self._count(missing)
        elif missing:
            await self._copy_objects(missing)
        self._seen += len(page)
        if self._progress is not None:
            self._progress(Progress("copy", self._seen, self._total, "objects"))

    async def _count(self, keys: list[str]) -> None:
        for key in keys:
            try:
                self._size += await self._source.size(key)
            except ObjectNotFoundError:
                if not self._listed:
                    raise
            else:
                self._copied += 1

    async def _copy_objects(self, keys: list[str]) -> None:
        batch: dict[str, bytes] = {}
        size = 0
        left = list(keys)
        while left:
            try:
                async with self._source.stream(left) as objects:
                    async for key, stream in objects:
                        left.remove(key)
                        if stream.size > CHUNK_BYTES:
                            await self._copy_large(key, stream.size)
                            continue
                        content = await stream.read()
                        if self._is_damaged(key, content):
                            continue
                        batch[key] = content
                        size += len(content)
                        if size >= BATCH_BYTES:
                            await self._store(batch)
                            batch, size = {}, 0
            except _BadTargetError:
                raise
            except CorruptObjectError as error:
                self._damaged.append(DamagedObject(error.key, error.reason))
                left = [key for key in left if key != error.key]
            except ObjectNotFoundError as error:
                if not self._listed:
                    raise
                left = [key for key in left if key not in error.keys]  # deleted since it was listed
        await self._store(batch)

    def _is_damaged(self, key: str, content: bytes) -> bool:
        if self._hash is None or (found := hashlib.new(self._hash, content).hexdigest()) == key:
            return False
        self._damaged.append(DamagedObject(key, f"its content hashes to {found}"))
        return True

    async def _copy_large(self, key: str, size: int) -> None:
        try:
            async with self._source.open(key, check=True) as stream:
                new = await self._target.put(stream)
        except CorruptObjectError as error:
            self._damaged.append(DamagedObject(key, error.reason))
            return
        if self._check:
            await self._read_back_large(key, new)
        self._note({key: new}, size)

    async def _store(self, batch: dict[str, bytes]) -> None:
        if batch:
            new = await self._target.put_many(list(batch.values()))
            if self._check:
                await self._read_back(dict(zip(new, batch.values(), strict=True)))
            self._note(dict(zip(batch, new, strict=True)), sum(map(len, batch.values())))

    async def _read_back(self, contents: dict[str, bytes]) -> None:
        async with self._target.stream(contents) as objects:
            async for key, stream in objects:
                if await stream.read() != contents[key]:
                    raise self._came_back_different(key)

    def _came_back_different(self, key: str) -> CorruptObjectError:
        return _BadTargetError(
            key, f"stored in {self._target}, it came back as something else; check what it is stored on"
        )

    async def _read_back_large(self, key: str, new: str) -> None:
        if self._hash is None:
            if await self._target.hash(new) != await self._source.hash(key):
                raise self._came_back_different(new)
            return
        try:
            async with self._target.open(new, check=True) as stream:
                async for _ in stream:
                    pass
        except CorruptObjectError as error:
            raise _BadTargetError(new, f"stored in {self._target}, it came back so that {error.reason}") from error

    def _note(self, keys: dict[str, str], size: int) -> None:
        self._copied += len(keys)
        self._size += size
        if self._hash is None:
            self._renamed |= keys


class _BadTargetError(CorruptObjectError):
    """What was stored is not what is there: no fault of the source, of which everything else could be copied."""


async def batched_keys(keys: Iterable[str] | AsyncIterable[str]) -> AsyncGenerator[list[str], None]:
    """Give keys in lists of up to a thousand; one that is given twice in a sequence comes once."""
    page: list[str] = []
    if isinstance(keys, AsyncIterable):
        async with closing_generator(keys):
            async for key in keys:
                page.append(key)
                if len(page) == _PAGE_KEYS:
                    yield page
                    page = []
    else:
        for key in dict.fromkeys(keys):
            page.append(key)
            if len(page) == _PAGE_KEYS:
                await anyio.lowlevel.checkpoint()
                yield page
                page = []
    if page:
        yield page
