"""The storage plugin `objrepo.psql_dos`."""

from __future__ import annotations

from aiida.storage.psql_dos.backend import PsqlDosBackend, get_filepath_container
from disk_objectstore import Container

from objrepo.aiida.storage_mixin import RepositoryMixin
from objrepo.aiida.transactions import TransactionalDiskRepository


class ObjrepoPsqlDosStorage(RepositoryMixin, PsqlDosBackend):
    """PostgreSQL and a folder of objects, both in the format of ``core.psql_dos``."""

    def _make_repository(self) -> TransactionalDiskRepository:
        return TransactionalDiskRepository(Container(get_filepath_container(self.profile)))
