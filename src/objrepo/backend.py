"""What a backend is: a plain object with blocking methods, around which `Repository` is the async protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.integrity import combined, digest, verify
from objrepo.keys import is_key, valid_keys
from objrepo.offload import UNBATCHED, BlockingPool, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader, Source
from objrepo.reports import DamagedObject, Leftover, MaintenanceReport, RepositoryInfo, VerifyReport
from objrepo.sources import read_source
from objrepo.streams import OpenedObject, fill_batch, open_range

if TYPE_CHECKING:
    from objrepo.batch import BatchBackend

__all__ = ("LIST_PAGE_SIZE", "Backend", "FileBackend", "paginate")

LIST_PAGE_SIZE: Final = 1000
"""About how many keys one call of :meth:`Backend.list_keys` returns."""

_OPENED_AT_ONCE: Final = 64
"""How many objects a pool opens for one batch, each of which may bring 256 KiB."""


class Backend(ABC):
    """The blocking operations of a repository.

    Several threads call the methods at the same time, and a caller may have been cancelled before a method returns:
    what a method acquires (a lock, a file, a connection) it releases itself, except files that it returns. A long
    method asks :func:`~objrepo.offload.cancel_requested` regularly and raises
    :class:`~objrepo.offload.WorkCancelled` where it can stop with nothing half-done. A method awaits nothing, and locks
    with ``threading`` or ``filelock`` only.

    Methods check the keys that they are given, except where it says that keys are well-formed: a malformed key is the
    key of a missing object. Repositories are pickled by pickling their backend: a backend that holds locks or
    connections defines ``__reduce__``.

    :ivar batches_puts: whether small objects that are put at the same moment are better stored together.
    :ivar pool: runs several requests of one call at the same time; None for a backend that is better asked for one
        object after the other, in batches, such as a disk.
    :ivar durable: whether :meth:`put` flushes what it writes, which a cache sets to False; None for a backend that
        cannot choose.
    """

    batches_puts: bool = False
    durable: bool | None = None
    pool: BlockingPool | None = None

    @property
    def location(self) -> str:
        """Where the objects are, for people to read: a path or URL."""
        return f"{id(self):#x}"

    def __str__(self) -> str:
        return self.location

    # -- to be written for each backend -----------------------------------------------------------------------------

    @abstractmethod
    def initialise(self, **options: Any) -> None:
        """Create the repository, or do nothing if it exists.

        :param options: the backend's own. Unknown ones are a :class:`TypeError`.
        :raises ValueError: if an option is invalid or contradicts the existing repository.
        """

    @abstractmethod
    def is_initialised(self) -> bool:
        """Return whether the repository exists."""

    @abstractmethod
    def key_format(self) -> str:
        """Return ``'sha256'``, ``'sha1'`` or ``'uuid4'``.

        :raises NotInitialisedError: if the repository does not exist.
        """

    @abstractmethod
    def put(self, reader: BinaryReader) -> str:
        """Store the bytes of a reader, and return the key. If reading raises, store nothing and raise the same."""

    @abstractmethod
    def has(self, keys: Sequence[object]) -> list[bool]:
        """Return for each key whether its object exists. Values of any type may be among the keys."""

    @abstractmethod
    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        """Open a range of an object, such as by :func:`~objrepo.streams.open_range`.

        :raises ObjectNotFoundError: if the object does not exist.
        """

    @abstractmethod
    def list_keys(self, cursor: Any) -> tuple[list[str], Any]:
        """Return some keys, and the cursor for the next call: None in the first call, and None after the last keys."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, whose keys are well-formed; if one is missing, delete nothing.

        :raises ObjectNotFoundError: naming every missing key.
        """

    @abstractmethod
    def info(self, detailed: bool) -> RepositoryInfo:
        """Return the state of the repository, with sizes if it is to be detailed."""

    @abstractmethod
    def erase(self) -> None:
        """Delete the repository and every resource that it created. It need not exist."""

    # -- with defaults, which a backend may replace by faster ones --------------------------------------------------

    def uuid(self) -> str | None:
        """Return the unique identifier of the repository, None if it has none or does not exist."""
        return None

    def close(self) -> None:
        """Release what is kept between two calls. Calls after this acquire it anew."""
        if self.pool is not None:
            self.pool.close()

    def put_batch(self, sources: Sequence[Source]) -> list[Any]:
        """Store objects.

        :param sources: memory, paths, files and iterables of bytes.
        :return: for each source its key, the exception that it ended in, or ``UNBATCHED`` for one that was not read, as
            it would delay the others; it then gets a call of its own.
        """
        if self.pool is not None:
            return list(self.pool.map(self._try_to_put, sources))
        return [self._try_to_put(source) for source in sources]

    def batch(self) -> BatchBackend | None:
        """Return a backend for the objects of a batch; None if it is as good to put them one by one."""
        return None

    def _try_to_put(self, source: Source, put: Callable[[BinaryReader], str] | None = None) -> str | Exception:
        if cancel_requested():
            raise WorkCancelled
        try:
            return read_source(source, put or self.put)
        except WorkCancelled:
            raise
        except Exception as error:  # noqa: BLE001  (it is the outcome of this source)
            return error

    def get(self, key: str) -> bytes:
        """Return the whole content of an object.

        :raises ObjectNotFoundError: if the object does not exist.
        :raises CorruptObjectError: if its stored bytes are damaged.
        """
        with closing(self.open(key)) as opened:
            if opened.handle is None:
                return opened.head
            start = len(opened.head)
            return opened.head + opened.handle.read_at(start, opened.size - start)

    def get_nowait(self, key: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a small range of an object if that takes some microseconds and waits for nothing; else None.

        Event loops call it on their own threads. What it returns is as current as what :meth:`get` would return. Only a
        backend whose keys are hashes may return bytes.
        """
        return None

    def size_nowait(self, key: str) -> int | None:
        """Return the length of an object in bytes on the same condition; else None."""
        return None

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        """Return for each object its content, the exception that it ended in, or ``UNBATCHED`` for a large one."""
        return [self._try_to_get(key) for key in keys]

    def _try_to_get(self, key: str) -> Any:
        try:
            with closing(self.open(key)) as opened:
                return opened.head if opened.handle is None else UNBATCHED
        except (RepositoryError, OSError) as error:
            return error

    def size(self, key: str) -> int:
        """Return the length of an object in bytes.

        :raises ObjectNotFoundError: if the object does not exist.
        """
        with closing(self.open(key)) as opened:
            return opened.size

    def hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits.

        :raises ObjectNotFoundError: if the object does not exist.
        """
        if self.key_format() == "sha256":
            self.require([key])
            return key
        return digest(self.open(key), "sha256")[0]

    def version(self, key: str) -> tuple[int, ...] | None:
        """Return numbers that change when the stored bytes of an object are replaced; None if they are not known."""
        return None

    def plan(self, keys: Sequence[str]) -> tuple[Sequence[Any], Callable[[Sequence[Any]], list[OpenedObject]]]:
        """Return the items of objects in the order in which reading them is fastest, and a method that opens items.

        The method opens some of the items that it is given, from the first on; see
        :func:`~objrepo.streams.fill_batch`.

        :raises ObjectNotFoundError: naming every key whose object does not exist.
        """
        self.require(keys)
        return keys, self._open_batch

    def _open_batch(self, keys: Sequence[str]) -> list[OpenedObject]:
        if self.pool is None:
            return fill_batch([self.open(key)] for key in keys)
        return fill_batch(iter([list(self.pool.map(self.open, keys[:_OPENED_AT_ONCE]))]))

    def maintain(self, *, dry_run: bool, live: bool) -> MaintenanceReport:
        """Do the work that keeps the repository fast and small; a backend may have options of its own.

        :param dry_run: whether to report only what would be done.
        :param live: whether others may be using the repository; then only safe work is done.
        """
        self.key_format()  # raises where there is no repository
        return MaintenanceReport(dry_run)

    def verify_batch(self, keys: Sequence[str], quick: bool) -> VerifyReport:
        """Read objects back, and compare them with their keys where these are hashes.

        :param quick: whether to check only that the bytes exist.
        """
        key_format = self.key_format()
        if self.pool is None:
            return verify(keys, key_format, self.open, quick)
        return combined(self.pool.map(lambda key: verify([key], key_format, self.open, quick), keys))

    def verify_rest(self) -> tuple[DamagedObject, ...]:
        """Read what the repository needs besides the bytes of objects, and return what is damaged, by its name."""
        return ()

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return what interrupted operations have left behind."""
        return ()

    def require(self, keys: Sequence[str]) -> None:
        """Raise an error if objects are missing.

        :raises ObjectNotFoundError: naming every missing key.
        """
        missing = [key for key, found in zip(keys, self.has(keys), strict=True) if not found]
        if missing:
            raise ObjectNotFoundError(missing, self)


class FileBackend(Backend):
    """A backend whose objects can be opened as files; :meth:`has_keys` and :meth:`open_file` get well-formed keys."""

    @abstractmethod
    def has_keys(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key, all different and well-formed, whether its object exists."""

    @abstractmethod
    def open_file(self, key: str) -> tuple[BinaryIO, int]:
        """Return a seekable binary file of an object, which the caller closes, and the object's size in bytes.

        :raises ObjectNotFoundError: if the object does not exist.
        """

    def has(self, keys: Sequence[object]) -> list[bool]:
        """Return for each key whether its object exists; see :meth:`Backend.has`."""
        well_formed = list(dict.fromkeys(valid_keys(keys, self.key_format())))
        present = {key for key, found in zip(well_formed, self.has_keys(well_formed), strict=True) if found}
        return [isinstance(key, str) and key in present for key in keys]

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        """Open a range of an object; see :meth:`Backend.open`."""
        if not is_key(key, self.key_format()):
            raise ObjectNotFoundError([key], self)
        file, size = self.open_file(key)
        return open_range(key, file, size, offset, length)


def paginate(keys: list[str], start: int = 0) -> tuple[list[str], tuple[list[str], int] | None]:
    """Return one page of keys that are in memory, and the cursor of the next: what ``list_keys`` returns."""
    end = start + LIST_PAGE_SIZE
    return keys[start:end], (keys, end) if end < len(keys) else None
