"""Large sources for stores that need the hash of an object before they receive it: they are read twice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final, cast

from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader
from objrepo.sources import as_seekable

__all__ = ("hash_source", "unchanged_chunks")

_HASHED_BYTES: Final = 4 * 1024 * 1024
_SENT_BYTES: Final = 1024 * 1024
_SENT_BYTES_OF_MEMORY: Final = 8 * 1024 * 1024


@contextmanager
def hash_source(head: bytes, reader: BinaryReader) -> Iterator[tuple[Any, BinaryIO]]:
    """Read a source to its end; give the hasher of its SHA-256, and a file of its content: itself, or a temporary one.

    :param head: the bytes that were read already.
    :raises WorkCancelled: if the caller is cancelled.
    """
    file = as_seekable(reader)
    with TemporaryFile() if file is None else nullcontext() as spool:
        hasher = hashlib.sha256()
        content = head
        while content:
            if cancel_requested():
                raise WorkCancelled
            hasher.update(content)
            if spool is not None:
                spool.write(content)
            content = reader.read(_HASHED_BYTES)
        yield hasher, cast("BinaryIO", file or spool)


def unchanged_chunks(sha256: str, file: BinaryIO) -> Iterator[bytes | memoryview]:
    """Yield the content of a file; raise an error at its end if it has changed since it was hashed.

    :raises OSError: if it has changed.
    :raises WorkCancelled: if the caller is cancelled.
    """
    file.seek(0)
    if isinstance(file, io.BytesIO):  # no other thread has it, so it is not hashed again
        content = memoryview(file.getvalue())  # without a copy
        for start in range(0, len(content), _SENT_BYTES_OF_MEMORY):
            if cancel_requested():
                raise WorkCancelled
            yield content[start : start + _SENT_BYTES_OF_MEMORY]
        return
    hasher = hashlib.sha256()
    while chunk := file.read(_SENT_BYTES):
        if cancel_requested():
            raise WorkCancelled
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != sha256:
        raise OSError(f"the content of object {sha256} changed while it was being read: store it again")
