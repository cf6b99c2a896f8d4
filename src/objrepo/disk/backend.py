"""`DiskBackend`: the blocking operations on a container of disk-objectstore."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from objrepo.backend import LIST_PAGE_SIZE, Backend
from objrepo.disk import create
from objrepo.disk.batch import DiskBatch
from objrepo.disk.bulk_reader import FileSignatures, Item, open_items, plan, read_each
from objrepo.disk.group_commit import put_group
from objrepo.disk.layout import Layout
from objrepo.disk.listing import Cursor, keys_with_prefix, list_keys
from objrepo.disk.locks import maintenance_lock
from objrepo.disk.loose import remove_loose, write_loose
from objrepo.disk.reader import find_size, has_object, has_objects, open_object, read_at_once, read_object
from objrepo.disk.session import ContainerSession, SessionPool
from objrepo.disk.stats import DiskInfo, ObjectLocation, info_of, location_of, version_of
from objrepo.disk.verify import check_objects, find_leftovers
from objrepo.errors import NotInitialisedError, ObjectNotFoundError, RepositoryError
from objrepo.keys import valid_keys
from objrepo.offload import UNBATCHED, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader, Source
from objrepo.reports import Leftover, MaintenanceReport, ProgressCallback, VerifyReport
from objrepo.sources import ChainedReader, open_source, read_source, read_up_to
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES, MAX_BATCHED_OBJECT_BYTES, OpenedObject

T = TypeVar("T")

_DELETE_PATIENCE: Final = 30.0
"""How many seconds a deletion waits for a packer, which would otherwise pack an object that was deleted meanwhile."""

_UNFLUSHED_FILES: Final = 16
"""Up to how many objects are faster written to files that are not flushed than to a pack that is."""


class DiskBackend(Backend):
    """See :class:`~objrepo.DiskRepository`.

    :param path: the container's folder.
    :param durable: whether objects in files of their own are flushed.
    :ivar sessions: the connections and files that are kept open between calls.
    """

    batches_puts = True

    def __init__(self, path: str | os.PathLike[str], durable: bool | None = True) -> None:
        self._layout = Layout(Path(path).absolute())
        self.durable = durable
        self.sessions: SessionPool = SessionPool(self._layout)

    def __reduce__(self) -> tuple[type[DiskBackend], tuple[Path, bool | None]]:
        return type(self), (self.path, self.durable)

    @property
    def path(self) -> Path:
        """The container's folder."""
        return self._layout.folder

    @property
    def location(self) -> str:
        return str(self.path)

    # -- the repository as a whole ------------------------------------------------------------------------------

    def initialise(self, *, clear: bool = False, **options: Any) -> None:
        if clear:
            self.sessions.close()
        create.initialise(self._layout, clear=clear, **options)

    def is_initialised(self) -> bool:
        return self._layout.is_initialised()

    def uuid(self) -> str | None:
        with suppress(NotInitialisedError), self.sessions.check_out() as session:
            return session.config.container_id
        return None

    def key_format(self) -> str:
        with self.sessions.check_out() as session:
            return session.config.hash_type

    def info(self, detailed: bool) -> DiskInfo:
        with self.sessions.check_out() as session:
            return info_of(session, detailed)

    def maintain(
        self,
        *,
        dry_run: bool,
        live: bool,
        timeout: float = 0,
        progress: ProgressCallback | None = None,
        **steps: Any,
    ) -> MaintenanceReport:
        """Pack, repack, clean and vacuum the container; see :meth:`DiskRepository.maintain`."""
        from objrepo.disk.maintenance import Plan, estimate, run  # imports SQLAlchemy

        plan = Plan(live, **steps)
        with self.sessions.check_out() as session:
            if dry_run:
                return MaintenanceReport(True, estimate(session, plan))
            with maintenance_lock(session.layout, timeout):
                return MaintenanceReport(False, run(session, plan, progress))

    def verify_batch(self, keys: Sequence[str], quick: bool) -> VerifyReport:
        with self.sessions.check_out() as session:
            return check_objects(session, keys, quick)

    def leftovers(self) -> tuple[Leftover, ...]:
        with self.sessions.check_out() as session:
            return find_leftovers(session)

    def erase(self) -> None:
        self.sessions.close()
        create.erase(self._layout)

    def close(self) -> None:
        self.sessions.close()

    # -- writing ------------------------------------------------------------------------------------------------

    def put(self, reader: BinaryReader) -> str:
        with self.sessions.check_out() as session:
            return write_loose(session, reader, bool(self.durable))

    def put_batch(self, sources: Sequence[Source]) -> list[Any]:
        outcomes: list[Any] = []
        small: dict[int, bytes | memoryview] = {}
        size = 0
        for number, source in enumerate(sources):
            content = self._small_content(source)
            outcomes.append(content)
            if isinstance(content, bytes | memoryview):
                small[number] = content
                size += len(content)
                if size >= BATCH_BYTES:
                    self._put_small(small, outcomes)
                    small, size = {}, 0
        self._put_small(small, outcomes)
        return outcomes

    def batch(self) -> DiskBatch:
        return DiskBatch(self, self.sessions)

    def _small_content(self, source: Source) -> Any:
        """Return the content of a small source, or the outcome of one that is large or cannot be read."""
        if isinstance(source, memoryview):
            if source.nbytes > MAX_BATCHED_OBJECT_BYTES:
                return UNBATCHED
            return source if source.contiguous and source.format == "B" and source.ndim == 1 else source.tobytes()
        if cancel_requested():
            raise WorkCancelled
        try:
            return _small_file(source) if isinstance(source, os.PathLike) else self._read_small(source)
        except WorkCancelled:
            raise
        except Exception as error:  # noqa: BLE001  (it is the outcome of this source)
            return error

    def _read_small(self, source: Source) -> bytes | str:
        """Return the content of a small source, or the key of a large one that had to be read."""
        with open_source(source) as reader:
            head = read_up_to(reader, MAX_BATCHED_OBJECT_BYTES + 1)
            return head if len(head) <= MAX_BATCHED_OBJECT_BYTES else self.put(ChainedReader(head, reader))

    def _put_small(self, contents: dict[int, Any], outcomes: list[Any]) -> None:
        """Store small objects, and write their keys into the outcomes."""
        if len(contents) <= (1 if self.durable else _UNFLUSHED_FILES):
            for number, content in contents.items():  # in files of their own, as AiiDA does
                try:
                    outcomes[number] = read_source(memoryview(content), self.put)
                except (RepositoryError, OSError) as error:
                    outcomes[number] = error
        elif contents:
            with self.sessions.check_out() as session:
                keys = put_group(session, list(contents.values()))
            for number, key in zip(contents, keys, strict=True):
                outcomes[number] = key

    def delete(self, keys: Sequence[str]) -> None:
        with self.sessions.check_out() as session, maintenance_lock(session.layout, _DELETE_PATIENCE):
            found = has_objects(session, keys)
            if missing := [key for key in keys if key not in found]:
                raise ObjectNotFoundError(missing, self)
            # Loose ones first: after a failure no object is back in the state before it was packed.
            remove_loose(session, keys, bool(self.durable))
            session.index.remove(keys)

    # -- reading ------------------------------------------------------------------------------------------------

    def has(self, keys: Sequence[object]) -> list[bool]:
        if len(keys) == 1:
            return [self._has_one(keys[0])]
        with self.sessions.check_out() as session:
            found = has_objects(session, valid_keys(keys, session.config.hash_type))
        return [isinstance(key, str) and key in found for key in keys]

    def _has_one(self, key: object) -> bool:
        if isinstance(key, str) and self.size_nowait(key) is not None:
            return True
        with self.sessions.check_out() as session:
            return isinstance(key, str) and bool(session.matches(key)) and has_object(session, key)

    def get_nowait(self, key: str, offset: int = 0, length: int | None = None) -> bytes | None:
        return self.sessions.row_cache.read(key, offset, length, wait=False)

    def size_nowait(self, key: str) -> int | None:
        return self.sessions.row_cache.size(key)

    def get(self, key: str) -> bytes:
        if (known := self.sessions.row_cache.read(key, wait=True)) is not None:
            return known
        content = self._read_at_once(key)
        return self._found(key, read_object) if content is None else content

    def _read_at_once(self, key: str, max_size: int = sys.maxsize) -> bytes | None:
        with self.sessions.check_out(checked=False) as session:
            return read_at_once(session, key, max_size) if session.has_index and session.matches(key) else None

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        if len(keys) == 1 and (content := self._read_at_once(keys[0], CHUNK_BYTES)) is not None:
            return [content]
        with self.sessions.check_out() as session:
            well_formed = list(dict.fromkeys(valid_keys(keys, session.config.hash_type)))
            outcomes = read_each(session, well_formed, self) if well_formed else {}
        return [outcomes[key] if key in outcomes else ObjectNotFoundError([key], self) for key in keys]

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        if (content := self.sessions.row_cache.read(key, offset, length, wait=True)) is not None:
            return OpenedObject(key, len(content), content, None)
        return self._found(key, lambda session, key: open_object(session, key, offset, length))

    def size(self, key: str) -> int:
        known = self.size_nowait(key)
        return known if known is not None else self._found(key, find_size)

    def version(self, key: str) -> tuple[int, ...] | None:
        with self.sessions.check_out() as session:
            return version_of(session, key) if session.matches(key) else None

    def locate(self, key: str) -> ObjectLocation:
        """Return where an object is.

        :raises ObjectNotFoundError: if the object does not exist.
        """
        return self._found(key, location_of)

    def _found(self, key: str, look: Callable[[ContainerSession, str], T | None]) -> T:
        with self.sessions.check_out() as session:
            found = look(session, key) if session.matches(key) else None
        if found is None:
            raise ObjectNotFoundError([key], self)
        return found

    def plan(self, keys: Sequence[str]) -> tuple[Sequence[Item], Callable[[Sequence[Item]], list[OpenedObject]]]:
        with self.sessions.check_out() as session:
            if len(valid_keys(keys, session.config.hash_type)) < len(keys):
                self.require(keys)
            items, signatures = plan(session, keys, self)
        return items, partial(self._open_items, signatures)

    def _open_items(self, signatures: FileSignatures, items: Sequence[Item]) -> list[OpenedObject]:
        with self.sessions.check_out() as session:
            return open_items(session, signatures, items, self)

    def list_keys(self, cursor: Cursor | None) -> tuple[list[str], Cursor | None]:
        with self.sessions.check_out() as session:
            return list_keys(session, cursor, LIST_PAGE_SIZE)

    def keys_with_prefix(self, prefix: str) -> list[str]:
        """Return the keys that begin with some digits; see :meth:`DiskRepository.keys_with_prefix`."""
        if len(prefix) < 2 or set(prefix) - set("0123456789abcdef"):
            raise ValueError(f"invalid prefix {prefix!r}: use at least two hexadecimal digits")
        with self.sessions.check_out() as session:
            return keys_with_prefix(session, prefix)


def _small_file(path: os.PathLike[str]) -> bytes | Any:
    """Return the content of a file, or ``UNBATCHED`` if it may be large, may block or cannot be read."""
    try:
        status = Path(path).stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BATCHED_OBJECT_BYTES:
            with open(path, "rb", buffering=0) as file:
                content = file.read(MAX_BATCHED_OBJECT_BYTES + 1)
            if len(content) <= MAX_BATCHED_OBJECT_BYTES:
                return content
    except (OSError, ValueError):
        pass  # a call of its own raises the error
    return UNBATCHED
