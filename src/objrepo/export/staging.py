"""Where an export is written until it is whole: a file of another name, which goes, or is gone on with. All blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from objrepo.errors import RepositoryBusyError
from objrepo.export.writers import ATTRIBUTES, FOLDER, Archive, Tar, Zip, tar_mode
from objrepo.keys import is_key
from objrepo.offload import WorkCancelled, cancel_requested

__all__ = ("StagedFile", "new_archive", "updated_archive")

_PIECE: Final = 1024 * 1024
_LOCAL_HEADER: Final = struct.Struct("<4s2xHH4xIIIHH")
_EXTRA: Final = struct.Struct("<4xQQ")
_IN_EXTRA: Final = 0xFFFFFFFF
_NOT_WHOLE: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class StagedFile:
    """An archive under way.

    :ivar archive: what objects are added to.
    :ivar path: the file that it is in until it has its name.
    :ivar publish: gives it that, once it is finished.
    """

    def __init__(self, archive: Archive, file: BinaryIO, path: Path, publish: Callable[[], object]) -> None:
        self.archive = archive
        self.path = path
        self.publish = publish
        self._file = file

    def finish(self) -> None:
        """End the archive, see to it that it is on the disk, and close the file: not every system renames open ones."""
        self.archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.chmod(0o666 & ~_umask())  # temporary files are made for their owner only


@contextmanager
def new_archive(path: Path, compress: bool) -> Iterator[StagedFile]:
    """Make an archive that is not there yet; if it was not published when this is left, nothing of it stays."""
    _require_free(path)
    mode = tar_mode(path.name)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as temporary:
        file = cast("BinaryIO", temporary)
        partial = Path(temporary.name)
        archive = Zip(file, compress) if mode is None else Tar(file, mode)
        try:
            yield StagedFile(archive, file, partial, lambda: _name(partial, path))
        finally:
            try:
                archive.close()
            finally:
                file.close()
                partial.unlink(missing_ok=True)


@contextmanager
def updated_archive(path: Path, compress: bool) -> Iterator[StagedFile]:
    """Make a zip that has what is in ``path`` already, or go on with one that was interrupted.

    What is written stays, under another name, until it is published; then it takes the place of the other at once. The
    empty file whose lock is held meanwhile stays: whoever removed it could take away somebody else's.

    :raises RepositoryBusyError: if somebody else is at it.
    """
    import filelock

    partial = path.with_name(f".{path.name}.partial")
    try:
        # Whichever worker is free when it is left gives the lock back, so it is of no thread.
        with filelock.FileLock(f"{partial}.lock", timeout=0, thread_local=False), _open_to_go_on(partial) as file:
            members, end = _begun(file, path)
            file.truncate(end)
            file.seek(end)
            archive = Zip(file, compress, members)
            try:
                yield StagedFile(archive, file, partial, lambda: partial.replace(path))
            finally:
                archive.close()
    except filelock.Timeout:
        raise RepositoryBusyError(
            f"{path} is being written by somebody else (lock {partial}.lock); try again later"
        ) from None


def _open_to_go_on(path: Path) -> BinaryIO:
    """Open a file for reading and writing from its start on, whether it is there or not."""
    return open(path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))


def _begun(file: BinaryIO, path: Path) -> tuple[list[zipfile.ZipInfo], int]:
    """Return what is whole of an interrupted archive, and where that ends; if it is less, begin with a copy."""
    there: list[zipfile.ZipInfo] = []
    end = 0
    with suppress(FileNotFoundError), zipfile.ZipFile(path) as old:
        there, end = old.infolist(), cast("Any", old).start_dir
    begun = _whole_members(file)
    if {member.filename for member in there} <= {member.filename for member in begun[0]}:
        return begun
    file.seek(0)
    file.truncate()
    with open(path, "rb") as old_file:
        while piece := old_file.read(_PIECE):
            if cancel_requested():
                raise WorkCancelled
            file.write(piece)
    return there, end


def _whole_members(file: BinaryIO) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the members, one after the other, up to the first that is not whole, and where the last of them ends."""
    members: list[zipfile.ZipInfo] = []
    end = 0
    while (member := _member_at(file, end)) is not None:
        start = file.tell()
        if not _is_whole(file, member):
            break
        members.append(member)
        end = start + member.compress_size
    return members, end


def _is_whole(file: BinaryIO, member: zipfile.ZipInfo) -> bool:
    """Read a member, and compare it with its checksum and with its key."""
    key = member.filename.removeprefix(FOLDER)
    hasher = next((hashlib.new(name) for name in ("sha256", "sha1") if is_key(key, name)), None)
    if hasher is None:
        return False
    size = 0
    try:
        with zipfile.ZipExtFile(cast("Any", file), "r", member) as content:
            while piece := content.read(_PIECE):
                if cancel_requested():
                    raise WorkCancelled
                hasher.update(piece)
                size += len(piece)
    except _NOT_WHOLE:
        return False
    return size == member.file_size and hasher.hexdigest() == key


def _member_at(file: BinaryIO, position: int) -> zipfile.ZipInfo | None:
    """Return the member that begins at a position, and leave the file where its bytes do; None if there is none.

    It is read from its own header (section 4.3.7 of the APPNOTE of PKWARE), as the list at the end is not there yet.
    """
    file.seek(position)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        return None
    signature, flags, method, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name, extra = file.read(name_length), file.read(extra_length)
    if signature != b"PK\3\4" or flags or not name:
        return None
    if _IN_EXTRA in (packed, size):
        if len(extra) < _EXTRA.size:
            return None
        size, packed = _EXTRA.unpack_from(extra)
    member = zipfile.ZipInfo(name.decode("ascii", "replace"))
    member.header_offset, member.compress_type = position, method
    member.CRC, member.compress_size, member.file_size = crc, packed, size
    member.external_attr = ATTRIBUTES
    return member


def _name(partial: Path, path: Path) -> None:
    """Give a file its name, unless another has come meanwhile."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):  # a file system without links
        _require_free(path)
        partial.replace(path)


def _require_free(path: Path) -> None:
    if path.exists():
        raise FileExistsError(errno.EEXIST, "there is a file of that name already", str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
