"""The interface, as AiiDA documents ``aiida.repository.backend.abstract``: names, signatures, defaults and errors."""

from __future__ import annotations

import hashlib
import io
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

__all__ = ("AbstractRepositoryBackend",)

_HASH_BYTES: Final = 512 * 1024


class AbstractRepositoryBackend(metaclass=ABCMeta):
    """Stores byte blobs, and returns for each a key that reads, checks and deletes it.

    Third parties subclass it exactly as they subclass AiiDA's: what is abstract must be written, the rest is made of
    that. :class:`~objrepo.sync.SyncRepository` is such a subclass, around any :class:`~objrepo.AsyncRepository`.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type[Self]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class, which AiiDA's abstract class accepts from then on, if AiiDA has been imported.

        ``isinstance`` reads this attribute before it asks an abstract class. So AiiDA may be imported before this
        module or after it, and this module need not import AiiDA, which takes a second.
        """
        aiida = sys.modules.get("aiida.repository.backend.abstract")
        if aiida is not None and hasattr(aiida, "AbstractRepositoryBackend"):
            aiida.AbstractRepositoryBackend.register(AbstractRepositoryBackend)
        return type(self)

    @property
    @abstractmethod
    def uuid(self) -> str | None:
        """The unique identifier of the repository, None where it has none."""

    @property
    @abstractmethod
    def key_format(self) -> str | None:
        """What the keys look like, such as ``'sha256'``. Objects keep their keys only between equal formats."""

    @abstractmethod
    def initialise(self, **kwargs: Any) -> None:
        """Make the repository, if that has not been done yet.

        :param kwargs: the backend's own options.
        """

    @property
    @abstractmethod
    def is_initialised(self) -> bool:
        """Whether the repository exists."""

    @abstractmethod
    def erase(self) -> None:
        """Delete the repository with every resource that it made, such as its folder."""

    @staticmethod
    def is_readable_byte_stream(handle: Any) -> bool:
        """Say whether something has a ``read``, and a ``mode`` with ``b`` in it."""
        return hasattr(handle, "read") and hasattr(handle, "mode") and "b" in handle.mode

    def put_object_from_filelike(self, handle: BinaryIO) -> str:
        """Store what a file gives from its current position on.

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

        :param filepath: the file's path.
        :return: the key of the object.
        :raises OSError: if the file cannot be read.
        """
        with open(filepath, mode="rb") as handle:
            return self.put_object_from_filelike(handle)

    @abstractmethod
    def has_objects(self, keys: list[str]) -> list[bool]:
        """Say of each key whether its object is there, in the order of the keys."""

    def has_object(self, key: str) -> bool:
        """Say whether an object is there."""
        return self.has_objects([key])[0]

    @abstractmethod
    def list_objects(self) -> Iterable[str]:
        """Return an iterable over the keys of all objects."""

    @abstractmethod
    def get_info(self, detailed: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the repository.

        :param detailed: whether to gather what takes longer too.
        """

    @abstractmethod
    def maintain(self, dry_run: bool = False, live: bool = True, **kwargs: Any) -> None:
        """Do the work that keeps a repository fast and small.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only what is safe is done.
        """

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object for reading.

        :param key: the object.
        :return: a context manager for a byte stream.
        :raises FileNotFoundError: if there is no such object.
        :raises OSError: if it cannot be opened.
        """
        if not self.has_object(key):
            raise FileNotFoundError(f"object with key `{key}` does not exist.")
        for _, handle in self.iter_object_streams([key]):
            yield handle
            return

    def get_object_content(self, key: str) -> bytes:
        """Return the whole content of an object.

        :raises FileNotFoundError: if there is no such object.
        :raises OSError: if it cannot be read.
        """
        with self.open(key) as handle:
            return handle.read()

    @abstractmethod
    def iter_object_streams(self, keys: list[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Iterate over objects; a stream is to be read before the next step.

        :param keys: the objects.
        :return: an iterator over keys and byte streams.
        :raises FileNotFoundError: if one is not there.
        :raises OSError: if one cannot be opened.
        """

    def get_object_hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits, whatever the key format.

        :raises FileNotFoundError: if there is no such object.
        :raises OSError: if it cannot be read.
        """
        hasher = hashlib.sha256()
        with self.open(key) as handle:
            while chunk := handle.read(_HASH_BYTES):
                hasher.update(chunk)
        return hasher.hexdigest()

    @abstractmethod
    def delete_objects(self, keys: list[str]) -> None:
        """Delete objects. What stands here only checks, for subclasses to call first, that they are all there.

        :raises FileNotFoundError: naming every missing key; then nothing was deleted.
        """
        missing = [key for key, found in zip(keys, self.has_objects(keys), strict=True) if not found]
        if missing:
            raise FileNotFoundError(f"objects do not exist in the repository: {', '.join(map(str, missing))}")

    def delete_object(self, key: str) -> None:
        """Delete an object.

        :raises FileNotFoundError: if there is no such object.
        """
        self.delete_objects([key])
