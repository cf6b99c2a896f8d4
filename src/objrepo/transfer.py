"""`copy`, from one repository to another, and the page copier that it shares with `export`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.integrity import check_digest
from objrepo.keys import key_list
from objrepo.offload import Inline, Offload, Threads, runs_in_place
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, DamagedObject, Progress, ProgressCallback, count_of
from objrepo.sources import closing_generator
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES, next_objects

__all__ = ("Destination", "PageCopier", "copy")

_PAGE_KEYS: Final = 1000
_COPIED_PAGE_KEYS: Final = 4096
"""As many small objects are stored at once, and the more of them are read together, the nearer they lie."""

_CONCURRENT_PAGES: Final = 2
"""While one page is read from the source, another one is written to the target."""


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
    """Copy the objects that the target does not have. The caller has entered both repositories.

    If both repositories have keys of the same format, and these are hashes, only missing objects are copied: after an
    interruption, call it again to continue. Otherwise every object is copied, and the report has its new key. Objects
    that are damaged in the source are reported and not copied.

    When cancelled, it ends as soon as running writes have ended; the objects copied by then remain.

    :param source: the repository to read from.
    :param target: the repository to write to.
    :param keys: the objects to copy; None copies all.
    :param delete: whether to delete the objects of the target that the source does not have.
    :param deletions: with ``delete``, their expected number, as a ``dry_run`` reports it.
    :param check: whether to read every copied object back from the target and compare it.
    :param dry_run: whether only to count what would be copied and deleted.
    :param progress: called with the number of objects that were compared.
    :return: how many objects were copied and deleted, and which are damaged.
    :raises TypeError: if one of the repositories is something else, such as a path.
    :raises ObjectNotFoundError: if the source does not have one of ``keys``.
    :raises CorruptObjectError: with ``check``, if the target returns a different content than was stored.
    :raises ValueError: if the number of objects to delete is not ``deletions``; then none is deleted. Or if ``delete``
        is combined with ``keys``, or with repositories that have different keys.
    """
    require_async(source, target)
    if delete and keys is not None:
        raise ValueError("delete=True compares whole repositories: it cannot be combined with keys")
    key_format = await source.key_format()
    same_keys = key_format != "uuid4" and key_format == await target.key_format()
    destination = _RepositoryDestination(source, target, same_keys, check)
    in_place = runs_in_place(source) and runs_in_place(target)
    offload = Inline() if in_place else Threads(_CONCURRENT_PAGES)
    copier = PageCopier(source, destination, offload, "copy", keys, dry_run, progress, _COPIED_PAGE_KEYS)
    await (copier.copy_pages() if in_place else _copy_pages(copier))
    extraneous = await _extraneous(source, target, same_keys) if delete else []
    if extraneous and not dry_run:
        if len(extraneous) != deletions:
            raise ValueError(
                f"{target} has {count_of(len(extraneous), 'object')} that {source} does not have: "
                f"to delete them, pass deletions={len(extraneous)}"
            )
        for start in range(0, len(extraneous), _PAGE_KEYS):
            await target.delete_many(extraneous[start : start + _PAGE_KEYS])
    return copier.report(deleted=len(extraneous), renamed=destination.renamed)


def require_async(*repositories: object) -> None:
    """Refuse what is no async repository.

    :raises TypeError: if one is something else.
    """
    for each in repositories:
        if not hasattr(each, "__aenter__"):
            raise TypeError(
                f"pass an async repository, such as that of open_repository(path), not {each!r}; objrepo.sync has copy "
                "and export for sync ones"
            )


async def _copy_pages(copier: PageCopier) -> None:
    """Copy all pages, some of them concurrently. The first error is raised as it is, not in an exception group."""
    slots = anyio.Semaphore(_CONCURRENT_PAGES)
    errors: list[Exception | KeyboardInterrupt] = []

    async def copy_page(page: list[str]) -> None:
        try:
            await copier.copy_page(page)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (raised below)
            errors.append(error)
            group.cancel_scope.cancel()
        finally:
            slots.release()

    async with aclosing(copier.pages()) as pages, anyio.create_task_group() as group:
        try:
            async for page in pages:
                await slots.acquire()
                group.start_soon(copy_page, page)
        except Exception as error:  # noqa: BLE001  (raised below)
            errors.append(error)
            group.cancel_scope.cancel()
    if errors:
        raise errors[0]


async def _extraneous(source: AsyncRepository, target: AsyncRepository, same_keys: bool) -> list[str]:
    """Return the keys of the target that the source does not have."""
    if not same_keys:
        raise ValueError(f"{source} and {target} have different keys: delete=True needs the same keys in both")
    found = []
    async with aclosing(_batched_keys(target.keys(), _PAGE_KEYS)) as pages:
        async for page in pages:
            found += await _absent(source, page)
    return found


async def _absent(repository: AsyncRepository, keys: list[str]) -> list[str]:
    present = await repository.has_many(keys)
    return [key for key, is_present in zip(keys, present, strict=True) if not is_present]


class Destination(Protocol):
    """Where objects are copied to: a repository, or an archive."""

    async def missing(self, keys: list[str]) -> list[str]:
        """Return the keys of the objects that have to be copied."""
        ...

    async def put_batch(self, contents: dict[str, bytes]) -> None:
        """Store small objects, whose contents were compared with their keys."""

    async def put_large(self, key: str, size: int) -> None:
        """Read one object from the source, compare it with its key, and store it.

        :raises CorruptObjectError: if the object is damaged in the source.
        :raises _ReadBackError: if the destination returns a different content.
        """


class PageCopier:
    """Copies objects to a destination, a page of keys at a time, in bounded memory; pages may be copied concurrently.

    Small objects are stored in batches, large ones one by one. Damaged objects are left out and reported.

    :param source: the repository to read from.
    :param destination: where to write.
    :param offload: compares contents with keys.
    :param step: the name of the operation, for its progress.
    :param keys: the objects to copy; None copies all, but for those that are deleted meanwhile.
    :param dry_run: whether only to count.
    :param page_keys: how many keys are a page.
    """

    def __init__(
        self,
        source: AsyncRepository,
        destination: Destination,
        offload: Offload,
        step: str,
        keys: Iterable[str] | AsyncIterable[str] | None,
        dry_run: bool,
        progress: ProgressCallback | None,
        page_keys: int = _PAGE_KEYS,
    ) -> None:
        self._source = source
        self._destination = destination
        self._offload = offload
        self._step = step
        self._keys = keys
        self._dry_run = dry_run
        self._progress = progress
        self._page_keys = page_keys
        self._key_format = "uuid4"
        self._total: int | None = None
        self._seen = self._copied = self._size = 0
        self._damaged: list[DamagedObject] = []

    async def pages(self) -> AsyncGenerator[list[str], None]:
        """Yield the keys of the objects, a page at a time.

        :raises NotInitialisedError: if the source does not exist.
        """
        self._key_format = await self._source.key_format()
        if self._keys is None:
            self._total = (await self._source.info()).objects
        async with aclosing(
            _batched_keys(self._source.keys() if self._keys is None else self._keys, self._page_keys)
        ) as pages:
            async for page in pages:
                yield page
                if self._offload.concurrent:
                    await anyio.lowlevel.checkpoint()  # a page whose objects the destination has may not suspend

    async def copy_pages(self) -> None:
        """Copy all objects, one page after the other."""
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                await self.copy_page(page)

    async def copy_page(self, page: list[str]) -> None:
        """Copy the objects of a page that the destination does not have."""
        missing = await self._destination.missing(page)
        if self._dry_run:
            await self._count_objects(missing)
        else:
            await self._copy_objects(dict.fromkeys(missing))
        self._seen += len(page)
        if self._progress is not None:
            self._progress(Progress(self._step, self._seen, self._total, "objects"))

    def report(self, deleted: int = 0, renamed: dict[str, str] | None = None) -> CopyReport:
        """Return what was copied."""
        return CopyReport(
            dry_run=self._dry_run,
            objects=self._seen,
            copied=self._copied,
            size=self._size,
            deleted=deleted,
            damaged=tuple(self._damaged),
            renamed=renamed or {},
        )

    async def _count_objects(self, keys: list[str]) -> None:
        for key in keys:
            try:
                self._add(1, await self._source.size(key))
            except ObjectNotFoundError:
                if self._keys is not None:
                    raise

    async def _copy_objects(self, left: dict[str, None]) -> None:
        batch: dict[str, bytes] = {}
        while left:
            try:
                await self._copy_stream(left, batch)
            except _ReadBackError:
                raise
            except CorruptObjectError as error:
                if error.key not in left:
                    raise
                self._damaged.append(DamagedObject(error.key, error.reason))
                del left[error.key]
            except ObjectNotFoundError as error:
                if self._keys is not None or left.keys().isdisjoint(error.keys):
                    raise
                for key in error.keys:
                    left.pop(key, None)
        await self._put_batch(batch)

    async def _copy_stream(self, left: dict[str, None], batch: dict[str, bytes]) -> None:
        """Copy the objects that are left. Those that were read are removed from ``left``, the last are in ``batch``."""
        size = sum(map(len, batch.values()))
        async with self._source.stream(list(left), check=False) as objects:  # they are compared below
            while True:
                small, large, error = await next_objects(objects, CHUNK_BYTES)
                for key, length, content, _ in small:
                    batch[key] = content
                    size += length
                    del left[key]
                if size >= BATCH_BYTES:
                    await self._put_batch(batch)
                    batch.clear()
                    size = 0
                if error is not None:
                    raise error
                if large is not None:
                    await self._put_large(large.key, large.size)
                    del left[large.key]
                elif not small:
                    return

    async def _put_large(self, key: str, size: int) -> None:
        try:
            await self._destination.put_large(key, size)
        except _ReadBackError:
            raise
        except CorruptObjectError as error:  # caught here, so that the stream of the other objects goes on
            self._damaged.append(DamagedObject(key, error.reason))
        else:
            self._add(1, size)

    async def _put_batch(self, batch: dict[str, bytes]) -> None:
        intact = await self._offload.run(self._without_damaged, batch) if batch else {}
        if intact:
            await self._destination.put_batch(intact)
            self._add(len(intact), sum(map(len, intact.values())))

    def _without_damaged(self, batch: dict[str, bytes]) -> dict[str, bytes]:
        intact = {}
        for key, content in batch.items():
            try:
                intact[key] = check_digest(key, self._key_format, content)
            except CorruptObjectError as error:
                self._damaged.append(DamagedObject(key, error.reason))
        return intact

    def _add(self, objects: int, size: int) -> None:
        self._copied += objects
        self._size += size


class _ReadBackError(CorruptObjectError):
    """The destination returned a different content than was stored; the object is not damaged in the source."""


class _RepositoryDestination:
    """A repository as a destination.

    :ivar renamed: the new key of each copied object by its old one, unless both repositories have the same keys.
    """

    def __init__(self, source: AsyncRepository, target: AsyncRepository, same_keys: bool, check: bool) -> None:
        self.renamed: dict[str, str] = {}
        self._source = source
        self._target = target
        self._same_keys = same_keys
        self._check = check

    async def missing(self, keys: list[str]) -> list[str]:
        """Return the keys that the target does not have; all, if it has different keys."""
        if not self._same_keys:
            return keys
        return await _absent(self._target, keys)

    async def put_batch(self, contents: dict[str, bytes]) -> None:
        """Store small objects; see :meth:`Destination.put_batch`."""
        new_keys = await self._target.put_many(list(contents.values()))
        if self._check:
            expected = dict(zip(new_keys, contents.values(), strict=True))
            async with self._target.stream(expected, check=False) as objects:
                async for key, stream in objects:
                    if await stream.read() != expected[key]:
                        raise self._different(key)
        self._rename(contents, new_keys)

    async def put_large(self, key: str, size: int) -> None:
        """Copy one object; see :meth:`Destination.put_large`."""
        async with self._source.open(key, check=True) as stream:
            new_key = await self._target.put(stream)
        if self._check:
            await self._read_back(key, new_key)
        self._rename([key], [new_key])

    async def _read_back(self, key: str, new_key: str) -> None:
        if not self._same_keys:
            if await self._target.hash(new_key) != await self._source.hash(key):
                raise self._different(new_key)
            return
        try:
            async with self._target.open(new_key, check=True) as stream:
                async for _ in stream:
                    pass
        except CorruptObjectError as error:
            raise self._different(new_key) from error

    def _different(self, key: str) -> _ReadBackError:
        return _ReadBackError(key, f"{self._target} returns a different content than was stored; check its disk")

    def _rename(self, keys: Iterable[str], new_keys: list[str]) -> None:
        if not self._same_keys:
            self.renamed.update(zip(keys, new_keys, strict=True))


async def _batched_keys(keys: Iterable[str] | AsyncIterable[str], size: int) -> AsyncGenerator[list[str], None]:
    """Yield keys in lists, without duplicates if the iterable is synchronous."""
    if not isinstance(keys, AsyncIterable):
        unique = list(dict.fromkeys(key_list(keys)))
        for start in range(0, len(unique), size):
            yield unique[start : start + size]
        return
    page: list[str] = []
    async with closing_generator(keys):
        async for key in keys:
            page.append(key)
            if len(page) == size:
                yield page
                page = []
    if page:
        yield page
