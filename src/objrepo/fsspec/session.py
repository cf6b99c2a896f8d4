"""`Session`: the repository of a filesystem, its batch in a transaction, and the names of new files."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, suppress
from typing import Any, Final
from uuid import uuid4

from objrepo.errors import RepositoryError
from objrepo.fsspec.file_tree import LIST_HEADER, FileTree
from objrepo.sync import SyncRepository, open_repository

NEW: Final = "new"
"""The folder of the files that are written."""

_LISTS_KEPT: Final = 16


class Session:
    """What a filesystem works on. The sessions of a process with the same repository share it, and the names.

    :param url: the path or URL of the repository.
    :param process_id: the process that has the names; by default this one.
    :ivar is_checked: whether reads compare objects with their keys.
    """

    def __init__(self, url: str, process_id: str | None = None) -> None:
        url = url if ":" in url else os.path.abspath(url)  # noqa: PTH100  (which resolves no links)
        self.process_id: str = process_id or _process.id
        self.is_checked: bool = url.startswith("checked:")
        with _process.lock:
            if url not in _process.opened:
                _process.opened[url] = _Opened(url)
            self._opened = _process.opened[url]
        self._context: AbstractContextManager[SyncRepository] | None = None
        self._batch: SyncRepository | None = None
        self._changes: list[tuple[str, str | None]] = []

    @property
    def repository(self) -> SyncRepository:
        """The repository, or the batch of a transaction."""
        return self._batch or self._opened.repository

    @property
    def names(self) -> FileTree:
        """The names of new files.

        :raises RepositoryError: in another process than that of the filesystem.
        """
        if not is_here(self.process_id):
            raise RepositoryError(
                "objrepo://new belongs to the process that made this filesystem: in other processes, read snapshots, "
                "or store objects with put() of the repository, and have that process name their keys with cp()"
            )
        return self._opened.names

    def set(self, name: str, key: str) -> None:
        """Name an object."""
        previous = self.names.set(name, key)
        if self._batch is not None:
            self._changes.append((name, previous))

    def remove(self, name: str) -> None:
        """Remove a name, or an empty folder."""
        previous = self.names.remove(name)
        if self._batch is not None:
            self._changes.append((name, previous))

    def read_list(self, key: str) -> FileTree | None:
        """Return the files of a list; None if the object is something else.

        :raises ObjectNotFoundError: if there is no such object.
        :raises CorruptObjectError: if the list is damaged.
        """
        lists = self._opened.lists
        tree = lists.get(key)
        if tree is None:
            with self.repository.open(key) as file:
                if file.read(len(LIST_HEADER)) != LIST_HEADER:
                    return None
            tree = lists[key] = FileTree.from_list(key, self.repository.get(key, check=True))
            for old in list(lists)[:-_LISTS_KEPT]:
                lists.pop(old, None)
        return tree

    def begin(self) -> None:
        """Begin a batch.

        :raises ValueError: if one has begun.
        :raises NotInitialisedError: if the repository does not exist.
        """
        if self._context is not None:
            raise ValueError("a transaction of this filesystem has begun: end it first")
        context = self._opened.repository.batch()
        self._batch = context.__enter__()
        self._context = context

    def end(self, commit: bool) -> None:
        """End the batch, and take the names back that were given in it unless it is committed."""
        context, changes = self._context, self._changes
        self._context, self._batch, self._changes = None, None, []
        stored = False
        try:
            if context is not None:
                leave(context, commit)
            stored = commit
        finally:
            if not stored:
                self._undo(changes)

    def _undo(self, changes: list[tuple[str, str | None]]) -> None:
        for name, previous in reversed(changes):
            if previous is None:
                with suppress(OSError):  # others have removed it, or have written into the folder
                    self.names.remove(name)
            else:
                self.names.set(name, previous)


class _DiscardedError(Exception):
    pass


def leave(context: AbstractContextManager[Any], commit: bool) -> None:
    """Leave a context manager as if its block had ended, or else had raised."""
    error = None if commit else _DiscardedError()
    context.__exit__(None if error is None else type(error), error, None)


def is_here(process_id: str) -> bool:
    """Return whether an identifier is that of this process."""
    return process_id == _process.id


class _Opened:
    """A repository, the names that this process has given in it, and lists that were read."""

    def __init__(self, url: str) -> None:
        self.repository = open_repository(url)
        self.names = FileTree(NEW)
        self.lists: dict[str, FileTree] = {}


class _Process:
    """What the sessions of this process share. A forked child has another one."""

    def __init__(self) -> None:
        self.id = uuid4().hex
        self.lock = threading.Lock()
        self.opened: dict[str, _Opened] = {}


def _renew_process() -> None:
    global _process
    _process = _Process()


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_process)
