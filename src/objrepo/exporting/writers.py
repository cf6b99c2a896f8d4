"""Writers of archives: zip and tar. Everything blocks."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Collection
from functools import partial
from types import SimpleNamespace
from typing import Any, BinaryIO, Final, TypeAlias, cast

from objrepo.protocol import BinaryReader
from objrepo.sources import read_up_to

FOLDER: Final = "repo/"
"""The folder of the objects in an archive, as in archives of AiiDA."""

_CHUNK_BYTES: Final = 1024 * 1024
_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the earliest of a zip; exports of the same objects are identical
_MODE: Final = 0o644
ATTRIBUTES: Final = _MODE << 16
"""The permissions of a member, as a zip stores them."""

_TAR_MODES: Final = {".tar": "w:", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}


class ZipWriter:
    """Adds objects to a zip.

    :param file: the file, which is written from its position on.
    :param compress: whether to deflate the objects that are added.
    :param members: the members that the file contains before its position.

    :ivar keys: the keys of the objects in it.
    """

    def __init__(self, file: BinaryIO, compress: bool, members: Collection[zipfile.ZipInfo] = ()) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
        self._archive.infolist().extend(members)
        names = (member.filename for member in members)
        self.keys: set[str] = {name.removeprefix(FOLDER) for name in names if name.startswith(FOLDER)}

    def add(self, key: str, size: int, reader: BinaryReader) -> None:
        """Add an object of ``size`` bytes."""
        member = zipfile.ZipInfo(f"{FOLDER}{key}", _NO_DATE)
        member.compress_type = self._archive.compression
        member.external_attr = ATTRIBUTES
        member.file_size = size  # makes it a zip64 member if it is larger than 4 GiB
        with self._archive.open(member, "w") as file:
            shutil.copyfileobj(reader, file, _CHUNK_BYTES)
        self.keys.add(key)

    def close(self) -> None:
        """Write the central directory. The file stays open."""
        self._archive.close()


class TarWriter:
    """Adds objects to a tar.

    :param file: the file.
    :param mode: the mode of ``tarfile``, which includes the compression; see :func:`tar_mode`.
    """

    def __init__(self, file: BinaryIO, mode: str) -> None:
        self._archive = tarfile.open(fileobj=file, mode=mode, copybufsize=_CHUNK_BYTES)  # type: ignore[call-overload]  # noqa: SIM115
        self.keys: set[str] = set[str]()

    def add(self, key: str, size: int, reader: BinaryReader) -> None:
        """Add an object of ``size`` bytes."""
        member = tarfile.TarInfo(f"{FOLDER}{key}")
        member.size = size
        member.mode = _MODE
        # tarfile expects fewer bytes than it requests only at the end.
        self._archive.addfile(member, cast("Any", SimpleNamespace(read=partial(read_up_to, reader))))
        self.keys.add(key)

    def close(self) -> None:
        """Write the two empty blocks that end a tar. The file stays open."""
        self._archive.close()


ArchiveWriter: TypeAlias = ZipWriter | TarWriter


def is_tar(name: str) -> bool:
    """Say whether a file name is that of a tar.

    :raises ValueError: if it is that of a tar with a compression that cannot be written.
    """
    return tar_mode(name) is not None


def tar_mode(name: str) -> str | None:
    """Return the mode in which ``tarfile`` writes a file of this name; None if it is not the name of a tar.

    :raises ValueError: if it is that of a tar with a compression that cannot be written.
    """
    mode = next((mode for suffix, mode in _TAR_MODES.items() if name.endswith(suffix)), None)
    if mode is None and ".tar." in name:
        raise ValueError(f"cannot write a tar named {name}: end the name in {', '.join(_TAR_MODES)}, or .zip for a zip")
    return mode
