"""The storage plugin `objrepo.sqlite_dos`."""

from __future__ import annotations

from aiida.storage.sqlite_dos.backend import SqliteDosStorage

from objrepo.aiida.storage_mixin import KeepsRepository
from objrepo.sync import DiskObjectStoreRepositoryBackend

__all__ = ("ObjrepoSqliteDosStorage",)


class ObjrepoSqliteDosStorage(KeepsRepository, SqliteDosStorage):
    """SQLite and a folder of files, both as ``core.sqlite_dos`` keeps them."""

    def _make_repository(self) -> DiskObjectStoreRepositoryBackend:
        return DiskObjectStoreRepositoryBackend(self.get_container())
