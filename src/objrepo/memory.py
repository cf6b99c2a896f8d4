"""A repository in a dictionary, for tests and caches."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

from objrepo.backend import FileBackend, paginate
from objrepo.errors import ObjectNotFoundError
from objrepo.offload import Offload
from objrepo.protocol import BinaryReader
from objrepo.reports import RepositoryInfo
from objrepo.repository import Repository

__all__ = ("MemoryBackend", "MemoryRepository")

_READ_BYTES = 1024 * 1024


class MemoryRepository(Repository["MemoryBackend"]):
    """Keeps objects in memory under the SHA-256 of their content. It needs no ``initialise``.

    The objects stay until ``erase``, also when the repository is left and entered again. A pickled or copied one is
    empty.

    :param offload: where the blocking methods run; worker threads unless given.
    """

    def __init__(self, offload: Offload | None = None) -> None:
        super().__init__(MemoryBackend(), offload)


class MemoryBackend(FileBackend):
    """See :class:`MemoryRepository`."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[MemoryBackend], tuple[()]]:
        return type(self), ()

    def initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"a memory repository has no options, got {', '.join(options)}")

    def is_initialised(self) -> bool:
        return True

    def key_format(self) -> str:
        return "sha256"

    def put(self, reader: BinaryReader) -> str:
        parts = []
        while part := reader.read(_READ_BYTES):
            parts.append(part)
        content = b"".join(parts)
        key = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._objects.setdefault(key, content)
        return key

    def has_keys(self, keys: Sequence[str]) -> list[bool]:
        return [key in self._objects for key in keys]

    def open_file(self, key: str) -> tuple[BinaryIO, int]:
        try:
            content = self._objects[key]
        except KeyError:
            raise ObjectNotFoundError([key], self) from None
        return io.BytesIO(content), len(content)

    def list_keys(self, cursor: tuple[list[str], int] | None) -> tuple[list[str], Any]:
        if cursor is not None:
            return paginate(*cursor)
        with self._lock:
            return paginate(list(self._objects))

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            self.require(keys)
            for key in keys:
                del self._objects[key]

    def info(self, detailed: bool) -> RepositoryInfo:
        with self._lock:
            size = sum(map(len, self._objects.values())) if detailed else None
            return RepositoryInfo(location=str(self), key_format="sha256", objects=len(self._objects), size=size)

    def erase(self) -> None:
        with self._lock:
            self._objects.clear()
