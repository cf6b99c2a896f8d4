"""The storage plugin `objrepo.sqlite_dos`."""

from __future__ import annotations

from aiida.storage.sqlite_dos.backend import SqliteDosStorage

from objrepo.aiida.storage_mixin import RepositoryMixin
from objrepo.aiida.transactions import TransactionalDiskRepository


class ObjrepoSqliteDosStorage(RepositoryMixin, SqliteDosStorage):
    """SQLite and a folder of objects, both in the format of ``core.sqlite_dos``."""

    def _make_repository(self) -> TransactionalDiskRepository:
        return TransactionalDiskRepository(self.get_container())
