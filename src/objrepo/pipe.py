"""A bounded pipe of bytes from a task to a worker thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from objrepo.offload import WorkCancelled, call_soon

__all__ = ("PIPE_BYTES", "Pipe")

PIPE_BYTES: Final = 1024 * 1024
"""How many bytes may wait for the worker; a source that has no more is passed on as a whole."""


class Pipe:
    """A :class:`~objrepo.protocol.BinaryReader` for a worker thread, whose bytes a task sends.

    :param chunks: what is in it from the start.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = deque(memoryview(chunk) for chunk in chunks)
        self._size = sum(map(len, self._chunks))
        self._changed = threading.Condition()
        self._finished = self._broken = False
        self._token = anyio.lowlevel.current_token()
        self._space: anyio.Event | None = None

    async def send(self, chunk: bytes) -> bool:
        """Hand a chunk to the worker, once there is space for it; return False if the worker reads no more."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            with self._changed:
                if self._broken:
                    return False
                if self._size < PIPE_BYTES:
                    self._chunks.append(memoryview(chunk))
                    self._size += len(chunk)
                    self._changed.notify()
                    return True
                if self._space is None:  # several tasks may wait for space
                    self._space = anyio.Event()
                space = self._space
            await space.wait()

    def finish(self) -> None:
        """Mark the end of the bytes."""
        with self._changed:
            self._finished = True
            self._changed.notify()

    def break_off(self) -> None:
        """Have the worker's next read fail, unless the end was marked, and sending end; in the task's thread."""
        with self._changed:
            self._broken = True
            self._changed.notify()
            space, self._space = self._space, None
        if space is not None:
            space.set()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, blocking, on the worker; a negative size returns what has arrived."""
        with self._changed:
            while not self._chunks and not self._finished and not self._broken:
                self._changed.wait()
            if self._broken and not self._finished:
                raise WorkCancelled
            data = b"".join(self._take(self._size if size < 0 else size))
            self._size -= len(data)
            space = None
            if self._size <= PIPE_BYTES // 2:
                space, self._space = self._space, None
        if space is not None:
            call_soon(self._token, space.set)
        return data

    def _take(self, size: int) -> Iterator[memoryview]:
        while size > 0 and self._chunks:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            size -= len(chunk)
            yield chunk
