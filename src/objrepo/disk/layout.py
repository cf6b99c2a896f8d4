"""A container's format on disk: its configuration and its paths. `index.py` has the table of packed objects.

The format is version 1 of disk-objectstore's, as its documentation and its ``database.py`` describe it:
``config.json``, one file for each loose object, pack files of concatenated objects, and an SQLite table with each
packed object's pack, offset and length.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from objrepo.disk.safe_open import FileId, file_id, refused, safe_open
from objrepo.errors import NotInitialisedError, RepositoryError

_CONTAINER_VERSION: Final = 1
_PACK_NAME: Final = re.compile("[0-9]{1,17}")  # as many digits as an SQLite integer holds
_APPEND_NOTE: Final = re.compile("append-([0-9]{1,17})-([0-9]{1,18})")
_CONFIG_BYTES: Final = 1024 * 1024
_LONGEST_PREFIX: Final = 39  # of the 40 digits of a SHA-1 key, one remains for the file

FIRST_OWN_PACK: Final = 1_000_000
"""The number of the first pack that groups are written to."""

REPACK_PACK: Final = -1
"""The number of the pack that a repack of disk-objectstore writes."""


@dataclass(frozen=True)
class Config:
    """The values in a container's ``config.json``."""

    container_id: str
    hash_type: str
    loose_prefix_len: int
    pack_size_target: int
    compression_algorithm: str

    def check(self) -> None:
        """Raise an error if a value is invalid.

        :raises ValueError: naming the value.
        """
        for name, value in vars(self).items():
            if type(value) is not (int if name in {"loose_prefix_len", "pack_size_target"} else str):
                raise ValueError(f"{name} has the invalid value {value!r}")
        if self.hash_type not in {"sha1", "sha256"}:
            raise ValueError(f"unknown hash_type {self.hash_type!r}")
        if not re.fullmatch(r"zlib\+[1-9]", self.compression_algorithm):
            raise ValueError(f"unknown compression_algorithm {self.compression_algorithm!r}")
        if not 0 <= self.loose_prefix_len <= _LONGEST_PREFIX:
            raise ValueError(f"loose_prefix_len has the invalid value {self.loose_prefix_len}")
        if self.pack_size_target < 1:
            raise ValueError(f"pack_size_target has the invalid value {self.pack_size_target}")


class Layout:
    """The paths of a container.

    :param folder: the container's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file: Path = folder / "config.json"
        self.index_file: Path = folder / "packs.idx"
        self._index = str(self.index_file)
        self.packs: Path = folder / "packs"
        self.loose: Path = folder / "loose"
        self._loose = str(self.loose)
        self.sandbox: Path = folder / "sandbox"
        self.duplicates: Path = folder / "duplicates"
        self.quarantine: Path = folder / "quarantine"
        self.maintenance_lock: Path = folder / "maintain.lock"

    def is_initialised(self) -> bool:
        """Return whether the folder holds a container."""
        folders = (self.packs, self.loose, self.duplicates, self.sandbox)
        return self.config_file.is_file() and all(folder.is_dir() for folder in folders)

    def config(self) -> Config:
        """Read the configuration.

        :raises NotInitialisedError: if there is no container.
        :raises RepositoryError: if it is damaged or of an unknown format.
        """
        if not self.is_initialised():
            raise not_initialised(self.folder)
        for path in (self.config_file, self.packs, self.loose, self.duplicates, self.sandbox):
            if path.is_symlink():
                raise refused(path)
        try:
            with safe_open(str(self.config_file)) as file:
                values = json.loads(file.read(_CONFIG_BYTES))
            version = values["container_version"]
            config = Config(*(values[name] for name in Config.__dataclass_fields__))
            config.check()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RepositoryError(
                f"the configuration {self.config_file} is damaged: {error!r}; restore it from a backup"
            ) from error
        if version != _CONTAINER_VERSION:
            raise RepositoryError(
                f"{self.folder} is a container of format {version!r}, and this objrepo supports format "
                f"{_CONTAINER_VERSION} only: use a release that supports it"
            )
        return config

    def identity(self) -> FileId:
        """Return a value that differs for another container that replaces this one under the same path.

        :raises NotInitialisedError: if there is no container.
        """
        try:
            status = os.lstat(self._index)
        except (FileNotFoundError, NotADirectoryError):
            raise not_initialised(self.folder) from None
        if not stat.S_ISREG(status.st_mode):
            raise refused(self._index)
        return file_id(status)

    def loose_name(self, config: Config, key: str) -> str:
        """Return the path of an object's loose file, which may not exist. A ``str`` is faster than a ``Path``."""
        prefix = config.loose_prefix_len
        return f"{self._loose}{os.sep}{key[:prefix]}{os.sep}{key[prefix:]}" if prefix else f"{self._loose}{os.sep}{key}"

    def pack_files(self) -> list[Path]:
        """Return the paths of all packs, ordered by number."""
        found = (path for path in self.packs.iterdir() if _PACK_NAME.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.name))

    def pack_files_size(self) -> int:
        size = 0
        for path in self.pack_files():
            with suppress(FileNotFoundError):  # a repack may remove it meanwhile
                size += path.lstat().st_size
        return size

    def append_note(self, pack_id: int, size: int) -> Path:
        """Return the path of an empty file whose name says how large a pack was before a writer appended to it."""
        return self.folder / f"append-{pack_id}-{size}"

    def append_notes(self) -> list[tuple[Path, int, int]]:
        """Return the files of writers that have not ended: each with its pack and how large that was."""
        found = ((path, _APPEND_NOTE.fullmatch(path.name)) for path in self.folder.glob("append-*"))
        return [(path, int(match[1]), int(match[2])) for path, match in found if match]

    def pack_locks(self) -> list[Path]:
        """Return the lock files of packs, which disk-objectstore creates too."""
        return sorted(self.packs.glob("*.lock"))


def not_initialised(folder: Path) -> NotInitialisedError:
    """Return the error for a folder that holds no container; the message says what is there and what to do."""
    try:
        if (folder / "config.json").exists():
            return NotInitialisedError(
                f"the repository at {folder} is incomplete, as after an interrupted erase: restore it from a backup, "
                "or delete the rest with `erase()`"
            )
        found = "is an empty folder" if not any(folder.iterdir()) else "has no config.json"
    except FileNotFoundError:
        found = "does not exist"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    return NotInitialisedError(
        f"there is no repository at {folder}, which {found}: create one with `initialise()` or `objrepo init`"
    )
