"""`BatchBackend`: the backend of a batch, whose objects are stored together."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from objrepo.backend import Backend
from objrepo.errors import RepositoryClosedError
from objrepo.offload import BlockingPool
from objrepo.protocol import BinaryReader, Source
from objrepo.reports import DamagedObject, Leftover, MaintenanceReport, RepositoryInfo
from objrepo.sources import ChainedReader, read_up_to
from objrepo.streams import BATCH_BYTES, MAX_BATCHED_OBJECT_BYTES, OpenedObject, open_range

__all__ = ("BatchBackend",)

_MAX_PENDING: Final = 1024


class BatchBackend(Backend):
    """Another backend, and objects that are put but not committed: only this backend has these.

    Small objects are gathered in memory, and stored by the ``put_batch`` of the other backend when they are about 4 MiB
    or 1,024, and at the end. A subclass may store them in another way: see :meth:`store`. Large objects are stored at
    once. Everything else is forwarded.

    :param backend: the other backend. Its keys are hashes.
    """

    batches_puts = True

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._hash_type = backend.key_format()
        self.pool: BlockingPool | None = backend.pool
        self._lock = threading.RLock()
        self._storing = threading.Lock()
        self._pending: dict[str, bytes] = {}
        self._pending_bytes = 0
        self._ended = False

    @property
    def location(self) -> str:
        return self._backend.location

    # -- the batch ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make every object durable and visible to all."""
        with self._lock:
            self._ended = True
        self._store_pending()

    def close(self) -> None:
        """Forget what is not committed. The other backend stays as it is."""
        with self._lock:
            self._ended = True
            self._pending.clear()

    def store(self, objects: dict[str, bytes]) -> None:
        """Store gathered objects; one thread at a time calls it."""
        for outcome in self._backend.put_batch([memoryview(content) for content in objects.values()]):
            if isinstance(outcome, BaseException):
                raise outcome

    def is_uncommitted(self, key: str) -> bool:
        """Return whether an object is in the batch only."""
        return key in self._pending

    def uncommitted(self, key: str) -> bytes | None:
        """Return the content of an object that is not committed; None if it is none of these."""
        return self._pending.get(key)

    def uncommitted_keys(self) -> set[str]:
        """Return the keys of the objects that are not committed."""
        with self._lock:
            return set(self._pending)

    def forget(self, key: str) -> None:
        """Drop an object that is not committed, if it is one."""
        self._pending.pop(key, None)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, reader: BinaryReader) -> str:
        key = self._gather(reader)
        self._store_if_full()
        return key

    def put_batch(self, sources: Sequence[Source]) -> list[Any]:
        outcomes: list[Any] = []
        try_to_gather = partial(self._try_to_put, put=self._gather)
        for outcome in map(try_to_gather, sources) if self.pool is None else self.pool.map(try_to_gather, sources):
            outcomes.append(outcome)
            self._store_if_full()
        return outcomes

    def _gather(self, reader: BinaryReader) -> str:
        content = read_up_to(reader, MAX_BATCHED_OBJECT_BYTES + 1)
        if len(content) > MAX_BATCHED_OBJECT_BYTES:
            return self._backend.put(ChainedReader(content, reader))
        key = hashlib.new(self._hash_type, content).hexdigest()
        with self._lock:
            if self._ended:
                raise RepositoryClosedError(
                    f"the batch of {self.location} has ended: put objects inside `with repo.batch()`"
                )
            if key not in self._pending:
                self._pending[key] = content
                self._pending_bytes += len(content)
        return key

    def _store_if_full(self) -> None:
        if self._pending_bytes >= BATCH_BYTES or len(self._pending) >= _MAX_PENDING:
            self._store_pending()

    def _store_pending(self) -> None:
        with self._storing:
            with self._lock:
                objects = dict(self._pending)
                self._pending_bytes = 0
            if objects:
                self.store(objects)
            # Only now, so that another thread finds each object either here or where it is stored.
            with self._lock:
                for key in objects:
                    self._pending.pop(key, None)

    def delete(self, keys: Sequence[str]) -> None:
        self.require(keys)
        with self._storing:  # an object that another thread is storing would be there afterwards
            committed = [key for key, found in zip(keys, self._backend.has(keys), strict=True) if found]
            if committed:
                self._backend.delete(committed)
            for key in keys:
                self.forget(key)

    # -- reading ------------------------------------------------------------------------------------------------------

    def has(self, keys: Sequence[object]) -> list[bool]:
        found = [isinstance(key, str) and self.is_uncommitted(key) for key in keys]
        if all(found):
            return found
        return [mine or other for mine, other in zip(found, self._backend.has(keys), strict=True)]

    def get(self, key: str) -> bytes:
        content = self.uncommitted(key)
        return self._backend.get(key) if content is None else content

    def get_batch(self, keys: Sequence[str]) -> list[Any]:
        own = {key: content for key in keys if (content := self.uncommitted(key)) is not None}
        rest = [key for key in keys if key not in own]
        outcomes = iter(self._backend.get_batch(rest) if rest else ())
        return [own[key] if key in own else next(outcomes) for key in keys]

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        content = self.uncommitted(key)
        if content is None:
            return self._backend.open(key, offset, length)
        return open_range(key, io.BytesIO(content), len(content), offset, length)

    def plan(self, keys: Sequence[str]) -> tuple[Sequence[Any], Callable[[Sequence[Any]], list[OpenedObject]]]:
        return super().plan(keys) if any(map(self.is_uncommitted, keys)) else self._backend.plan(keys)

    def list_keys(self, cursor: tuple[set[str], Any] | None) -> tuple[list[str], tuple[set[str], Any] | None]:
        own, rest = cursor or (self.uncommitted_keys(), None)
        page, rest = self._backend.list_keys(rest)
        page = [key for key in page if key not in own]
        if cursor is None:
            page = [*own, *page]
        return page, None if rest is None else (own, rest)

    # -- the repository as a whole ------------------------------------------------------------------------------------

    def initialise(self, **options: Any) -> None:
        self._backend.initialise(**options)

    def is_initialised(self) -> bool:
        return self._backend.is_initialised()

    def uuid(self) -> str | None:
        return self._backend.uuid()

    def key_format(self) -> str:
        return self._backend.key_format()

    def info(self, detailed: bool) -> RepositoryInfo:
        return self._backend.info(detailed)

    def maintain(self, *, dry_run: bool, live: bool, **options: Any) -> MaintenanceReport:
        return self._backend.maintain(dry_run=dry_run, live=live, **options)

    def verify_rest(self) -> tuple[DamagedObject, ...]:
        return self._backend.verify_rest()

    def leftovers(self) -> tuple[Leftover, ...]:
        return self._backend.leftovers()

    def erase(self) -> None:
        self._backend.erase()
