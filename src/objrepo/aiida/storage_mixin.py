"""What the storages have in common: one repository each, opened when it is needed and closed with the storage."""

from __future__ import annotations

from typing import Any

from objrepo.sync import SyncRepository

__all__ = ("KeepsRepository",)


class KeepsRepository:
    """A storage that gives the same repository each time, as making one is not free."""

    _kept: SyncRepository | None = None

    def _make_repository(self) -> SyncRepository:
        raise NotImplementedError

    def get_repository(self) -> SyncRepository:
        """Return the repository; it may be used by many threads."""
        if self._kept is None:
            self._kept = self._make_repository()
        return self._kept

    def close(self) -> None:
        """Close the storage and its repository."""
        self._close_repository()
        super().close()  # type: ignore[misc]

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Delete the storage and all data."""
        self._close_repository()
        super().delete(*args, **kwargs)  # type: ignore[misc]

    def _clear(self) -> None:
        self._close_repository()  # another one takes its place
        super()._clear()  # type: ignore[misc]

    def _close_repository(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
