"""`ArchiveRepository`: the objects in a zip, such as an AiiDA archive, to be read."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from objrepo.backend import Backend, paginate
from objrepo.errors import CorruptObjectError, NotInitialisedError, ObjectNotFoundError, ReadOnlyError, RepositoryError
from objrepo.keys import is_key
from objrepo.offload import BlockingPool, Offload
from objrepo.protocol import BinaryReader
from objrepo.reports import RepositoryInfo
from objrepo.s3.remote_file import RemoteFile, is_remote
from objrepo.streams import DecompressingFile

__all__ = ("ArchiveRepository",)

_REQUESTS_AT_ONCE: Final = 16
_FOLDER: Final = "repo/"
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError)
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


class ArchiveRepository(Backend):
    """Reads the objects of a zip in which each is a member ``repo/KEY``, the key being the SHA-256 of the content.

    That is what an AiiDA archive is (``*.aiida``). Members are stored or deflated. Many may read at the same time; what
    is stored is read from where it is, what is deflated from its beginning on. Everything that writes raises
    :class:`~objrepo.ReadOnlyError`.

    A zip on another machine is read in ranges, as far as they are asked for: its list of members first, and then each
    object. That needs the extra ``s3``, also for a web server.

    :param path: the zip, or its URL, ``https://…`` or ``s3://BUCKET/PATH?OPTION=VALUE`` with the options of
        :func:`~objrepo.open_repository`. It is opened on first use, and its list of members is read once.
    :param offload: where the work is done; worker threads unless given.
    """

    def __init__(self, path: str | os.PathLike[str], offload: Offload | None = None) -> None:
        super().__init__(offload)
        self._path: Path | None = None
        self._remote: RemoteFile | None = None
        if isinstance(path, str) and is_remote(path):
            self._several = several = BlockingPool(_REQUESTS_AT_ONCE)
            self._remote = RemoteFile(path, several)
            self._place = self._remote.name
        else:
            self._path = Path(path).absolute()
            self._place = str(self._path)
        self._reading = threading.Lock()
        self._read: dict[str, zipfile.ZipInfo] | None = None

    def __str__(self) -> str:
        return f"ArchiveRepository at {self._place}"

    @property
    def path(self) -> Path | None:
        """The file; None if it is on another machine."""
        return self._path

    def _initialise(self, **options: Any) -> None:
        raise self._refused()

    def _is_initialised(self) -> bool:
        try:
            self._file().close()
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def _key_format(self) -> str:
        self._members()
        return "sha256"

    def _put(self, reader: BinaryReader) -> str:
        raise self._refused()

    def _has_keys(self, keys: Sequence[str]) -> list[bool]:
        members = self._members()
        return [key in members for key in keys]

    def _open_file(self, key: str) -> tuple[BinaryIO, int]:
        member = self._members().get(key)
        if member is None:
            raise ObjectNotFoundError([key], self)
        if member.compress_type not in _METHODS or member.flag_bits & 0x1:
            raise CorruptObjectError(key, f"its member of {self._place} is encrypted, or compressed in an unknown way")
        file = self._file()
        try:
            start = _start_of(key, file, member)
            if member.compress_type == zipfile.ZIP_STORED:
                return cast("BinaryIO", _Part(file, start, member.file_size)), member.file_size
            file.seek(start)
            inflated = zipfile.ZipExtFile(cast("Any", file), "r", member, close_fileobj=True)
            return cast("BinaryIO", DecompressingFile(key, inflated, _BROKEN, inflated.close)), member.file_size
        except BaseException:
            file.close()
            raise

    def _list(self, cursor: tuple[list[str], int] | None) -> tuple[list[str], Any]:
        return paginate(*cursor) if cursor is not None else paginate(sorted(self._members()))

    def _delete(self, keys: Sequence[str]) -> NoReturn:
        self._require(keys)
        raise self._refused()

    def _info(self, detailed: bool) -> RepositoryInfo:
        members = self._members()
        size = sum(member.file_size for member in members.values()) if detailed else None
        return RepositoryInfo(location=self._place, key_format="sha256", objects=len(members), size=size)

    def _erase(self) -> None:
        raise self._refused()

    def _close(self) -> None:
        self._read = None
        if self._remote is not None:
            self._remote.close()

    def _file(self) -> BinaryIO:
        if self._remote is not None:
            return cast("BinaryIO", self._remote.open())
        assert self._path is not None, "it is either on this machine or on another"
        return open(self._path, "rb", buffering=0)

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        with self._reading:
            if self._read is None:
                try:
                    with self._file() as file, zipfile.ZipFile(file) as archive:
                        members = [member for member in archive.infolist() if member.filename.startswith(_FOLDER)]
                except FileNotFoundError:
                    raise NotInitialisedError(f"there is no archive at {self._place}") from None
                except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
                    raise RepositoryError(f"{self._place} is no zip that can be read: {error}") from error
                named = {member.filename.removeprefix(_FOLDER): member for member in members}
                self._read = {key: member for key, member in named.items() if is_key(key, "sha256")}
            return self._read

    def _refused(self) -> ReadOnlyError:
        return ReadOnlyError(f"{self} can only be read; copy it into another repository first")


def _start_of(key: str, file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin: after a header of its own, whose length only it says."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise CorruptObjectError(key, f"its member should begin at {member.header_offset}, where the archive has ended")
    signature, name, extra = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise CorruptObjectError(key, f"there is no member of the archive at {member.header_offset}")
    return int(member.header_offset + _LOCAL_HEADER.size + name + extra)


class _Part:
    """A part of a file, read as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def read(self, size: int) -> bytes:
        self._file.seek(self._start + self._position)
        data = self._file.read(max(min(size, self._size - self._position), 0))
        self._position += len(data)
        return data

    def close(self) -> None:
        self._file.close()
