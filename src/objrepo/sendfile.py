"""Sending an object into a stream of bytes: by the system from the file itself where it can, else piece by piece."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import anyio
from anyio.abc import ByteSendStream, SocketAttribute, SocketStream

from objrepo.offload import Offload
from objrepo.protocol import ObjectStream
from objrepo.streams import BackendStream

__all__ = ("send_stream",)

_PIECE: Final = 256 * 1024
_AT_ONCE: Final = 16 * 1024 * 1024
_CANNOT: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What `sendfile` says where it is there but not for this kind of file or socket."""


async def send_stream(stream: ObjectStream, sink: ByteSendStream, offload: Offload) -> int:
    """Send what is left of a stream; return how many bytes that was.

    A slow receiver takes no worker thread while it is waited for.

    :raises anyio.BrokenResourceError: if the receiver is gone.
    """
    size = await stream.seek(0, os.SEEK_END)
    sent = await stream.seek(0)
    if size > _PIECE and isinstance(stream, BackendStream) and isinstance(sink, SocketStream):
        sent += await _send_piece(stream, sink)
        sent += await _send_file(stream, sink, offload, sent, size)
        await stream.seek(sent)
    while sent < size:
        sent += await _send_piece(stream, sink)
    return size


async def _send_piece(stream: ObjectStream, sink: ByteSendStream) -> int:
    piece = await stream.read(_PIECE)
    await sink.send(piece)
    return len(piece)


async def _send_file(stream: BackendStream, sink: SocketStream, offload: Offload, start: int, end: int) -> int:
    """Have the system send the bytes from `start` to `end`; return how many it sent, 0 where it cannot."""
    if not hasattr(os, "sendfile"):
        return 0
    source = await offload.run(stream.descriptor, abandon_on_cancel=True, discard=_close)
    if source is None:
        return 0
    file, offset = source
    try:
        # A descriptor of its own, as asyncio does not let one wait for that of a transport.
        with socket.socket(fileno=os.dup(sink.extra(SocketAttribute.raw_socket).fileno())) as target:
            position = start
            while position < end:
                sent = await offload.run(_send_some, target, file, offset + position, min(end - position, _AT_ONCE))
                if sent is None:
                    break
                position += sent
                if not sent:
                    await anyio.wait_writable(target)
            return position - start
    finally:
        os.close(file)


def _send_some(target: socket.socket, file: int, position: int, size: int) -> int | None:
    """Send as much as the socket takes now; None where this does not work at all. Blocks for the disk only."""
    try:
        sent = os.sendfile(target.fileno(), file, position, size)
    except BlockingIOError:
        return 0
    except (BrokenPipeError, ConnectionError) as error:
        raise anyio.BrokenResourceError from error
    except OSError as error:
        if error.errno in _CANNOT:
            return None
        raise
    return sent or None  # the file has ended too soon, which reading it says in words


def _close(source: tuple[int, int] | None) -> None:
    if source is not None:
        os.close(source[0])
