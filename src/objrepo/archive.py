"""`ArchiveRepository`: reads the objects in a zip, such as an AiiDA archive."""

from __future__ import annotations

import json
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, cast

from objrepo.backend import Backend, paginate
from objrepo.errors import CorruptObjectError, NotInitialisedError, ObjectNotFoundError, ReadOnlyError, RepositoryError
from objrepo.keys import KeyFormat, is_key
from objrepo.offload import BlockingPool, Offload, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader
from objrepo.reports import RepositoryInfo
from objrepo.repository import Repository
from objrepo.streams import DecompressingFile, OpenedObject, open_range

if TYPE_CHECKING:
    from objrepo.bucket.remote_file import RemoteFile

__all__ = ("ArchiveRepository", "is_remote")

_CONCURRENT_REQUESTS: Final = 16
_FOLDER: Final = "repo/"
_KEY_FORMATS: Final[tuple[KeyFormat, ...]] = ("sha256", "sha1", "uuid4")
_METADATA: Final = "metadata.json"
_MAX_METADATA_BYTES: Final = 1024 * 1024
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError)
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def is_remote(path: str) -> bool:
    """Say whether a path is the URL of a remote file."""
    return re.match(r"(?i)(https?|s3|az|gs)://", path) is not None


class ArchiveRepository(Repository["ArchiveBackend"]):
    """Reads the objects of a zip in which each is a member ``repo/KEY``: an AiiDA archive, or a zip of ``export``.

    Members are stored or deflated. Several tasks may read at the same time; a range of a deflated member is read by
    decompressing it from its start. Methods that write raise :class:`~objrepo.ReadOnlyError`. A zip without such
    members raises :class:`~objrepo.RepositoryError` on first use, unless it is an AiiDA archive or has no members at
    all, as the export of an empty repository.

    A remote zip is read by range requests: its list of members first, then each object. That needs the extra of its
    store, or ``s3`` for a web server.

    :param path: the zip, or its URL, ``https://…``, ``s3://BUCKET/PATH?OPTION=VALUE``, or one of ``az:`` or ``gs:``,
        with the options of :func:`~objrepo.open_repository`. It is opened on first use, and its list of members is read
        once.
    :param offload: where the blocking methods run; worker threads unless given.
    :param check: whether reads of whole objects compare the content with the key, unless called with ``check=False``.
    """

    def __init__(self, path: str | os.PathLike[str], offload: Offload | None = None, *, check: bool = False) -> None:
        super().__init__(ArchiveBackend(path), offload, check=check)

    @property
    def path(self) -> Path | None:
        """The path of the file, None if it is remote."""
        return self.backend.path


class ArchiveBackend(Backend):
    """See :class:`ArchiveRepository`.

    :ivar path: the path of the file, None if it is remote.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path | None = None
        self._remote: RemoteFile | None = None
        if isinstance(path, str) and is_remote(path):
            from objrepo.bucket.remote_file import RemoteFile

            self._url = path
            self.pool: BlockingPool | None = BlockingPool(_CONCURRENT_REQUESTS)
            self._remote = RemoteFile(path, self.pool)
        else:
            self.path = Path(path).absolute()
        self._reading = threading.Lock()
        self._format: KeyFormat = "sha256"
        self._read: dict[str, zipfile.ZipInfo] | None = None

    def __reduce__(self) -> tuple[type[ArchiveBackend], tuple[str | Path]]:
        return type(self), (self.path or self._url,)

    @property
    def location(self) -> str:
        return str(self.path) if self._remote is None else self._remote.name

    def initialise(self, **options: Any) -> None:
        raise self._refused()

    def is_initialised(self) -> bool:
        try:
            self._members()
        except NotInitialisedError:
            return False
        return True

    def key_format(self) -> str:
        self._members()
        return self._format

    def put(self, reader: BinaryReader) -> str:
        raise self._refused()

    def has(self, keys: Sequence[object]) -> list[bool]:
        members = self._members()
        return [isinstance(key, str) and key in members for key in keys]

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        member = self._members().get(key)
        if member is None:
            raise ObjectNotFoundError([key], self)
        if member.compress_type not in _METHODS or member.flag_bits & 0x1:
            raise CorruptObjectError(key, f"its member of {self.location} is encrypted or has an unknown compression")
        file = self._file()
        try:
            start = _start_of(key, file, member)
            if member.compress_type == zipfile.ZIP_STORED:
                return open_range(key, file, member.file_size, offset, length, start=start)
            file.seek(start)
            inflated = zipfile.ZipExtFile(cast("Any", file), "r", member, close_fileobj=True)
            whole = cast("BinaryIO", DecompressingFile(key, inflated, _BROKEN, inflated.close))
            return open_range(key, whole, member.file_size, offset, length)
        except BaseException:
            file.close()
            raise

    def list_keys(self, cursor: tuple[list[str], int] | None) -> tuple[list[str], Any]:
        return paginate(*cursor) if cursor is not None else paginate(sorted(self._members()))

    def delete(self, keys: Sequence[str]) -> NoReturn:
        self.require(keys)
        raise self._refused()

    def info(self, detailed: bool) -> RepositoryInfo:
        members = self._members()
        size = sum(member.file_size for member in members.values()) if detailed else None
        return RepositoryInfo(location=self.location, key_format=self._format, objects=len(members), size=size)

    def erase(self) -> None:
        raise self._refused()

    def close(self) -> None:
        super().close()
        self._read = None
        if self._remote is not None:
            self._remote.close()

    def _file(self) -> BinaryIO:
        if self._remote is not None:
            return cast("BinaryIO", self._remote.open())
        assert self.path is not None, "a file is either local or remote"
        return open(self.path, "rb", buffering=0)

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        with self._reading:
            if cancel_requested():  # while another thread was reading
                raise WorkCancelled
            if self._read is None:
                try:
                    with self._file() as file, zipfile.ZipFile(file) as archive:
                        self._format, self._read = self._objects(archive)
                except (FileNotFoundError, IsADirectoryError):
                    raise NotInitialisedError(f"there is no archive at {self.location}") from None
                except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
                    raise RepositoryError(f"{self.location} is not a readable zip: {error}") from error
            return self._read

    def _objects(self, archive: zipfile.ZipFile) -> tuple[KeyFormat, dict[str, zipfile.ZipInfo]]:
        """Return the format of the keys, and the member of each object."""
        names = archive.namelist()
        in_folder = [member for member in archive.infolist() if member.filename.startswith(_FOLDER)]
        named = {member.filename.removeprefix(_FOLDER): member for member in in_folder}
        for key_format in _KEY_FORMATS:
            if found := {key: member for key, member in named.items() if is_key(key, key_format)}:
                return key_format, found
        version = _aiida_version(archive) if _METADATA in names else None
        if version is None and any(name != _FOLDER for name in names):
            raise RepositoryError(
                f"{self.location} is a zip without objects: none of its {len(names)} members is named repo/KEY, "
                f"the first is {names[0]!r}; use a zip of `export` or an AiiDA archive"
            )
        if version is not None and version.startswith("0."):
            raise RepositoryError(
                f"{self.location} is an AiiDA archive of version {version}, which has no objects: convert it by "
                "`verdi archive migrate`, then open the new file"
            )
        return "sha256", {}

    def _refused(self) -> ReadOnlyError:
        return ReadOnlyError(f"the archive {self} is read-only: copy it into another repository first")


def _start_of(key: str, file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin: after its own header, whose length is in this header only."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise CorruptObjectError(
            key, f"its member should begin at {member.header_offset}, after the end of the archive"
        )
    signature, name, extra = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise CorruptObjectError(key, f"there is no member of the archive at {member.header_offset}")
    return int(member.header_offset + _LOCAL_HEADER.size + name + extra)


def _aiida_version(archive: zipfile.ZipFile) -> str | None:
    """Return the format version of an AiiDA archive, such as ``main_0001`` or ``0.10``, None if it has none."""
    with suppress(*_BROKEN, NotImplementedError, RuntimeError, ValueError), archive.open(_METADATA) as file:
        metadata = json.loads(file.read(_MAX_METADATA_BYTES))
        if isinstance(metadata, dict) and isinstance(version := metadata.get("export_version"), str):
            return version
    return None
