"""Objects as aiofiles files, for programs that use aiofiles."""

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


def open(  # noqa: A001
    repository: AsyncRepository, key: str, check: bool | None = None
) -> AiofilesContextManager[AsyncBufferedReader]:
    """Open an object for reading, as ``aiofiles.open`` opens a file: with ``async with`` or with ``await``.

    The file reads in asyncio's default executor. As with aiofiles, cancelling a read does not stop it.

    :param repository: the repository, inside its ``async with``.
    :param key: the key of the object.
    :param check: whether to compare the content with the key, as for :meth:`~objrepo.AsyncRepository.open`.
    :return: an awaitable context manager for an :class:`aiofiles.threadpool.binary.AsyncBufferedReader`.
    :raises ObjectNotFoundError: if the object does not exist.
    :raises CorruptObjectError: here or while reading, if its stored bytes are damaged.
    :raises RuntimeError: if no asyncio loop is running, as under trio: use ``repo.open`` there.
    """
    return AiofilesContextManager(_open(repository, key, check))


async def _open(repository: AsyncRepository, key: str, check: bool | None) -> AsyncBufferedReader:
    loop = _running_loop()
    if loop is None:
        raise RuntimeError("aiofiles needs a running asyncio loop: under trio, use repo.open(key)")
    context = repository.open(key, check=check)
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
    """A file that closes the stream of its object when it is closed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: ObjectStream, context: AbstractAsyncContextManager[ObjectStream]
    ) -> None:
        super().__init__(partial(_call_in, loop), stream)
        self._context = context

    def close(self) -> None:
        if not self.closed:
            super().close()
            # Leaving the context does not suspend, and this may be the thread of the loop.
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
