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

from objrepo.aiida.storage_mixin import RepositoryMixin
from objrepo.aiida.transactions import TransactionalRepository
from objrepo.errors import RepositoryError
from objrepo.offload import Inline
from objrepo.url import open_repository


class PsqlS3Migrator(PsqlDosMigrator):
    """Creates the database and the repository in the bucket, and checks that they belong together."""

    def get_container(self) -> NoReturn:
        """Raise an error: objects in a bucket are not in a container.

        :raises NotImplementedError: always.
        """
        raise NotImplementedError("the objects are in a bucket, not in a container")

    def get_repository_uuid(self) -> str:
        """Return the UUID of the repository.

        :raises UnreachableStorage: if the repository does not exist or is unavailable.
        """
        with self._repository() as repository:
            uuid = repository.uuid
        if uuid is None:
            url = self.profile.storage_config["repository_url"]
            raise UnreachableStorage(f"there is no repository at {url}: correct `repository_url` in the profile")
        return str(uuid)

    @property
    def is_repository_initialised(self) -> bool:
        """Whether the repository exists."""
        with self._repository() as repository:
            return bool(repository.is_initialised)

    def reset_repository(self) -> None:
        """Delete the repository with all objects."""
        with self._repository() as repository:
            repository.erase()

    def initialise_repository(self) -> None:
        """Create the repository."""
        with self._repository() as repository:
            repository.initialise()

    @contextmanager
    def _repository(self) -> Iterator[TransactionalRepository]:
        try:
            with _opened(self.profile) as repository:
                yield repository
        except RepositoryError as error:
            raise UnreachableStorage(str(error)) from error


class ObjrepoPsqlS3Storage(RepositoryMixin, PsqlDosBackend):
    """PostgreSQL and a bucket of objects, in S3 or in a store with the protocol of S3.

    AiiDA's configuration holds no credentials for the bucket: they are read from the environment, the shared
    configuration files of AWS, or the role of the machine.
    """

    migrator = PsqlS3Migrator

    class CliModel(AiiDABaseModel):
        """The options of `verdi profile setup`."""

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
            title="Repository URL", description="The URL of the repository: s3://BUCKET/PREFIX?endpoint=URL."
        )

        @field_validator("repository_url")
        @classmethod
        def repository_url_is_of_a_bucket(cls, value: str) -> str:
            """Return the URL.

            :raises ValueError: if it is not the URL of a bucket.
            """
            if not value.startswith("s3://"):
                raise ValueError("the URL of the repository must be s3://BUCKET/PREFIX?endpoint=URL")
            open_repository(value)
            return value

    def _make_repository(self) -> TransactionalRepository:
        return _opened(self.profile)

    def maintain(self, full: bool = False, dry_run: bool = False, **kwargs: Any) -> None:
        """Delete objects that no node refers to, and abort old uploads; a bucket has no packs."""
        for option in ("compress", "incremental_cleanup"):
            kwargs.pop(option, None)
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
            "AiiDA cannot back up a bucket: back up the database with `pg_dump`, then the objects with `objrepo copy`"
        )


def _opened(profile: Profile) -> TransactionalRepository:
    return TransactionalRepository(open_repository(str(profile.storage_config["repository_url"]), Inline()))
