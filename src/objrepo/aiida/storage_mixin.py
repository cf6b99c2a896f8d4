"""The mixin of the storages: one repository for each storage, opened on first use and closed with the storage."""

from __future__ import annotations

from typing import Any

from objrepo.sync import SyncRepository

__all__ = ("RepositoryMixin",)


class RepositoryMixin:
    """Gives a storage one repository, as opening a repository has a cost."""

    _open_repository: SyncRepository | None = None

    def _make_repository(self) -> SyncRepository:
        raise NotImplementedError

    def get_repository(self) -> SyncRepository:
        """Return the repository, which many threads may use at the same time."""
        if self._open_repository is None:
            self._open_repository = self._make_repository()
        return self._open_repository

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
