"""The abstract class that AiiDA documents as ``aiida.repository.backend.abstract.AbstractRepositoryBackend``."""

from __future__ import annotations

import hashlib
import io
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from objrepo.with_only import with_only

_HASH_BYTES: Final = 512 * 1024


class AbstractRepositoryBackend(metaclass=ABCMeta):
    """Stores byte strings as objects, and returns a key for each of them.

    Third parties subclass it as they subclass AiiDA's class: a subclass implements the abstract methods and inherits
    the others. :class:`~objrepo.sync.SyncRepository` implements it with any :class:`~objrepo.AsyncRepository`.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type[Self]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class; once AiiDA is imported, reading it registers this abstract class with AiiDA's.

        ``isinstance`` reads this attribute before it asks an abstract class. So either module may be imported first,
        and this module does not import AiiDA, which takes a second.
        """
        aiida = sys.modules.get("aiida.repository.backend.abstract")
        if aiida is not None and hasattr(aiida, "AbstractRepositoryBackend"):
            aiida.AbstractRepositoryBackend.register(AbstractRepositoryBackend)
        return type(self)

    @property
    @abstractmethod
    def uuid(self) -> str | None:
        """The unique identifier of the repository; None if it has none."""

    @property
    @abstractmethod
    def key_format(self) -> str | None:
        """The format of the keys, such as ``'sha256'``. Equal formats give an object equal keys."""

    @abstractmethod
    def initialise(self, **kwargs: Any) -> None:
        """Create the repository; do nothing if it exists.

        :param kwargs: options of the backend.
        """

    @property
    @abstractmethod
    def is_initialised(self) -> bool:
        """Whether the repository exists."""

    @abstractmethod
    def erase(self) -> None:
        """Delete the repository and all its resources, such as its folder."""

    @staticmethod
    def is_readable_byte_stream(handle: Any) -> bool:
        """Return whether an object has a method ``read`` and an attribute ``mode`` that contains ``b``."""
        return hasattr(handle, "read") and hasattr(handle, "mode") and "b" in handle.mode

    def put_object_from_filelike(self, handle: BinaryIO) -> str:
        """Store the content of a file from its current position to its end.

        :param handle: a file that is open in binary mode.
        :return: the key of the object.
        :raises TypeError: if the handle is not a byte stream.
        """
        if not isinstance(handle, io.BufferedIOBase) and not self.is_readable_byte_stream(handle):
            raise TypeError(f"handle does not seem to be a byte stream: {type(handle)}; open the file in binary mode")
        return self._put_object_from_filelike(handle)

    @abstractmethod
    def _put_object_from_filelike(self, handle: BinaryIO) -> str: ...

    def put_object_from_file(self, filepath: str | Path) -> str:
        """Store the content of a file.

        :param filepath: the path of the file.
        :return: the key of the object.
        :raises OSError: if the file cannot be read.
        """
        with open(filepath, mode="rb") as handle:
            return self.put_object_from_filelike(handle)

    @abstractmethod
    def has_objects(self, keys: list[str]) -> list[bool]:
        """Return for each key whether the object exists, in the order of the keys."""

    def has_object(self, key: str) -> bool:
        """Return whether an object exists."""
        return self.has_objects([key])[0]

    @abstractmethod
    def list_objects(self) -> Iterable[str]:
        """Return an iterable over the keys of all objects."""

    @abstractmethod
    def get_info(self, detailed: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the repository.

        :param detailed: whether to include the figures that take longer to collect.
        """

    @abstractmethod
    def maintain(self, dry_run: bool = False, live: bool = True, **kwargs: Any) -> object:
        """Run the maintenance of the repository.

        :param dry_run: whether to only report what would be done.
        :param live: whether other processes may be using the repository; operations that are unsafe then are not run.
        """

    @with_only("repo.open(key) as file")
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object for reading.

        :param key: the key of the object.
        :return: a context manager for a byte stream.
        :raises FileNotFoundError: if the object does not exist.
        :raises OSError: if the object cannot be opened.
        """
        if not self.has_object(key):
            raise FileNotFoundError(f"object with key `{key}` does not exist.")
        for _, handle in self.iter_object_streams([key]):
            yield handle
            return

    def get_object_content(self, key: str) -> bytes:
        """Return the content of an object.

        :param key: the key of the object.
        :raises FileNotFoundError: if the object does not exist.
        :raises OSError: if the object cannot be read.
        """
        with self.open(key) as handle:
            return handle.read()

    @abstractmethod
    def iter_object_streams(self, keys: list[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Iterate over objects; each stream is closed when the iterator advances.

        :param keys: the keys of the objects.
        :return: an iterator over pairs of a key and a byte stream.
        :raises FileNotFoundError: if an object does not exist.
        :raises OSError: if an object cannot be opened.
        """

    def get_object_hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits, for every key format.

        :param key: the key of the object.
        :raises FileNotFoundError: if the object does not exist.
        :raises OSError: if the object cannot be read.
        """
        hasher = hashlib.sha256()
        with self.open(key) as handle:
            while chunk := handle.read(_HASH_BYTES):
                hasher.update(chunk)
        return hasher.hexdigest()

    @abstractmethod
    def delete_objects(self, keys: list[str]) -> None:
        """Delete objects. This implementation only checks that all of them exist: subclasses call it first.

        :param keys: the keys of the objects.
        :raises FileNotFoundError: if objects do not exist; it names all of them, and nothing is deleted.
        """
        missing = [key for key, found in zip(keys, self.has_objects(keys), strict=True) if not found]
        if missing:
            raise FileNotFoundError(f"objects do not exist in the repository: {', '.join(map(str, missing))}")

    def delete_object(self, key: str) -> None:
        """Delete an object.

        :param key: the key of the object.
        :raises FileNotFoundError: if the object does not exist.
        """
        self.delete_objects([key])
