"""The file that an archive is written to: a new one, or one that an interrupted export continues. Everything blocks."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from objrepo.atomic_file import AtomicFile
from objrepo.errors import RepositoryBusyError
from objrepo.exporting.writers import ATTRIBUTES, FOLDER, ArchiveWriter, TarWriter, ZipWriter, tar_mode
from objrepo.keys import is_key
from objrepo.offload import WorkCancelled, cancel_requested

_CHUNK_BYTES: Final = 1024 * 1024
_LOCAL_HEADER: Final = struct.Struct("<4s2xHH4xIIIHH")
_ZIP64_SIZES: Final = struct.Struct("<4xQQ")
_SIZE_IN_ZIP64: Final = 0xFFFFFFFF
_INVALID_MEMBER: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@contextmanager
def new_archive(path: Path, compress: bool) -> Iterator[tuple[ArchiveWriter, AtomicFile]]:
    """Create an archive, and return its writer and its file. Unless it is published, nothing of it remains.

    :raises FileExistsError: if there is a file of that name.
    """
    mode = tar_mode(path.name)
    with AtomicFile(path) as file:
        writer = ZipWriter(file.file, compress) if mode is None else TarWriter(file.file, mode)
        with _closing(writer):
            yield writer, file


@contextmanager
def updated_archive(path: Path, compress: bool) -> Iterator[tuple[ArchiveWriter, AtomicFile]]:
    """Continue a zip, which an interrupted export left or is a copy of ``path``, to replace ``path`` when published.

    Return its writer and its file. Unpublished, the file is kept for the next call. The empty lock file always remains:
    to remove it could remove the lock of another process.

    :raises RepositoryBusyError: if another process or task is updating the archive.
    """
    import filelock

    partial = path.with_name(f".{path.name}.partial")
    try:
        # Any worker thread may release the lock.
        with (
            filelock.FileLock(f"{partial}.lock", timeout=0, thread_local=False),
            AtomicFile(path, replace=True, resumable=partial) as file,
        ):
            members, end = _continue(file.file, path)
            file.file.truncate(end)
            file.file.seek(end)
            writer = ZipWriter(file.file, compress, members)
            with _closing(writer):
                yield writer, file
    except filelock.Timeout:
        raise RepositoryBusyError(
            f"another process or task is updating {path} (lock {partial}.lock): try again when it has ended"
        ) from None


@contextmanager
def _closing(writer: ArchiveWriter) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):  # of an unfinished archive: it follows the error that is being raised
            writer.close()


def _continue(file: BinaryIO, path: Path) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the valid members of an interrupted export and their end; if it lacks some of ``path``, copy that."""
    old_members: list[zipfile.ZipInfo] = []
    old_end = 0
    with suppress(FileNotFoundError), zipfile.ZipFile(path) as old:
        old_members, old_end = old.infolist(), cast("Any", old).start_dir
    members, end = _valid_members(file)
    if {member.filename for member in old_members} <= {member.filename for member in members}:
        return members, end
    file.seek(0)
    file.truncate()
    with open(path, "rb") as old_file:
        while chunk := old_file.read(_CHUNK_BYTES):
            if cancel_requested():
                raise WorkCancelled
            file.write(chunk)
    return old_members, old_end


def _valid_members(file: BinaryIO) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the members before the first that is incomplete or damaged, and where the last of them ends."""
    members: list[zipfile.ZipInfo] = []
    end = 0
    while (member := _member_at(file, end)) is not None:
        start = file.tell()
        if not _is_valid(file, member):
            break
        members.append(member)
        end = start + member.compress_size
    return members, end


def _is_valid(file: BinaryIO, member: zipfile.ZipInfo) -> bool:
    """Compare the content of a member with its checksum and its key."""
    key = member.filename.removeprefix(FOLDER)
    hasher = next((hashlib.new(name) for name in ("sha256", "sha1") if is_key(key, name)), None)
    if hasher is None:
        return False
    size = 0
    try:
        with zipfile.ZipExtFile(cast("Any", file), "r", member) as content:
            while chunk := content.read(_CHUNK_BYTES):
                if cancel_requested():
                    raise WorkCancelled
                hasher.update(chunk)
                size += len(chunk)
    except _INVALID_MEMBER:
        return False
    return size == member.file_size and hasher.hexdigest() == key


def _member_at(file: BinaryIO, position: int) -> zipfile.ZipInfo | None:
    """Return the member at a position, with the file at the start of its content; None if there is none.

    Its local header is parsed (PKWARE's APPNOTE, section 4.3.7): the central directory at the end is not written yet.
    """
    file.seek(position)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        return None
    signature, flags, method, crc, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name, extra = file.read(name_length), file.read(extra_length)
    if signature != b"PK\3\4" or flags or not name:
        return None
    if _SIZE_IN_ZIP64 in (compressed, size):
        if len(extra) < _ZIP64_SIZES.size:
            return None
        size, compressed = _ZIP64_SIZES.unpack_from(extra)
    member = zipfile.ZipInfo(name.decode("ascii", "replace"))
    member.header_offset, member.compress_type = position, method
    member.CRC, member.compress_size, member.file_size = crc, compressed, size
    member.external_attr = ATTRIBUTES
    return member
