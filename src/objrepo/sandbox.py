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

from objrepo.backend import FileBackend, paginate
from objrepo.errors import ObjectNotFoundError
from objrepo.keys import is_key, new_uuid4
from objrepo.offload import Offload
from objrepo.protocol import BinaryReader
from objrepo.reports import RepositoryInfo
from objrepo.repository import Repository
from objrepo.sources import write_all

__all__ = ("SandboxBackend", "SandboxRepository")

_COPY_BYTES: Final = 512 * 1024


class SandboxRepository(Repository["SandboxBackend"]):
    """Keeps each object in a file of its own, named by a random UUID, in a folder that is created on first use.

    The folder with all objects is deleted when the repository is left or erased or, as a last resort, when it is
    garbage-collected or the interpreter ends. Equal contents get different keys. Nothing is fsynced. A pickled or
    copied one is empty and uses a folder of its own.

    :param path: in which folder to create the sandbox; it is created if necessary and stays. None takes the system's
        folder for temporary files. Each sandbox has a folder of its own there.
    :param offload: where the blocking methods run; worker threads unless given.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, offload: Offload | None = None) -> None:
        super().__init__(SandboxBackend(path), offload)

    @property
    def folder(self) -> Path | None:
        """The folder that holds the objects; None before its first use and after its deletion."""
        return self.backend.folder


class SandboxBackend(FileBackend):
    """See :class:`SandboxRepository`.

    :ivar parent: the folder in which the sandbox is created, None for the system's.
    :ivar folder: the folder that holds the objects, None while there is none.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.parent: Path | None = None if path is None else Path(path).absolute()
        self.folder: Path | None = None
        self._removal: weakref.finalize[[Path, int], SandboxBackend] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[SandboxBackend], tuple[Path | None]]:
        return type(self), (self.parent,)

    @property
    def location(self) -> str:
        return str(self.folder or "a folder that does not exist yet")

    def initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"a sandbox repository has no options, got {', '.join(options)}")
        self._create_folder()

    def is_initialised(self) -> bool:
        return self.folder is not None

    def key_format(self) -> str:
        return "uuid4"

    def put(self, reader: BinaryReader) -> str:
        key = new_uuid4()
        path = self._create_folder() / key
        # Under another name until it is complete: no listing and no reader sees half an object.
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

    def has_keys(self, keys: Sequence[str]) -> list[bool]:
        folder = self.folder
        return [folder is not None and folder.joinpath(key).is_file() for key in keys]

    def open_file(self, key: str) -> tuple[BinaryIO, int]:
        folder = self.folder  # another thread may erase it
        if folder is None:
            raise ObjectNotFoundError([key], self)
        try:
            file = open(folder / key, "rb", buffering=0)  # noqa: SIM115  (the caller closes it)
        except FileNotFoundError:
            raise ObjectNotFoundError([key], self) from None
        return file, os.fstat(file.fileno()).st_size

    def list_keys(self, cursor: tuple[list[str], int] | None) -> tuple[list[str], Any]:
        if cursor is not None:
            return paginate(*cursor)
        return paginate([entry.name for entry in self._entries()])

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            self.require(keys)
            for key in keys:
                assert self.folder is not None, "a key was found in it"
                self.folder.joinpath(key).unlink()

    def info(self, detailed: bool) -> RepositoryInfo:
        entries = self._entries()
        size = sum(entry.stat().st_size for entry in entries) if detailed else None
        return RepositoryInfo(location=str(self), key_format="uuid4", objects=len(entries), size=size)

    def erase(self) -> None:
        with self._lock:
            if self._removal is not None:
                self._removal()
            self.folder = self._removal = None

    def close(self) -> None:
        self.erase()

    def _create_folder(self) -> Path:
        with self._lock:
            if self.folder is None:
                if self.parent is not None:
                    self.parent.mkdir(parents=True, exist_ok=True)
                self.folder = Path(tempfile.mkdtemp(prefix="objrepo-sandbox-", dir=self.parent))
                self._removal = weakref.finalize(self, _remove, self.folder, os.getpid())
            return self.folder

    def _entries(self) -> list[os.DirEntry[str]]:
        if self.folder is None:
            return []
        with os.scandir(self.folder) as entries:
            return [entry for entry in entries if is_key(entry.name, "uuid4")]


def _remove(folder: Path, creator: int) -> None:
    """Remove a sandbox, but not in a child process that was forked from its creator."""
    if os.getpid() == creator:
        shutil.rmtree(folder, ignore_errors=True)
