"""Objects as files of aiofiles, for programs that are written for these."""

from __future__ import annotations

import asyncio
import io
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, cast

from aiofiles.base import AiofilesContextManager
from aiofiles.threadpool import wrap

from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.sync.driver import InPlace, ThroughLoop
from objrepo.sync.reader import WHOLE_BYTES, ObjectFile, whole_reader

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

__all__ = ("open",)


def open(repository: AsyncRepository, key: str) -> AiofilesContextManager[AsyncBufferedReader]:  # noqa: A001
    """Give a genuine aiofiles file for reading an object.

    It is used as that of ``aiofiles.open``: ``async with objrepo.aiofiles.open(repo, key) as file``, or with ``await``.
    It is an :class:`aiofiles.threadpool.binary.AsyncBufferedReader`, and reads in asyncio's default executor, which has
    the repository's workers fetch the bytes. Cancelling a read leaves the file as aiofiles leaves it: the read goes on.

    :raises ObjectNotFoundError: if there is no such object.
    :raises RuntimeError: without a running asyncio loop, as under trio: use ``repo.open`` there.
    """
    return AiofilesContextManager(_open(repository, key))


async def _open(repository: AsyncRepository, key: str) -> AsyncBufferedReader:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("aiofiles needs asyncio: elsewhere, use repo.open, which anyio's users expect") from None
    context = repository.open(key)
    stream = await context.__aenter__()
    if stream.size <= WHOLE_BYTES:
        try:
            file = whole_reader(key, await stream.read())
        finally:
            await context.__aexit__(None, None, None)
    else:
        file = io.BufferedReader(_ClosingFile(loop, stream, context), WHOLE_BYTES)
    return cast("AsyncBufferedReader", wrap(file))


class _ClosingFile(ObjectFile):
    """An object's file whose end is the end of the object's stream."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: ObjectStream, context: AbstractAsyncContextManager[ObjectStream]
    ) -> None:
        super().__init__(ThroughLoop(loop), stream)
        self._context = context

    def close(self) -> None:
        if not self.closed:
            super().close()
            # Leaving it does not wait, so it needs no loop, which may be the one whose thread this is.
            InPlace().call(self._context.__aexit__, None, None, None)
