"""Reading objects back and comparing them with their keys; everything blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.reports import DamagedObject, VerifyReport
from objrepo.streams import OpenedObject, RangeHandle

__all__ = ("checked", "compared", "digest", "verify")

_READ_BYTES: Final = 1024 * 1024


def digest(opened: OpenedObject, algorithm: str) -> tuple[str, int]:
    """Read an object to its end, and close it.

    :return: its hash and its size.
    :raises CorruptObjectError: if it cannot be read as a whole.
    """
    with closing(opened):
        hasher = hashlib.new(algorithm, opened.head)
        for position in range(len(opened.head), opened.size, _READ_BYTES):
            if cancel_requested():
                raise WorkCancelled
            assert opened.handle is not None, "what is not in the head is behind a handle"
            hasher.update(opened.handle.read_at(position, min(_READ_BYTES, opened.size - position)))
        return hasher.hexdigest(), opened.size


def compared(key: str, key_format: str, content: bytes) -> bytes:
    """Return a whole content, once it is certain that it is the key's; where keys are no hashes, there is no telling.

    :raises CorruptObjectError: if it is not.
    """
    if key_format != "uuid4":
        _compare(key, hashlib.new(key_format, content).hexdigest())
    return content


def checked(opened: OpenedObject, key_format: str) -> OpenedObject:
    """Return a whole object that compares itself with its key: now if it is small, else when it is read to its end.

    :raises CorruptObjectError: if it is small and not what its key says.
    """
    if key_format == "uuid4":
        return opened
    if opened.handle is None:
        compared(opened.key, key_format, opened.head)
        return opened
    return opened._replace(handle=VerifyingHandle(opened.key, opened.handle, opened.size, key_format, opened.head))


class VerifyingHandle(RangeHandle):
    """A handle that hashes what is read straight on, and compares it with the key when it comes to the end.

    :param head: what was read from the start already.
    """

    def __init__(self, key: str, handle: RangeHandle, size: int, key_format: str, head: bytes) -> None:
        self._of = key
        self._inner = handle
        self._end = size
        self._hashed = len(head)
        self._hasher = hashlib.new(key_format, head)

    @property
    def closed(self) -> bool:  # type: ignore[override]
        """Whether the handle was closed."""
        return self._inner.closed

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position; see :meth:`RangeHandle.read_at`."""
        data = self._inner.read_at(position, size)
        if position <= self._hashed < position + size:
            self._hasher.update(memoryview(data)[self._hashed - position :])
            self._hashed = position + size
            if self._hashed == self._end:
                _compare(self._of, self._hasher.hexdigest())
        return data

    def descriptor(self) -> None:
        """Return None: what is not read here cannot be checked."""

    def close(self) -> None:
        """Close the file."""
        self._inner.close()


def _compare(key: str, found: str) -> None:
    if found != key:
        raise CorruptObjectError(key, f"its content hashes to {found}")


def verify(
    keys: Iterable[str], key_format: str, open_object: Callable[[str], OpenedObject], quick: bool
) -> VerifyReport:
    """Read objects back, and compare them with their keys where these are hashes.

    :param quick: whether to open them only.

    :return: what was read and what is damaged; what has been deleted meanwhile is neither.
    """
    objects = size = 0
    damaged = []
    for key in keys:
        length = 0
        try:
            with closing(open_object(key)) as opened:
                length = opened.size
                found = key if quick else digest(opened, "sha256" if key_format == "uuid4" else key_format)[0]
        except ObjectNotFoundError:
            continue
        except CorruptObjectError as error:
            damaged.append(DamagedObject(key, error.reason))
        else:
            if key_format != "uuid4" and found != key:
                damaged.append(DamagedObject(key, f"its content hashes to {found}"))
        objects += 1
        size += length
    return VerifyReport(objects, size, tuple(damaged))
