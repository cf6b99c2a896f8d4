"""All that is known here of a container's format on disk: its configuration, its paths and its index.

The format is disk-objectstore's, version 1, as its documentation of the design and its ``database.py`` describe it:
``config.json``, one file for each loose object, pack files with objects one after the other, and an SQLite table
that says where in which pack an object is.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from objrepo.errors import NotInitialisedError, RepositoryBusyError, RepositoryError

__all__ = ("Config", "Index", "Layout", "Row")

CONTAINER_VERSION: Final = 1

_BUSY_SECONDS: Final = 30
_ROW: Final = "SELECT hashkey, pack_id, offset, length, compressed, size FROM db_object WHERE hashkey"
_KEYS_IN_STATEMENT: Final = 900  # SQLite before 3.32 takes no more than 999 parameters


@dataclass(frozen=True)
class Config:
    """What ``config.json`` says of a container."""

    container_id: str
    hash_type: str
    loose_prefix_len: int
    pack_size_target: int
    compression_algorithm: str


class Row(NamedTuple):
    """Where a packed object is: ``length`` bytes from ``offset`` on in its pack, ``size`` when decompressed."""

    key: str
    pack_id: int
    offset: int
    length: int
    compressed: bool
    size: int


class Layout:
    """The paths of a container.

    :param folder: the container's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "config.json"
        self.index_file = folder / "packs.idx"
        self.packs = folder / "packs"
        self.loose = folder / "loose"
        self.sandbox = folder / "sandbox"
        self.duplicates = folder / "duplicates"
        self.maintenance_lock = folder / "maintain.lock"

    def is_initialised(self) -> bool:
        """Say whether the folder holds a container."""
        folders = (self.packs, self.loose, self.duplicates, self.sandbox)
        return self.config_file.is_file() and all(folder.is_dir() for folder in folders)

    def config(self) -> Config:
        """Read the configuration.

        :raises NotInitialisedError: if there is no container.
        :raises RepositoryError: if it is damaged or of a format that is not known here.
        """
        if not self.is_initialised():
            raise not_initialised(self.folder)
        try:
            values = json.loads(self.config_file.read_bytes())
            version = values["container_version"]
            config = Config(*(values[name] for name in Config.__dataclass_fields__))
        except (ValueError, KeyError, TypeError) as error:
            raise RepositoryError(f"the configuration {self.config_file} is damaged: {error!r}") from error
        if version != CONTAINER_VERSION:
            raise RepositoryError(
                f"{self.folder} has the format {version!r} of a container, this objrepo knows format "
                f"{CONTAINER_VERSION} only: use a release that knows it"
            )
        return config

    def identity(self) -> tuple[int, int]:
        """Return what changes when another container takes this one's place under the same path.

        :raises NotInitialisedError: if there is no container.
        """
        try:
            status = os.stat(self.index_file)  # noqa: PTH116  (on the way of every call)
        except (FileNotFoundError, NotADirectoryError):
            raise not_initialised(self.folder) from None
        return status.st_dev, status.st_ino

    def loose_path(self, config: Config, key: str) -> Path:
        """Return the path at which a loose object is, if it is."""
        prefix = config.loose_prefix_len
        return self.loose / key[:prefix] / key[prefix:] if prefix else self.loose / key

    def pack_path(self, pack_id: int) -> Path:
        """Return the path of a pack; ``-1`` is the one that a repack is writing."""
        return self.packs / str(int(pack_id))

    def pack_files(self) -> list[Path]:
        """Return the paths of all packs, in the order of their numbers."""
        return sorted((path for path in self.packs.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))

    def pack_files_size(self) -> int:
        """Return the bytes of all packs."""
        return sum(path.stat().st_size for path in self.pack_files())

    def pack_locks(self) -> list[Path]:
        """Return the lock files of whoever is writing to packs, also outside of objrepo."""
        return sorted(self.packs.glob("*.lock"))


class Index:
    """A connection to a container's index; one thread at a time uses it. No call leaves a transaction open.

    :param layout: the container's.
    :raises RepositoryError: if the index cannot be opened.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.index_file
        self.lasting = True
        try:
            with _errors(self._path):
                self._connection = self._connect("mode=rw")
        except RepositoryError:
            if os.access(layout.folder, os.W_OK):
                raise
            # SQLite must write beside the index even to read it, unless it is told that nobody writes to it. That
            # holds now, as the files that a writer makes are not there, but not for long: do not keep it.
            self.lasting = False
            with _errors(self._path):
                self._connection = self._connect("immutable=1")

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?{mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute(f"{_ROW} = ''").fetchall()  # opens the file, and checks the table and its columns
        except BaseException:
            connection.close()
            raise
        return connection

    def row(self, key: str) -> Row | None:
        """Return where a packed object is, None if it is not packed."""
        rows = self._all(f"{_ROW} = ?", key)
        return Row(*rows[0]) if rows else None

    def rows(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return where those of the objects are that are packed."""
        found: dict[str, Row] = {}
        for start in range(0, len(keys), _KEYS_IN_STATEMENT):
            some = keys[start : start + _KEYS_IN_STATEMENT]
            places = ",".join("?" * len(some))
            found.update((row[0], Row(*row)) for row in self._all(f"{_ROW} IN ({places})", *some))
        return found

    def keys(self, first: str, end: str) -> list[str]:
        """Return the keys of packed objects from ``first`` on and before ``end``, in order."""
        statement = "SELECT hashkey FROM db_object WHERE hashkey >= ? AND hashkey < ? ORDER BY hashkey"
        return [key for (key,) in self._all(statement, first, end)]

    def count(self) -> int:
        """Return how many objects are packed."""
        return int(self._all("SELECT count(*) FROM db_object")[0][0])

    def sums(self) -> tuple[int, int]:
        """Return the bytes of all packed objects: decompressed, and as they are in the packs."""
        size, length = self._all("SELECT coalesce(sum(size), 0), coalesce(sum(length), 0) FROM db_object")[0]
        return int(size), int(length)

    def vacuum(self) -> None:
        """Rewrite the index in order and without holes; nobody else may be using it."""
        self._all("VACUUM")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _all(self, statement: str, *parameters: str) -> list[tuple[Any, ...]]:
        with _errors(self._path):
            # To the last row, as a statement that is not run to its end keeps its read transaction open.
            return self._connection.execute(statement, parameters).fetchall()


def not_initialised(folder: Path) -> NotInitialisedError:
    """Return the error for a folder that holds no container; the message says what is there and what to do."""
    try:
        found = "is an empty folder" if not any(folder.iterdir()) else "holds something else than a repository"
    except FileNotFoundError:
        found = "does not exist"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    return NotInitialisedError(
        f"there is no repository at {folder}, which {found}: "
        "make one with `await repository.initialise()` or `objrepo init`"
    )


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise RepositoryBusyError(f"the index {path} is locked by another process: {error}") from error
        path.open("rb").close()  # if it cannot be opened, this says why, and SQLite does not
        raise RepositoryError(f"the index {path} cannot be read: {error}") from error
    except sqlite3.Error as error:
        raise RepositoryError(f"the index {path} is damaged: {error}") from error
