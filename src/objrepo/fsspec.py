"""A read-only filesystem for fsspec: pandas, dask, xarray and zarr read ``objrepo://KEY``.

It needs the extra ``fsspec``. fsspec finds it by its entry point.
"""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from objrepo.sync import open_repository

__all__ = ("ObjectFileSystem",)


class ObjectFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The objects of a repository as files in one folder, named by their keys.

    It starts no thread and no event loop. Every method that would write raises an ``OSError`` with ``EROFS``.

    :param repository: the folder or URL of the repository; by default ``$OBJREPO``, else ``./.objrepo``, as on the
        command line.
    """

    protocol = "objrepo"
    root_marker = ""

    def __init__(self, repository: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._repository = open_repository(repository or os.environ.get("OBJREPO") or ".objrepo")

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List all keys, without sizes, or a single key, with its size.

        :raises FileNotFoundError: if there is no such object.
        """
        key = self._strip_protocol(path)
        if key:
            found = self.info(key)
            return [found] if detail else [key]
        return [{"name": key, "size": None, "type": "file"} if detail else key for key in self._repository.keys()]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the name, size and type of an object.

        :raises FileNotFoundError: if there is no such object.
        """
        key = self._strip_protocol(path)
        if not key:
            return {"name": "", "size": 0, "type": "directory"}
        return {"name": key, "size": self._repository.size(key), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the content of an object, or a range of it; negative numbers count from the end.

        :raises FileNotFoundError: if there is no such object.
        """
        key = self._strip_protocol(path)
        if start is None and end is None:
            return self._repository.get(key)
        with self._repository.open(key) as file:
            first, last, _ = slice(start, end).indices(file.seek(0, os.SEEK_END))
            file.seek(first)
            return file.read(max(last - first, 0))

    def ukey(self, path: str) -> str:
        """Return the key: as an object never changes, a cache may keep it by that."""
        return str(self._strip_protocol(path))

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, *args: Any, **kwargs: Any
    ) -> _ObjectFile:
        if mode != "rb":
            self._refuse(path)
        size: Any = block_size or self.blocksize  # fsspec annotates it as str
        return _ObjectFile(self, path, mode, size, *args, **kwargs)

    def _refuse(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise ``OSError``: the filesystem is read-only."""
        raise OSError(errno.EROFS, "objrepo:// is read-only: store objects with a repository's put()", path)

    def _refuse_target(self, *paths: Any, **named_paths: Any) -> NoReturn:
        """Raise ``OSError``: the filesystem is read-only."""
        self._refuse([*paths, *named_paths.values()][1])

    # Some of the inherited methods would succeed without writing anything.
    mkdir = makedirs = rmdir = touch = pipe = pipe_file = rm = rm_file = _refuse
    copy = cp_file = mv = put = put_file = _refuse_target


class _ObjectFile(AbstractBufferedFile):  # type: ignore[misc]
    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content
