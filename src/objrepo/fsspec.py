"""A read-only filesystem of fsspec: pandas, dask, xarray and zarr read ``objrepo://KEY``.

It needs the extra ``fsspec``, which finds it by its entry point.
"""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.url import open_repository

__all__ = ("ObjectFileSystem",)


class ObjectFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The objects of a repository, as files in one folder, named by their keys.

    It starts no thread and no loop. Writing to it is an ``OSError``.

    :param repository: the repository's folder or URL; ``$OBJREPO`` unless given, else ``./.objrepo``, as on the
        command line.
    """

    protocol = "objrepo"
    root_marker = ""

    def __init__(self, repository: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._repository = SyncRepository(
            open_repository(repository or os.environ.get("OBJREPO") or ".objrepo", Inline())
        )

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List all keys, or one; sizes are known only of one that is asked for itself.

        :raises FileNotFoundError: if there is no such object.
        """
        key = _key(path)
        if key:
            found = self.info(key)
            return [found] if detail else [key]
        keys = self._repository.list_objects()
        return [{"name": key, "size": None, "type": "file"} if detail else key for key in keys]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the name, size and type of an object.

        :raises FileNotFoundError: if there is no such object.
        """
        key = _key(path)
        if not key:
            return {"name": "", "size": 0, "type": "directory"}
        with self._repository.open(key) as file:
            return {"name": key, "size": file.seek(0, os.SEEK_END), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return an object or a range of it; negative numbers count from its end.

        :raises FileNotFoundError: if there is no such object.
        """
        key = _key(path)
        if start is None and end is None:
            return self._repository.get_object_content(key)
        with self._repository.open(key) as file:
            first, last, _ = slice(start, end).indices(file.seek(0, os.SEEK_END))
            file.seek(first)
            return file.read(max(last - first, 0))

    def ukey(self, path: str) -> str:
        """Return what changes when a file does: its key, as it never does."""
        return _key(path)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> _ObjectFile:
        if mode != "rb":
            _refuse(path)
        size: Any = block_size or self.blocksize  # fsspec's annotation says that it is a str
        return _ObjectFile(self, _key(path), mode, size, autocommit, cache_options=cache_options, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> NoReturn:
        """Refuse to write."""
        _refuse(path)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> NoReturn:
        """Refuse to make a folder."""
        _refuse(path)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> NoReturn:
        """Refuse to copy within."""
        _refuse(path2)

    def _rm(self, path: str) -> NoReturn:
        _refuse(path)


class _ObjectFile(AbstractBufferedFile):  # type: ignore[misc]
    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content


def _key(path: str) -> str:
    return str(ObjectFileSystem._strip_protocol(path))  # noqa: SLF001  (fsspec's name for what subclasses use)


def _refuse(path: str) -> NoReturn:
    raise OSError(errno.EROFS, "objrepo:// is read-only: store objects with a repository's put()", path)
