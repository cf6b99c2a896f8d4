"""Writing objects into a zip, which an `ArchiveRepository` reads and every other program unpacks."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final

from objrepo.checking import compared
from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.offload import Offload, Threads
from objrepo.protocol import AsyncRepository
from objrepo.reports import CopyReport, DamagedObject, Progress, ProgressCallback
from objrepo.stream import BATCH_BYTES, CHUNK_BYTES
from objrepo.transfer import pages_of

__all__ = ("export",)

_PIECE: Final = 1024 * 1024
_UNDATED: Final = (1980, 1, 1, 0, 0, 0)  # the same objects make the same file


async def export(
    source: AsyncRepository,
    path: str | os.PathLike[str],
    keys: Iterable[str] | AsyncIterable[str] | None = None,
    *,
    compress: bool = False,
    progress: ProgressCallback | None = None,
    offload: Offload | None = None,
) -> CopyReport:
    """Write objects into a new zip, each as a member ``repo/KEY``. The repository is entered by the caller.

    The file has its name once it is whole; until then, and for good if this fails or is cancelled, it is not there.
    Objects are compared with their keys where these are hashes; what is damaged is told and left out.

    :param path: the file, which must not be there yet.
    :param keys: which objects; all of them unless given.
    :param compress: whether to deflate them.
    :param progress: told how many objects have been looked at.
    :param offload: where the file is written; a worker thread unless given.
    :raises FileExistsError: if the file is there.
    :raises ObjectNotFoundError: if one of the keys is not in the source.
    """
    key_format = await source.key_format()
    total = (await source.info()).objects if keys is None else None
    seen = 0
    offload = Threads(1) if offload is None else offload
    with _new_zip(Path(path), compress) as (archive, keep):
        work = _Export(source, key_format, archive, offload)
        async with aclosing(pages_of(source.keys() if keys is None else keys)) as pages:
            async for page in pages:
                await work.write(page, listed=keys is None)
                seen += len(page)
                if progress is not None:
                    progress(Progress("export", seen, total, "objects"))
        await offload.run(keep)
    return work.report(seen)


class _Export:
    """One export under way, and what it has come to."""

    def __init__(self, source: AsyncRepository, key_format: str, archive: zipfile.ZipFile, offload: Offload) -> None:
        self._source = source
        self._key_format = key_format
        self._archive = archive
        self._offload = offload
        self._written = self._size = 0
        self._damaged: list[DamagedObject] = []

    async def write(self, page: list[str], listed: bool) -> None:
        """Write some objects.

        :param listed: whether they come from a listing, so that one which is not there was deleted since.
        """
        left = dict.fromkeys(page)
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
                self._archive.writestr(self._member(key), compared(key, self._key_format, content))
            except CorruptObjectError as error:
                self._damaged.append(DamagedObject(key, error.reason))
            else:
                self._written += 1
                self._size += len(content)

    async def _write_large(self, key: str, size: int) -> None:
        async with self._source.open(key, check=True) as stream:
            while await stream.read(_PIECE):  # what is in the zip cannot be taken out, so it is found out before
                pass
        member = self._member(key)
        member.file_size = size  # so that what is larger than 4 GiB is written as that
        async with self._source.open(key, check=True) as stream:
            with self._archive.open(member, "w") as file:
                while piece := await stream.read(_PIECE):
                    await self._offload.run(file.write, piece)
        self._written += 1
        self._size += size

    def _member(self, key: str) -> zipfile.ZipInfo:
        member = zipfile.ZipInfo(f"repo/{key}", _UNDATED)
        member.compress_type = self._archive.compression
        member.external_attr = 0o644 << 16
        return member


@contextmanager
def _new_zip(path: Path, compress: bool) -> Iterator[tuple[zipfile.ZipFile, Callable[[], None]]]:
    """Make a zip that is gone when this is left, and what gives it its name before that; this one blocks."""
    if path.exists():
        raise FileExistsError(17, "there is a file of that name already", str(path))
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        partial = Path(file.name)
        try:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:

                def keep() -> None:
                    archive.close()
                    file.flush()
                    os.fsync(file.fileno())
                    partial.chmod(0o666 & ~_umask())
                    os.link(partial, path)  # not over one that has come meanwhile

                yield archive, keep
        finally:
            partial.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
