"""`export`: writes objects to a zip or a tar, for other programs, as a backup, or for `ArchiveRepository`."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import AsyncIterable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from objrepo.archive import ArchiveRepository
from objrepo.errors import CorruptObjectError, RepositoryError, with_path
from objrepo.exporting.staging import new_archive, updated_archive
from objrepo.exporting.writers import ArchiveWriter, is_tar
from objrepo.offload import Inline, Offload, Threads, runs_in_place
from objrepo.protocol import AsyncRepository, BinaryReader
from objrepo.reports import CopyReport, ProgressCallback
from objrepo.sources import run_with_reader
from objrepo.transfer import PageCopier, require_async

__all__ = ("export", "is_tar")


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
    """Write objects to a zip or a tar, each as a member ``repo/KEY``. The caller has entered the repository.

    The file gets its name when it is complete and durable. If the export fails or is cancelled, there is no file; with
    ``update``, the objects written by then remain in ``.NAME.partial``, and the next call continues there. If keys are
    hashes, contents are compared with them; damaged objects are reported and not written.

    :param source: the repository to read from.
    :param path: the file; a tar if its name ends in ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2`` or ``.tar.xz``, else
        a zip.
    :param keys: the objects to write; None writes all.
    :param compress: whether to deflate the objects in a zip. The compression of a tar follows from its name.
    :param update: whether to add the missing objects to an existing zip, whose members all remain. The file is replaced
        when the new one is complete: meanwhile both need space.
    :param check: whether to read the whole zip back and compare it before it gets its name.
    :param progress: called with the number of objects that were compared.
    :param offload: where the file is written; where the source runs if that is in place, else a worker thread.
    :return: how many objects were written, and which are damaged.
    :raises TypeError: if the repository is something else, such as a path.
    :raises FileExistsError: if the file exists, without ``update``.
    :raises ObjectNotFoundError: if the source does not have one of ``keys``.
    :raises CorruptObjectError: with ``check``, if the file returns a different content than was written.
    :raises RepositoryBusyError: if another process or task updates the same file.
    :raises OSError: if the file cannot be written.
    :raises ValueError: if ``compress``, ``update`` or ``check`` is given for a tar, or the name is that of a tar with
        another compression.
    """
    require_async(source)
    path = Path(path)
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, "is a directory: add the name of a file", str(path))
    if is_tar(path.name) and (compress or update or check):
        raise ValueError(f"{path} is a tar: compress, update and check are for zips")
    opening = updated_archive(path, compress) if update else new_archive(path, compress)
    if offload is None:
        offload = Inline() if runs_in_place(source) else Threads(1)
    await source.key_format()  # raises before a file is created if the source does not exist
    opened = ExitStack()
    try:
        writer, file = await offload.run(lambda: opened.enter_context(opening))
        destination = _ArchiveDestination(source, writer, path, offload)
        copier = PageCopier(source, destination, offload, "export", keys, False, progress)
        await copier.copy_pages()
        with with_path(path):
            await offload.run(writer.close)
            await offload.run(file.finish)
        if check:
            await _read_back(file.temporary, progress, offload)
        await offload.run(file.publish)
    finally:
        await offload.drain(opened.close)
    return copier.report()


async def _read_back(path: Path, progress: ProgressCallback | None, offload: Offload) -> None:
    async with ArchiveRepository(path, offload) as archive:
        for damaged in (await archive.verify(progress)).damaged:
            raise CorruptObjectError(
                damaged.key, f"{path} returns a different content than was written; check its disk"
            )


class _ArchiveDestination:
    """An archive as a destination of the page copier."""

    def __init__(self, source: AsyncRepository, writer: ArchiveWriter, path: Path, offload: Offload) -> None:
        self._source = source
        self._path = path
        self._writer = writer
        self._offload = offload

    async def missing(self, keys: list[str]) -> list[str]:
        """Return the keys that are not in the archive."""
        return [key for key in keys if key not in self._writer.keys]

    async def put_batch(self, contents: dict[str, bytes]) -> None:
        """Write small objects; see :meth:`Destination.put_batch`."""

        def add_all() -> None:
            for key, content in contents.items():
                self._add(key, len(content), io.BytesIO(content))

        await self._offload.run(add_all)

    async def put_large(self, key: str, size: int) -> None:
        """Write one object; see :meth:`Destination.put_large`.

        It is read twice, first to compare it with its key: a member cannot be removed from an archive.
        """
        async with self._source.open(key, check=True) as stream:
            async for _ in stream:
                pass
        try:
            async with self._source.open(key, check=True) as stream:
                await run_with_reader(self._offload, stream, partial(self._add, key, size))
        except CorruptObjectError as error:
            raise RepositoryError(
                f"{error}; it was not when it was read before, so {self._path} is not written: check its disk"
            ) from error

    def _add(self, key: str, size: int, reader: BinaryReader) -> None:
        with with_path(self._path):
            self._writer.add(key, size, reader)
