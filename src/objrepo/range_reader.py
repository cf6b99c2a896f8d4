"""A remote file that is read in ranges, with read-ahead while it is read sequentially."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from objrepo.offload import BlockingPool

__all__ = ("PART_BYTES", "Buffer", "RangeRequestFile")

PART_BYTES: Final = 8 * 1024 * 1024
"""How many bytes one response carries at the most: larger objects are downloaded in parts."""

Buffer: TypeAlias = Any
"""Bytes in Python's memory or in a package's own: they have a length, and can be hashed and written."""

_MIN_WINDOW: Final = 256 * 1024
_MAX_WINDOW: Final = 4 * 1024 * 1024
_WINDOWS_AHEAD: Final = 2


class RangeRequestFile(io.RawIOBase):
    """A seekable binary file that fetches ranges as they are read, and reads ahead while it is read sequentially.

    It holds at most two windows of 4 MiB that were not read yet.

    :param name: the name of the file, for errors.
    :param size: its length in bytes.
    :param fetch: a blocking function that returns the bytes from a position to another.
    :param pool: fetches the next ranges. The file may be read in a thread of this pool.
    """

    def __init__(self, name: str, size: int, fetch: Callable[[int, int], Buffer], pool: BlockingPool) -> None:
        self.name = name
        self._size = size
        self._fetch: Callable[[int, int], bytes] = lambda start, end: bytes(fetch(start, end))
        self._pool = pool
        self._position = 0
        self._sequential_end = 0
        self._chunk = b""
        self._chunk_start = 0
        self._window = _MIN_WINDOW
        self._ahead: deque[tuple[int, int, Any]] = deque()

    def seek(self, position: int, whence: int = 0) -> int:
        self._position = position + (0, self._position, self._size)[whence]
        return self._position

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, or all up to the end of the file."""
        left = max(self._size - self._position, 0)
        wanted = left if size < 0 else min(size, left)
        parts = []
        while wanted:
            part = self._read_some(wanted)
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
            self._position += len(part)
        self._sequential_end = self._position
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Abandon the ranges that were fetched ahead."""
        super().close()
        while self._ahead:
            self._ahead.popleft()[2].abandon()
        self._chunk = b""

    def _read_some(self, wanted: int) -> bytes:
        """Return at least one of the next bytes, unless the file has ended, from memory or by a request."""
        inside = self._position - self._chunk_start
        if 0 <= inside < len(self._chunk):
            return self._chunk[inside : inside + wanted]
        while self._ahead and not self._ahead[0][0] <= self._position < self._ahead[0][1]:
            self._ahead.popleft()[2].abandon()
        if self._ahead:
            start, end, item = self._ahead.popleft()
            self._read_ahead(self._ahead[-1][1] if self._ahead else end)
            self._chunk, self._chunk_start = item.result(), start
        else:
            sequential = self._position == self._sequential_end > 0
            self._window = min(self._window * 2, _MAX_WINDOW) if sequential else _MIN_WINDOW
            end = min(self._position + max(min(wanted, PART_BYTES), self._window), self._size)
            if sequential:
                self._read_ahead(end)
            self._chunk, self._chunk_start = self._fetch(self._position, end), self._position
        inside = self._position - self._chunk_start
        return self._chunk[inside : inside + wanted]

    def _read_ahead(self, start: int) -> None:
        """Submit requests for the next windows."""
        while start < self._size and len(self._ahead) < _WINDOWS_AHEAD:
            self._window = min(self._window * 2, _MAX_WINDOW)
            end = min(start + self._window, self._size)
            self._ahead.append((start, end, self._pool.submit(self._fetch, start, end)))
            start = end
