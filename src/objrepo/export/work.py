"""Writing objects into an archive: what the caller calls, and the work page by page."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterable, Iterable
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path

from objrepo.archive import ArchiveRepository
from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.export.staging import new_archive, updated_archive
from objrepo.export.writers import Archive, is_tar
from objrepo.integrity import compared
from objrepo.offload import Offload, Threads
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, DamagedObject, Progress, ProgressCallback
from objrepo.sources import feed
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES
from objrepo.transfer import batched_keys

__all__ = ("export",)


async def export(
    source: AsyncRepository,
    path: str | os.PathLike[str],
    keys: Iterable[str] | AsyncIterable[str] | None = None,
    *,
    compress: bool = False,
    update: bool = False,
    check: bool = False,
    progress: ProgressCallback | None = None,
    offload: Offload | None = None,
) -> CopyReport:
    """Write objects into a zip or a tar, each as a member ``repo/KEY``. The repository is entered by the caller.

    The file has its name once it is whole and on the disk. Until then, and for good if this fails or is cancelled, it
    is not there; with ``update`` what was written by then stays under another name, and the next call goes on there.
    Objects are compared with their keys where these are hashes; what is damaged is told and left out.

    :param path: the file; a tar if it ends in ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2`` or ``.tar.xz``, else a zip.
    :param keys: which objects; all of them unless given.
    :param compress: whether to deflate them in a zip; how a tar is compressed its name says.
    :param update: whether the file may be there: a zip, of which everything stays, and which the objects are added to
        that it does not have. It is replaced at once when the new one is whole, and needs the space of both.
    :param check: whether to read a zip back as a whole, and to compare all of it, before it has its name.
    :param progress: told how many objects have been looked at.
    :param offload: where the file is written; a worker thread unless given.
    :return: what was written; ``copied`` and ``size`` are of what the file did not have.
    :raises FileExistsError: if the file is there, without ``update``.
    :raises ObjectNotFoundError: if one of the keys is not in the source.
    :raises CorruptObjectError: if what was written cannot be read back.
    :raises RepositoryBusyError: if somebody else is updating the same file.
    :raises ValueError: if a tar is to be compressed otherwise than its name says, updated, or checked.
    """
    path = Path(path)
    if is_tar(path.name) and (compress or update or check):
        raise ValueError(f"{path} is a tar, which its name compresses, and which is neither updated nor checked")
    opening = updated_archive(path, compress) if update else new_archive(path, compress)
    offload = Threads(1) if offload is None else offload
    await source.key_format()  # without a source nothing is made
    opened = ExitStack()
    try:
        place = await offload.run(lambda: opened.enter_context(opening))
        report = await _fill(place.archive, source, keys, progress, offload)
        await offload.run(place.finish)
        if check:
            await _read_back(place.path, progress, offload)
        await offload.run(place.publish)
    finally:
        await offload.finish(opened.close)
    return report


async def _fill(
    archive: Archive,
    source: AsyncRepository,
    keys: Iterable[str] | AsyncIterable[str] | None,
    progress: ProgressCallback | None,
    offload: Offload,
) -> CopyReport:
    work = _Export(source, await source.key_format(), archive, offload)
    total = (await source.info()).objects if keys is None else None
    seen = 0
    async with aclosing(batched_keys(source.keys() if keys is None else keys)) as pages:
        async for page in pages:
            await work.write(page, listed=keys is None)
            seen += len(page)
            if progress is not None:
                progress(Progress("export", seen, total, "objects"))
    return work.report(seen)


async def _read_back(path: Path, progress: ProgressCallback | None, offload: Offload) -> None:
    async with ArchiveRepository(path, offload) as archive:
        for damaged in (await archive.verify(progress)).damaged:
            raise CorruptObjectError(
                damaged.key, f"written to {path}, it came back as something else; check what it is stored on"
            )


class _Export:
    """One export under way, and what it has come to."""

    def __init__(self, source: AsyncRepository, key_format: str, archive: Archive, offload: Offload) -> None:
        self._source = source
        self._key_format = key_format
        self._archive = archive
        self._offload = offload
        self._written = self._size = 0
        self._damaged: list[DamagedObject] = []

    async def write(self, page: list[str], listed: bool) -> None:
        """Write those of some objects that are not there yet.

        :param listed: whether they come from a listing, so that one which is not there was deleted since.
        """
        left = dict.fromkeys(key for key in page if key not in self._archive.known)
        while left:
            try:
                await self._write(left)
            except CorruptObjectError as error:
                self._damaged.append(DamagedObject(error.key, error.reason))
                del left[error.key]
            except ObjectNotFoundError as error:
                if not listed:
                    raise
                for key in error.keys:
                    left.pop(key, None)

    def report(self, seen: int) -> CopyReport:
        """Return what was written."""
        damaged = tuple(self._damaged)
        return CopyReport(objects=seen, copied=self._written, size=self._size, damaged=damaged)

    async def _write(self, left: dict[str, None]) -> None:
        """Write the objects that are left, and take them out."""
        batch: dict[str, bytes] = {}
        size = 0
        async with self._source.stream(list(left)) as objects:
            async for key, stream in objects:
                if stream.size > CHUNK_BYTES:
                    await self._write_large(key, stream.size)
                    del left[key]
                    continue
                batch[key] = await stream.read()
                size += stream.size
                if size >= BATCH_BYTES:
                    await self._write_small(batch, left)
                    batch, size = {}, 0
        await self._write_small(batch, left)

    async def _write_small(self, batch: dict[str, bytes], left: dict[str, None]) -> None:
        await self._offload.run(self._write_each, batch)
        for key in batch:
            del left[key]

    def _write_each(self, batch: dict[str, bytes]) -> None:
        for key, content in batch.items():
            try:
                compared(key, self._key_format, content)
            except CorruptObjectError as error:
                self._damaged.append(DamagedObject(key, error.reason))
            else:
                self._archive.add(key, len(content), io.BytesIO(content))
                self._written += 1
                self._size += len(content)

    async def _write_large(self, key: str, size: int) -> None:
        async with self._source.open(key, check=True) as stream:
            async for _ in stream:  # what is in the archive cannot be taken out, so it is found out before
                pass
        async with self._source.open(key, check=True) as stream:
            await feed(self._offload, stream, partial(self._archive.add, key, size))
        self._written += 1
        self._size += size
