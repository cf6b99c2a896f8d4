"""The pack files of a container, kept open between calls, and reading from them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from objrepo.disk.layout import Layout
from objrepo.disk.safe_open import FileId, file_id, open_regular, safe_open
from objrepo.fsync import fsync_directory, fsync_file

# Windows does not replace an open file, so no file is kept open there.
_MAX_OPEN: Final = 8 if os.name == "posix" else 0
_MAX_PATHS: Final = 1000
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class PackFiles:
    """The open pack files of one session, a bounded number of them; one thread at a time uses them.

    A repack replaces the file of a pack. So an open file is compared with its name on each use, and a row is valid for
    a file only if it was read while the file had that name: see :meth:`descriptor`.
    """

    def __init__(self, layout: Layout) -> None:
        self._folder = str(layout.packs)
        self._open: dict[int, tuple[int, FileId]] = {}
        self._paths: dict[int, str] = {}

    def descriptor(self, pack_id: int) -> tuple[int, bool]:
        """Return a pack's descriptor, and whether this call opened it.

        A row that was read before this call is valid for a file that was open already: the file had its name before
        and has it now, and a file never gets back a name that it lost. If this call opened the file, read the row
        again: it is valid if it is unchanged.

        :raises FileNotFoundError: if there is no such pack, or not at this moment.
        """
        path = self.path(pack_id)
        identity = file_id(os.stat(path))  # noqa: PTH116  (called for every object)
        known = self._open.get(pack_id)
        if known is not None and known[1] == identity:
            return known[0], False
        self._forget(pack_id)
        descriptor = open_regular(path, _FLAGS)
        self._open[pack_id] = descriptor, file_id(os.fstat(descriptor))
        return descriptor, True

    def opened(self, pack_id: int) -> tuple[int, FileId] | None:
        """Return the descriptor and the identity of a pack that is open and may stay so; see :meth:`descriptor`."""
        return self._open.get(pack_id) if _MAX_OPEN else None

    def fsync(self, pack_id: int) -> None:
        """Make a pack durable that was written elsewhere; do nothing if it was removed."""
        with suppress(FileNotFoundError), safe_open(self.path(pack_id)) as pack:
            fsync_file(pack)
            fsync_directory(Path(self.path(pack_id)).parent)

    def path(self, pack_id: int) -> str:
        """Return the path of a pack; ``-1`` is the one that disk-objectstore's repack writes."""
        path = self._paths.get(pack_id)
        if path is None:
            if len(self._paths) > _MAX_PATHS:
                self._paths.clear()
            path = self._paths[pack_id] = f"{self._folder}{os.sep}{pack_id:d}"
        return path

    def trim(self) -> None:
        """Close the files beyond the number that stays open between calls."""
        while len(self._open) > _MAX_OPEN:
            self._forget(next(iter(self._open)))

    def close(self) -> None:
        for pack_id in list(self._open):
            self._forget(pack_id)

    def __del__(self) -> None:
        """Close every pack, in case that an interrupt kept the session from being closed."""
        self.close()

    def _forget(self, pack_id: int) -> None:
        known = self._open.pop(pack_id, None)
        if known is not None:
            os.close(known[0])


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return ``size`` bytes from a position in a file, or fewer at its end."""
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


# Windows has no `pread`. One thread at a time uses a session, so no other thread seeks in its files meanwhile.
if not hasattr(os, "pread"):
    read_at = _seek_and_read
