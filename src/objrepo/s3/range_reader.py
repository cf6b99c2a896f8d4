"""A file that is somewhere else, read in ranges: what comes next is on its way while what came last is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Self

from objrepo.s3.options import PART_BYTES

__all__ = ("RangeRequestFile",)

_WINDOW_AT_LEAST: Final = 256 * 1024
_WINDOW_AT_MOST: Final = 4 * 1024 * 1024
_WINDOWS_AHEAD: Final = 2


class RangeRequestFile:
    """A seekable binary file whose bytes are fetched when they are asked for, and ahead of that if read straight on.

    At most two windows of 4 MiB are held that were not read yet.

    :param size: its length in bytes.
    :param fetch: a blocking function that returns the bytes from a position up to another.
    :param start: has a function called on another thread.
    """

    def __init__(
        self, size: int, fetch: Callable[[int, int], bytes], start: Callable[..., Future[Any]], name: str
    ) -> None:
        self.name = name
        self._size = size
        self._fetch = fetch
        self._start = start
        self._position = 0
        self._straight_to = 0
        self._chunk = b""
        self._chunk_start = 0
        self._window = _WINDOW_AT_LEAST
        self._coming: deque[tuple[int, int, Future[bytes]]] = deque()

    def seek(self, position: int, whence: int = 0) -> int:
        """Move to another position."""
        self._position = position + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seekable(self) -> bool:
        """Say that positions can be moved to."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; all that are asked for, unless the file ends before."""
        left = max(self._size - self._position, 0)
        wanted = left if size < 0 else min(size, left)
        parts = []
        while wanted:
            part = self._some(wanted)
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
            self._position += len(part)
        self._straight_to = self._position
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is on its way."""
        while self._coming:
            self._coming.popleft()[2].cancel()
        self._chunk = b""

    def _some(self, wanted: int) -> bytes:
        """Return some of the bytes at the position, from what is there or comes next."""
        inside = self._position - self._chunk_start
        if 0 <= inside < len(self._chunk):
            return self._chunk[inside : inside + wanted]
        while self._coming and not self._coming[0][0] <= self._position < self._coming[0][1]:
            self._coming.popleft()[2].cancel()
        if self._coming:
            start, end, future = self._coming.popleft()
            self._look_ahead(self._coming[-1][1] if self._coming else end)
            self._chunk, self._chunk_start = future.result(), start
        else:
            straight_on = self._position == self._straight_to > 0
            self._window = min(self._window * 2, _WINDOW_AT_MOST) if straight_on else _WINDOW_AT_LEAST
            end = min(self._position + max(min(wanted, PART_BYTES), self._window), self._size)
            if straight_on:
                self._look_ahead(end)
            self._chunk, self._chunk_start = self._fetch(self._position, end), self._position
        inside = self._position - self._chunk_start
        return self._chunk[inside : inside + wanted]

    def _look_ahead(self, start: int) -> None:
        """Have what comes next fetched, from a position on."""
        while start < self._size and len(self._coming) < _WINDOWS_AHEAD:
            self._window = min(self._window * 2, _WINDOW_AT_MOST)
            end = min(start + self._window, self._size)
            self._coming.append((start, end, self._start(self._fetch, start, end)))
            start = end
