"""The storage plugin `objrepo.psql_s3`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from aiida.common.exceptions import StorageBackupError, UnreachableStorage
from aiida.common.pydantic import AiiDABaseModel, MetadataField
from aiida.manage.configuration.profile import Profile
from aiida.storage.psql_dos.backend import PsqlDosBackend
from aiida.storage.psql_dos.migrator import PsqlDosMigrator
from pydantic import field_validator

from objrepo.aiida.storage_mixin import KeepsRepository
from objrepo.errors import RepositoryError
from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.url import open_repository

__all__ = ("ObjrepoPsqlS3Storage",)


class PsqlS3Migrator(PsqlDosMigrator):
    """Makes the database and the part of the bucket, and checks that they belong to each other."""

    def get_container(self) -> NoReturn:
        """Say that there is none."""
        raise NotImplementedError("the objects are in a bucket, not in a container")

    def get_repository_uuid(self) -> str:
        """Return the UUID of the repository.

        :raises UnreachableStorage: if there is no repository, or it is not to be had.
        """
        with self._repository() as repository:
            uuid = repository.uuid
        if uuid is None:
            raise UnreachableStorage(f"there is no repository at {self.profile.storage_config['repository_url']}")
        return str(uuid)

    @property
    def is_repository_initialised(self) -> bool:
        """Whether the repository is there."""
        with self._repository() as repository:
            return bool(repository.is_initialised)

    def reset_repository(self) -> None:
        """Delete the repository with all objects."""
        with self._repository() as repository:
            repository.erase()

    def initialise_repository(self) -> None:
        """Make the repository."""
        with self._repository() as repository:
            repository.initialise()

    @contextmanager
    def _repository(self) -> Iterator[SyncRepository]:
        try:
            with _opened(self.profile) as repository:
                yield repository
        except RepositoryError as error:
            raise UnreachableStorage(str(error)) from error


class ObjrepoPsqlS3Storage(KeepsRepository, PsqlDosBackend):
    """PostgreSQL, and objects in a bucket of S3 or of anything that speaks its protocol.

    Credentials are not kept in AiiDA's configuration: they come from where Amazon's own tools take them from.
    """

    migrator = PsqlS3Migrator

    class CliModel(AiiDABaseModel):
        """What `verdi profile setup` asks for."""

        database_engine: str = MetadataField(
            title="PostgreSQL engine",
            description="The engine to use to connect to the database.",
            default="postgresql_psycopg",
        )
        database_hostname: str = MetadataField(
            title="PostgreSQL hostname", description="The hostname of the PostgreSQL server.", default="localhost"
        )
        database_port: int = MetadataField(
            title="PostgreSQL port", description="The port of the PostgreSQL server.", default=5432
        )
        database_username: str = MetadataField(
            title="PostgreSQL username", description="The username with which to connect to the PostgreSQL server."
        )
        database_password: str = MetadataField(
            title="PostgreSQL password", description="The password with which to connect to the PostgreSQL server."
        )
        database_name: str = MetadataField(
            title="PostgreSQL database name", description="The name of the database in the PostgreSQL server."
        )
        repository_url: str = MetadataField(
            title="Repository URL", description="Where the objects are: s3://BUCKET/PREFIX?endpoint=URL."
        )

        @field_validator("repository_url")
        @classmethod
        def repository_url_is_of_a_bucket(cls, value: str) -> str:
            """Return the URL.

            :raises ValueError: if it is not that of a bucket.
            """
            if not value.startswith("s3://"):
                raise ValueError("the URL of the repository must be s3://BUCKET/PREFIX?endpoint=URL")
            open_repository(value)
            return value

    def _make_repository(self) -> SyncRepository:
        return _opened(self.profile)

    def maintain(self, full: bool = False, dry_run: bool = False, **kwargs: Any) -> None:
        """Delete what no node has, and abort old uploads; nothing in a bucket is packed or compressed."""
        for about_packs in ("compress", "incremental_cleanup"):
            kwargs.pop(about_packs, None)
        super().maintain(full, dry_run, **kwargs)

    def delete(self, delete_database_user: bool = False) -> None:
        """Delete the objects, and the database."""
        from aiida.manage.external.postgres import Postgres

        with self.migrator(self.profile) as migrator:
            migrator.reset_repository()
        self._close_repository()
        config = self.profile.storage_config
        postgres = Postgres.from_profile(self.profile)
        if postgres.db_exists(config["database_name"]):
            postgres.drop_db(config["database_name"])
        if delete_database_user and postgres.dbuser_exists(config["database_username"]):
            postgres.drop_dbuser(config["database_username"])

    def _backup(self, dest: str, keep: int | None = None) -> None:
        raise StorageBackupError(
            "objects in a bucket are backed up with `objrepo copy`, and the database with `pg_dump`, in this order"
        )


def _opened(profile: Profile) -> SyncRepository:
    return SyncRepository(open_repository(str(profile.storage_config["repository_url"]), Inline()))
