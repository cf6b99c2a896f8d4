"""The pack files of a container, kept open between calls; and bytes out of them."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from objrepo.disk.index import Row
from objrepo.disk.layout import Layout
from objrepo.disk.safe_open import NO_DETOUR, refused, safe_open
from objrepo.errors import CorruptObjectError
from objrepo.fsync import fsync_directory, fsync_file

__all__ = ("FileId", "FileSignature", "Packs", "inflated", "read_at", "short_of", "signature_of")

FileId = tuple[int, int]
"""Which file it is that has a name: device and inode. It is another one's as soon as nobody has the file open."""

FileSignature = tuple[int, int, int, int]
"""The state of a file: device, inode, size, and when it was last changed, in nanoseconds."""

# A file that is open cannot be replaced on Windows, so there none is kept open.
_KEPT: Final = 8 if os.name == "posix" else 0
_PATHS_KEPT: Final = 1000
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | NO_DETOUR


class Packs:
    """The open pack files of one lease, a bounded number of them; one thread at a time uses them.

    A repack puts another file under the name of a pack. So a file is compared with its name each time, and rows
    are good for a file only if they were read while it had its name: see :meth:`descriptor`.
    """

    def __init__(self, layout: Layout) -> None:
        self._folder = str(layout.packs)
        self._open: dict[int, tuple[int, FileId]] = {}
        self._paths: dict[int, str] = {}

    def descriptor(self, pack_id: int) -> tuple[int, FileId, bool]:
        """Return a pack's descriptor, which file it is, and whether that was opened only now.

        A row that was read before this call is good for a file that was open already: at the moment the row was
        read the file had the name, as it had it before and has it now, and no name ever goes back to a file that
        has lost it. If the file was opened only now, read the row again: it is good if it is still the same.

        :raises FileNotFoundError: if there is no such pack, or not at this moment.
        """
        path = self.path(pack_id)
        status = os.stat(path)  # noqa: PTH116  (on the way of every call)
        identity = status.st_dev, status.st_ino
        known = self._open.get(pack_id)
        if known is not None and known[1] == identity:
            return known[0], identity, False
        self._forget(pack_id)
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise refused(path) from None
            raise
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise refused(path)
        identity = status.st_dev, status.st_ino
        self._open[pack_id] = descriptor, identity
        return descriptor, identity, True

    def identity(self, pack_id: int) -> FileId | None:
        """Return which file has the name of a pack, None if none has it."""
        try:
            status = os.stat(self.path(pack_id))  # noqa: PTH116
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def stamp(self, pack_id: int) -> FileSignature | None:
        """Return the state of the file that has the name of a pack, None if none has it."""
        try:
            return signature_of(os.stat(self.path(pack_id)))  # noqa: PTH116
        except FileNotFoundError:
            return None

    def flush(self, pack_id: int) -> None:
        """Have the disk store a pack that somebody else has written; one that is not there any more is no error."""
        with suppress(FileNotFoundError), safe_open(self.path(pack_id)) as pack:
            fsync_file(pack)
            fsync_directory(Path(self.path(pack_id)).parent)

    def path(self, pack_id: int) -> str:
        """Return the path of a pack; ``-1`` is the one that a repack is writing."""
        path = self._paths.get(pack_id)
        if path is None:
            if len(self._paths) > _PATHS_KEPT:
                self._paths.clear()
            path = self._paths[pack_id] = f"{self._folder}{os.sep}{pack_id:d}"
        return path

    def trim(self) -> None:
        """Close what is open beyond what may stay open until the next call."""
        while len(self._open) > _KEPT:
            self._forget(next(iter(self._open)))

    def close(self) -> None:
        """Close every pack."""
        for pack_id in list(self._open):
            self._forget(pack_id)

    def _forget(self, pack_id: int) -> None:
        known = self._open.pop(pack_id, None)
        if known is not None:
            os.close(known[0])


def signature_of(status: os.stat_result) -> FileSignature:
    """Return the state of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return bytes from a position in a file, fewer at its end."""
    data = os.pread(descriptor, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]  # no system reads more than 2 GiB at once
    missing = size - len(data)
    while missing and (data := os.pread(descriptor, missing, offset + size - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _seek_and_read(descriptor: int, size: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    parts = []
    while size and (data := os.read(descriptor, size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


# Windows has no `pread`. A lease is one thread's at a time, so nobody else moves its descriptors meanwhile.
if not hasattr(os, "pread"):
    read_at = _seek_and_read


def short_of(row: Row, path: str, present: int) -> CorruptObjectError:
    """Return the error for a pack that ends before an object does."""
    return CorruptObjectError(
        row.key, f"it should end at {row.offset + row.length} in pack {path}, which has {present} bytes"
    )


def inflated(row: Row, data: bytes) -> bytes:
    """Decompress a whole object, to no more bytes than its row promises.

    :raises CorruptObjectError: if it is not compressed as it should be, or of another size.
    """
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(data, row.size + 1)
    except zlib.error as error:
        raise CorruptObjectError(row.key, f"it cannot be decompressed: {error}") from error
    if len(content) != row.size or not decompressor.eof:
        raise CorruptObjectError(row.key, f"it should have {row.size} bytes when decompressed, and has others")
    return content
