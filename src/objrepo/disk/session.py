"""Leases: what a call needs of a container, kept warm between calls and used by one thread at a time."""

from __future__ import annotations

import os
from collections import deque
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Final

from objrepo.disk.index import Index
from objrepo.disk.layout import Layout
from objrepo.disk.pack_files import Packs
from objrepo.errors import RepositoryError
from objrepo.keys import key_pattern

if TYPE_CHECKING:
    from disk_objectstore import Container

__all__ = ("ContainerSession", "Pool")

_IDLE_AT_MOST: Final = 32

_inherited: list[ContainerSession] = []
"""Leases of the parent process. SQLite forbids even to close a connection in another process than its own."""


class ContainerSession:
    """One container's configuration, index, packs and :class:`disk_objectstore.Container`, for one thread at a time.

    It is a context manager, which gives it back to its pool with its transaction ended.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.layout = pool.layout
        self.identity = pool.layout.identity()
        self.config = pool.layout.config()
        self.matches = key_pattern(self.config.hash_type)
        self.process = os.getpid()
        self.flushed_folders: set[str] = set()
        """Folders of loose objects that are known to survive a power failure. Nobody ever removes one."""

    @cached_property
    def index(self) -> Index:
        """A connection to the index, without a transaction between two calls."""
        return Index(self.layout)

    @cached_property
    def packs(self) -> Packs:
        """The pack files that are open."""
        return Packs(self.layout)

    @cached_property
    def container(self) -> Container:
        """The container; after a call that opened its session, close it, or it pins what the next one sees."""
        from objrepo.disk.container import PatchedContainer

        return PatchedContainer(self.layout.folder)

    @property
    def lasting(self) -> bool:
        """Whether the lease may serve another call."""
        return "index" not in self.__dict__ or self.index.lasting

    def end_transaction(self) -> None:
        """Close the container's session, if the call opened one."""
        if "container" in self.__dict__:
            self.container.close()

    def close(self) -> None:
        """Close every connection and file."""
        self.end_transaction()
        if "index" in self.__dict__:
            self.index.close()
        if "packs" in self.__dict__:
            self.packs.close()

    def __enter__(self) -> ContainerSession:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if exc_type is None or issubclass(exc_type, RepositoryError | OSError):
            self._pool.give_back(self)
        else:
            self.close()  # who knows in what state it is


class Pool:
    """The idle leases of a repository. It takes no lock, so that a fork at any time leaves it usable."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._idle: deque[ContainerSession] = deque()

    @property
    def idle(self) -> int:
        """How many leases are kept warm."""
        return len(self._idle)

    def lease(self, checked: bool = True) -> ContainerSession:
        """Lend a lease to a call, which is to leave it as a context manager.

        :param checked: whether to find out whether the lease is still one of the container that is there.
        :raises NotInitialisedError: if there is no container.
        """
        while True:
            try:
                lease = self._idle.pop()
            except IndexError:
                return ContainerSession(self)
            try:
                if (not checked or lease.identity == self.layout.identity()) and lease.process == os.getpid():
                    return lease
            except RepositoryError:
                self._dispose(lease)
                raise
            self._dispose(lease)

    def give_back(self, lease: ContainerSession) -> None:
        """Take a lease back, with its transaction ended."""
        if "container" in lease.__dict__:
            lease.end_transaction()
        if lease.lasting and len(self._idle) < _IDLE_AT_MOST:
            if "packs" in lease.__dict__:
                lease.packs.trim()
            self._idle.append(lease)
        else:
            lease.close()

    def close(self) -> None:
        """Close the idle leases. Those that are lent are kept, when they come back, until the next time."""
        while self._idle:
            self._dispose(self._idle.pop())

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _dispose(lease: ContainerSession) -> None:
        if lease.process == os.getpid():
            lease.close()
        else:
            _inherited.append(lease)
