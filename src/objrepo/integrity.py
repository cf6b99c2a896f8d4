"""Comparing the bytes of objects with their keys, where these are hashes; everything blocks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

from objrepo.errors import CorruptObjectError, ObjectNotFoundError, RepositoryError
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.reports import DamagedObject, VerifyReport, note_read
from objrepo.streams import OpenedObject, RangeHandle, close_all

__all__ = ("check_digest", "combined", "digest", "verify", "with_verification", "with_verification_of_each")

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
            end = min(position + _READ_BYTES, opened.size)
            hasher.update(opened.handle.read_at(position, end - position))
            note_read(opened.key, end, opened.size)
        return hasher.hexdigest(), opened.size


def check_digest(key: str, key_format: str, content: bytes) -> bytes:
    """Return the whole content of an object if its hash is the key, or if keys are no hashes.

    :raises CorruptObjectError: if it is not.
    """
    if key_format != "uuid4":
        _require_equal(key, getattr(hashlib, key_format)(content).hexdigest())  # half as long as `hashlib.new`
    return content


def with_verification(opened: OpenedObject, key_format: str) -> OpenedObject:
    """Return an opened object that is compared with its key: now if it is small, else when it is read to its end.

    :raises CorruptObjectError: if it is small and its hash is not the key; it then has no file to close.
    """
    if key_format == "uuid4":
        return opened
    if opened.handle is None:
        check_digest(opened.key, key_format, opened.head)
        return opened
    return opened._replace(handle=VerifyingHandle(opened.key, opened.handle, opened.size, key_format, opened.head))


def with_verification_of_each(batch: list[OpenedObject], key_format: str) -> list[OpenedObject]:
    """Return opened objects likewise, up to the first damaged one: the error recurs when that is the first.

    :raises CorruptObjectError: if the first object is damaged; all are then closed.
    """
    position = 0
    try:
        for position, opened in enumerate(batch):
            batch[position] = with_verification(opened, key_format)
    except CorruptObjectError:
        close_all(batch[position:])
        if not position:
            raise
        return batch[:position]
    return batch


class VerifyingHandle(RangeHandle):
    """A handle that hashes the bytes that are read in sequence, and compares the hash with the key at the end.

    After a damaged end, every read raises the same error.

    :param head: the bytes from the start that were read already.
    """

    def __init__(self, key: str, handle: RangeHandle, size: int, key_format: str, head: bytes) -> None:
        self._of = key
        self._inner = handle
        self._end = size
        self._hashed = len(head)
        self._hasher = hashlib.new(key_format, head)
        self._hashing = threading.Lock()  # a read that was abandoned may still run beside the next one

    @property
    def closed(self) -> bool:  # type: ignore[override]
        """Whether the handle was closed."""
        return self._inner.closed

    def read_at(self, position: int, size: int) -> bytes:
        """Return bytes from a position; see :meth:`RangeHandle.read_at`."""
        data = self._inner.read_at(position, size)
        with self._hashing:
            if self._hashed == self._end:
                _require_equal(self._of, self._hasher.hexdigest())
            if position <= self._hashed < position + size:
                self._hasher.update(memoryview(data)[self._hashed - position :])
                self._hashed = position + size
                if self._hashed == self._end:
                    _require_equal(self._of, self._hasher.hexdigest())
        return data

    def descriptor(self) -> None:
        """Return None: bytes that are not read here are not verified."""

    def close(self) -> None:
        """Close the file."""
        self._inner.close()


def _require_equal(key: str, found: str) -> None:
    if found != key:
        raise CorruptObjectError(key, f"its content hashes to {found}")


def verify(
    keys: Iterable[str], key_format: str, open_object: Callable[[str], OpenedObject], quick: bool
) -> VerifyReport:
    """Read objects back, and compare them with their keys where these are hashes.

    An object that cannot be read is reported as damaged; one that was deleted meanwhile is left out.

    :param quick: whether to open the objects only.
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
        except RepositoryError:
            raise
        except OSError as error:
            damaged.append(DamagedObject(key, f"it cannot be read: {error}"))
        else:
            if key_format != "uuid4" and found != key:
                damaged.append(DamagedObject(key, f"its content hashes to {found}"))
        objects += 1
        size += length
    return VerifyReport(objects, size, tuple(damaged))


def combined(reports: Iterable[VerifyReport]) -> VerifyReport:
    """Return the sum of some reports."""
    reports = list(reports)
    damaged = tuple(item for report in reports for item in report.damaged)
    return VerifyReport(sum(report.objects for report in reports), sum(report.size for report in reports), damaged)
