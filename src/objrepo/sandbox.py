"""A repository in a temporary folder: one file for each object, gone when it is left."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from objrepo.backend import Backend, paginate
from objrepo.errors import ObjectNotFoundError
from objrepo.keys import is_key, new_uuid4
from objrepo.offload import Offload
from objrepo.protocol import BinaryReader
from objrepo.reports import RepositoryInfo
from objrepo.sources import write_all

__all__ = ("SandboxRepository",)

_COPY_BYTES: Final = 512 * 1024


class SandboxRepository(Backend):
    """Keeps each object in a file of its own, named by a random UUID, in a folder made on first use.

    The folder and everything in it is gone when the repository is left or erased or, as a last resort, when it is
    collected or the interpreter ends. Equal contents get different keys. Nothing is flushed to the disk, as nothing
    outlives the process.

    :param path: in which folder to make the sandbox; it is made if need be and stays. None takes the system's folder
        for temporary files. Sandboxes under one path never meet.
    :param offload: where the work is done; worker threads unless given.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, offload: Offload | None = None) -> None:
        super().__init__(offload)
        self._parent = None if path is None else Path(path).absolute()
        self._folder: Path | None = None
        self._removal: weakref.finalize[[Path, int], SandboxRepository] | None = None
        self._making = threading.Lock()

    def __str__(self) -> str:
        return f"SandboxRepository in {self._folder or 'no folder yet'}"

    @property
    def folder(self) -> Path | None:
        """The folder that holds the objects, None before its first use and after it is gone."""
        return self._folder

    def _initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"a sandbox repository has no options, got {', '.join(options)}")
        self._made()

    def _is_initialised(self) -> bool:
        return self._folder is not None

    def _key_format(self) -> str:
        return "uuid4"

    def _put(self, reader: BinaryReader) -> str:
        key = new_uuid4()
        path = self._made() / key
        # Under another name until it is whole: a listing or a reader never meets half an object.
        partial = path.with_suffix(".partial")
        try:
            with open(partial, "xb", buffering=0) as file:
                while chunk := reader.read(_COPY_BYTES):
                    write_all(file, chunk)
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return key

    def _has_keys(self, keys: Sequence[str]) -> list[bool]:
        folder = self._folder
        return [folder is not None and folder.joinpath(key).is_file() for key in keys]

    def _open_file(self, key: str) -> tuple[BinaryIO, int]:
        if self._folder is None:
            raise ObjectNotFoundError([key], self)
        try:
            file = open(self._folder / key, "rb", buffering=0)  # noqa: SIM115  (the caller closes it)
        except FileNotFoundError:
            raise ObjectNotFoundError([key], self) from None
        return file, os.fstat(file.fileno()).st_size

    def _list(self, cursor: tuple[list[str], int] | None) -> tuple[list[str], Any]:
        if cursor is not None:
            return paginate(*cursor)
        return paginate([entry.name for entry in self._entries()])

    def _delete(self, keys: Sequence[str]) -> None:
        with self._making:
            self._require(keys)
            for key in keys:
                assert self._folder is not None, "a key was found in it"
                self._folder.joinpath(key).unlink()

    def _info(self, detailed: bool) -> RepositoryInfo:
        entries = self._entries()
        size = sum(entry.stat().st_size for entry in entries) if detailed else None
        return RepositoryInfo(location=str(self), key_format="uuid4", objects=len(entries), size=size)

    def _erase(self) -> None:
        with self._making:
            if self._removal is not None:
                self._removal()
            self._folder = self._removal = None

    def _close(self) -> None:
        self._erase()

    def _made(self) -> Path:
        with self._making:
            if self._folder is None:
                if self._parent is not None:
                    self._parent.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="objrepo-sandbox-", dir=self._parent))
                self._removal = weakref.finalize(self, _remove, self._folder, os.getpid())
            return self._folder

    def _entries(self) -> list[os.DirEntry[str]]:
        if self._folder is None:
            return []
        with os.scandir(self._folder) as entries:
            return [entry for entry in entries if is_key(entry.name, "uuid4")]


def _remove(folder: Path, maker: int) -> None:
    """Remove a sandbox, but not from a child process that was forked from its maker."""
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)
