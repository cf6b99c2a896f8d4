"""The files that objects are exported into: a zip, or a tar. All of it blocks."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Collection
from typing import BinaryIO, Final, Protocol

from objrepo.protocol import BinaryReader
from objrepo.sources import read_up_to

__all__ = ("ATTRIBUTES", "FOLDER", "Archive", "Tar", "Zip", "is_tar", "tar_mode")

FOLDER: Final = "repo/"
"""The folder of the objects in an archive, as in those of AiiDA."""

_PIECE: Final = 1024 * 1024
_UNDATED: Final = (1980, 1, 1, 0, 0, 0)  # the same objects make the same file
_MODE: Final = 0o644
ATTRIBUTES: Final = _MODE << 16
"""How a zip writes down who may read a member."""

_TARS: Final = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}


class Archive(Protocol):
    """A file that objects are added to.

    :ivar known: the keys that were in it when it was opened.
    """

    known: Collection[str]

    def add(self, key: str, size: int, reader: BinaryReader) -> None:
        """Add an object of ``size`` bytes, which the reader gives."""

    def close(self) -> None:
        """Write what belongs at the end of the archive, and leave the file open."""


class Zip:
    """A zip that is written.

    :param file: where to; what is before its position stays.
    :param compress: whether to deflate what is added.
    :param members: those that are in the file already, before its position.
    """

    def __init__(self, file: BinaryIO, compress: bool, members: Collection[zipfile.ZipInfo] = ()) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
        self._archive.infolist().extend(members)
        names = (member.filename for member in members)
        self.known: Collection[str] = {name.removeprefix(FOLDER) for name in names if name.startswith(FOLDER)}

    def add(self, key: str, size: int, reader: BinaryReader) -> None:
        """Add an object; see :meth:`Archive.add`."""
        member = zipfile.ZipInfo(f"{FOLDER}{key}", _UNDATED)
        member.compress_type = self._archive.compression
        member.external_attr = ATTRIBUTES
        member.file_size = size  # so that what is larger than 4 GiB is written as that
        with self._archive.open(member, "w") as file:
            shutil.copyfileobj(reader, file, _PIECE)

    def close(self) -> None:
        """Write the list of members."""
        self._archive.close()


class Tar:
    """A tar that is written.

    :param file: where to.
    :param mode: of ``tarfile``, which says how it is compressed; see :func:`tar_mode`.
    """

    known: Collection[str] = ()

    def __init__(self, file: BinaryIO, mode: str) -> None:
        self._archive = tarfile.open(fileobj=file, mode=mode, copybufsize=_PIECE)  # type: ignore[call-overload]  # noqa: SIM115

    def add(self, key: str, size: int, reader: BinaryReader) -> None:
        """Add an object; see :meth:`Archive.add`."""
        member = tarfile.TarInfo(f"{FOLDER}{key}")
        member.size = size
        member.mode = _MODE
        self._archive.addfile(member, _Whole(reader))

    def close(self) -> None:
        """Write the two empty blocks that end a tar."""
        self._archive.close()


class _Whole:
    """A reader that gives as much as it is asked for, as long as there is any."""

    def __init__(self, reader: BinaryReader) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        return read_up_to(self._reader, size)


def is_tar(name: str) -> bool:
    """Say whether a file of this name is written as a tar."""
    return tar_mode(name) is not None


def tar_mode(name: str) -> str | None:
    """Return how ``tarfile`` opens a file of this name for writing, None if it is not the name of a tar."""
    return next((mode for suffix, mode in _TARS.items() if name.endswith(suffix)), None)
