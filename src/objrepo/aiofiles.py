"""Objects as files of aiofiles, for programs that are written for these."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiofiles.base import AiofilesContextManager
from aiofiles.threadpool import wrap

from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.sync.files import WHOLE_BYTES, ObjectFile, whole_reader
from objrepo.sync.runner import InPlace

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedReader

__all__ = ("open",)

T = TypeVar("T")


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
    loop = _running_loop()
    if loop is None:
        raise RuntimeError("aiofiles needs asyncio: elsewhere, use repo.open, which anyio's users expect")
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
        super().__init__(partial(_call_in, loop), stream)
        self._context = context

    def close(self) -> None:
        if not self.closed:
            super().close()
            # Leaving it does not wait, so it needs no loop, which may be the one whose thread this is.
            InPlace().call(self._context.__aexit__, None, None, None)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call a coroutine function in a loop and wait for it; on the loop's own thread, it must not suspend."""
    if _running_loop() is loop:
        return InPlace().call(function, *args)
    coroutine = cast("Coroutine[Any, Any, T]", function(*args))
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
