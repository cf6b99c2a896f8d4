"""Sessions: what a call needs of a container, kept open between calls and used by one thread at a time."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Final

from objrepo.disk.index import Index, RawRow
from objrepo.disk.layout import Config, Layout
from objrepo.disk.one_commit import orders_metadata
from objrepo.disk.pack_files import PackFiles
from objrepo.disk.row_cache import RowCache, Rows
from objrepo.disk.safe_open import signature
from objrepo.errors import RepositoryError
from objrepo.keys import key_pattern

if TYPE_CHECKING:
    from objrepo.disk.container import PatchedContainer

_MAX_IDLE: Final = 32

_inherited: list[ContainerSession] = []
"""Sessions of the parent process. SQLite forbids even to close a connection in another process than its own."""


class ContainerSession:
    """One container's configuration, index, packs and :class:`disk_objectstore.Container`, for one thread at a time.

    As a context manager it ends its transaction and is checked in to its pool on exit.
    """

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self.layout: Layout = pool.layout
        # Read before the configuration: if the container is replaced in between, the next check notices it.
        self._index_id = pool.layout.identity()
        self._config_signature = signature(pool.layout.config_file)
        self._index_is_pinned = False
        self.config: Config = pool.layout.config()
        self.matches: Callable[[str], re.Match[str] | None] = key_pattern(self.config.hash_type)
        self.process: int = os.getpid()
        self.rows: Rows = pool.row_cache.rows
        """Where the rows go that are read until the session is checked in."""
        self.flushed_folders: set[str] = set()
        """Folders of loose objects whose entries in the folder ``loose`` are durable. No program removes one."""
        self.has_unnamed_files = True
        """Whether the file system has files without a name, as far as this session knows."""

    @cached_property
    def orders_metadata(self) -> bool:
        """Whether the fsync of a loose file makes its name durable."""
        return orders_metadata(self.layout.loose)

    @cached_property
    def index(self) -> Index:
        """A connection to the index, without a transaction between two calls."""
        index = Index(self.layout)
        # From here on SQLite keeps the file open, so that no other file can get its inode number.
        self._index_is_pinned = self._config_signature == signature(self.layout.config_file)
        return index

    @property
    def has_index(self) -> bool:
        """Whether the index is open."""
        return "index" in self.__dict__

    @cached_property
    def packs(self) -> PackFiles:
        """The pack files that are open."""
        return PackFiles(self.layout)

    @cached_property
    def container(self) -> PatchedContainer:
        """The container; close it after a call that opened its SQL session, which pins what the next call sees."""
        from objrepo.disk.container import PatchedContainer

        return PatchedContainer(self.layout.folder)

    @property
    def reusable(self) -> bool:
        """Whether the session may serve another call."""
        return not self.has_index or self.index.reusable

    def is_current(self) -> bool:
        """Return whether the session belongs to this process and to the container that is at the path now.

        The inode number of an index that this session has not opened may be reused by the index of a container that
        replaced this one. In that case the configuration, which is written once, is compared too.

        :raises NotInitialisedError: if there is no container.
        """
        return (
            self._index_id == self.layout.identity()
            and (self._index_is_pinned or self._config_signature == signature(self.layout.config_file))
            and self.process == os.getpid()
        )

    def remember(self, row: RawRow, *, is_open: bool) -> None:
        """Have the next read of a packed object be one without a thread.

        :param is_open: whether the pack is open, and was validated for this row.
        """
        if self.index.reusable:
            pack = self.packs.opened(row[1]) if is_open else None
            self._pool.row_cache.add(self.rows, row, pack, self._index_id)

    def end_transaction(self) -> None:
        """Close the container's SQL session, if the call opened one."""
        if "container" in self.__dict__:
            self.container.close()

    def close(self) -> None:
        """Close every connection and file."""
        self.end_transaction()
        if self.has_index:
            self.index.close()
        if "packs" in self.__dict__:
            self.packs.close()

    def __enter__(self) -> ContainerSession:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if exc_type is None or issubclass(exc_type, RepositoryError | OSError):
            self._pool.check_in(self)
        else:
            self.close()  # its state is unknown


class SessionPool:
    """The idle sessions of a repository. It takes no lock, so that a fork at any time leaves it usable."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.row_cache: RowCache = RowCache(layout)
        self._idle: deque[ContainerSession] = deque()

    @property
    def idle(self) -> int:
        """The number of idle sessions."""
        return len(self._idle)

    def check_out(self, checked: bool = True) -> ContainerSession:
        """Check out a session; leaving it as a context manager checks it in.

        :param checked: whether to check that the session belongs to the container that is at the path now.
        :raises NotInitialisedError: if there is no container.
        """
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return ContainerSession(self)
            try:
                if session.is_current() if checked else session.process == os.getpid():
                    session.rows = self.row_cache.rows
                    return session
            except RepositoryError:
                self._dispose(session)
                raise
            self._dispose(session)

    def check_in(self, session: ContainerSession) -> None:
        """Take a session back and end its transaction."""
        session.end_transaction()
        if session.reusable and len(self._idle) < _MAX_IDLE:
            if "packs" in session.__dict__:
                session.packs.trim()
            self._idle.append(session)
        else:
            session.close()

    def close(self) -> None:
        """Close the idle sessions. Sessions that are checked out return to the pool when they are checked in."""
        self.row_cache.close()
        while self._idle:
            self._dispose(self._idle.pop())

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def _dispose(session: ContainerSession) -> None:
        if session.process == os.getpid():
            session.close()
        else:
            _inherited.append(session)
