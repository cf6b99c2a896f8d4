"""The mixin of the storages: one repository for each storage, opened on first use and closed with the storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session

from objrepo.aiida.transactions import TransactionalRepository

_opening: Final = threading.Lock()


class RepositoryMixin:
    """Gives a storage one repository, as opening a repository has a cost, and stores files with each transaction."""

    _open_repository: TransactionalRepository | None = None

    def _make_repository(self) -> TransactionalRepository:
        raise NotImplementedError

    def get_repository(self) -> TransactionalRepository:
        """Return the repository, which many threads may use at the same time."""
        with _opening:  # so that all threads get the same one
            if self._open_repository is None:
                self._open_repository = self._make_repository()
            return self._open_repository

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Begin a transaction of the database. The files that this thread puts in it are stored before its commit."""
        with super().transaction() as session, _with_files(session, self.get_repository()):  # type: ignore[misc]
            yield session

    def close(self) -> None:
        """Close the storage and its repository."""
        self._close_repository()
        super().close()  # type: ignore[misc]

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Delete the storage and all data."""
        self._close_repository()
        super().delete(*args, **kwargs)  # type: ignore[misc]

    def _clear(self) -> None:
        self._close_repository()  # AiiDA puts another repository in its place
        super()._clear()  # type: ignore[misc]

    def _close_repository(self) -> None:
        repository, self._open_repository = self._open_repository, None
        if repository is not None:
            repository.close()


@contextmanager
def _with_files(session: Session, repository: TransactionalRepository) -> Iterator[None]:
    """Store files at the end, and before AiiDA commits inside the transaction, as when it clears a group."""

    def before_commit(_: Session) -> None:
        savepoint = session.get_nested_transaction()
        # SQLite commits when the outermost savepoint is released.
        if savepoint is None or savepoint.parent is None or not savepoint.parent.nested:
            files.store()

    with repository.transaction() as files:
        event.listen(session, "before_commit", before_commit)
        try:
            yield
        finally:
            event.remove(session, "before_commit", before_commit)
