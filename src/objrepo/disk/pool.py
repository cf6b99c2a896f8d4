"""Leases: what a call needs of a container, kept warm between calls and used by one thread at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Final

from objrepo.disk.layout import Index, Layout
from objrepo.errors import RepositoryError

if TYPE_CHECKING:
    from disk_objectstore import Container

__all__ = ("Lease", "Pool")

_IDLE_AT_MOST: Final = 32

_inherited: list[Lease] = []
"""Leases of the parent process. SQLite forbids even to close a connection in another process than its own."""


class Lease:
    """One container's configuration, index and :class:`disk_objectstore.Container`, for one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.identity = layout.identity()
        self.config = layout.config()
        self.process = os.getpid()

    @cached_property
    def index(self) -> Index:
        """A connection to the index, without a transaction between two calls."""
        return Index(self.layout)

    @cached_property
    def container(self) -> Container:
        """The container; after a call that opened its session, close it, or it pins what the next one sees."""
        from objrepo.disk.container import SafeContainer

        return SafeContainer(self.layout.folder)

    @property
    def lasting(self) -> bool:
        """Whether the lease may serve another call."""
        return "index" not in self.__dict__ or self.index.lasting

    def end_transaction(self) -> None:
        """Close the container's session, if the call opened one."""
        if "container" in self.__dict__:
            self.container.close()

    def close(self) -> None:
        """Close every connection."""
        self.end_transaction()
        if "index" in self.__dict__:
            self.index.close()


class Pool:
    """The idle leases of a repository. It takes no lock, so that a fork at any time leaves it usable."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._idle: deque[Lease] = deque()

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Lend a lease to a call, and take it back with its transaction ended.

        :raises NotInitialisedError: if there is no container.
        """
        lease = self._take()
        try:
            yield lease
        except (RepositoryError, OSError):
            self._give_back(lease)
            raise
        except BaseException:
            lease.close()  # who knows in what state it is
            raise
        self._give_back(lease)

    def close(self) -> None:
        """Close the idle leases. Those that are lent are kept, when they come back, until the next time."""
        while self._idle:
            self._dispose(self._idle.pop())

    def __del__(self) -> None:
        self.close()

    def _take(self) -> Lease:
        while True:
            try:
                lease = self._idle.pop()
            except IndexError:
                return Lease(self.layout)
            if lease.process == os.getpid() and lease.identity == self._identity(lease):
                return lease
            self._dispose(lease)

    def _identity(self, lease: Lease) -> tuple[int, int]:
        try:
            return self.layout.identity()
        except RepositoryError:
            self._dispose(lease)
            raise

    def _give_back(self, lease: Lease) -> None:
        lease.end_transaction()
        if lease.lasting and len(self._idle) < _IDLE_AT_MOST:
            self._idle.append(lease)
        else:
            lease.close()

    @staticmethod
    def _dispose(lease: Lease) -> None:
        if lease.process == os.getpid():
            lease.close()
        else:
            _inherited.append(lease)
