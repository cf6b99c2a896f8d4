"""Reading objects back and comparing them with their keys; everything blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

from objrepo.errors import CorruptObjectError, ObjectNotFoundError
from objrepo.offload import OperationAbandoned, is_abandoned
from objrepo.reports import DamagedObject, VerifyReport
from objrepo.stream import OpenedObject

__all__ = ("digest", "verify")

_READ_BYTES: Final = 1024 * 1024


def digest(opened: OpenedObject, algorithm: str) -> tuple[str, int]:
    """Read an object to its end, and close it.

    :return: its hash and its size.
    :raises CorruptObjectError: if it cannot be read as a whole.
    """
    with closing(opened):
        hasher = hashlib.new(algorithm, opened.head)
        for position in range(len(opened.head), opened.size, _READ_BYTES):
            if is_abandoned():
                raise OperationAbandoned
            assert opened.handle is not None, "what is not in the head is behind a handle"
            hasher.update(opened.handle.read_at(position, min(_READ_BYTES, opened.size - position)))
        return hasher.hexdigest(), opened.size


def verify(keys: Iterable[str], key_format: str, open_object: Callable[[str], OpenedObject]) -> VerifyReport:
    """Read objects back, and compare them with their keys where these are hashes.

    :return: what was read and what is damaged; what has been deleted meanwhile is neither.
    """
    objects = size = 0
    damaged = []
    for key in keys:
        length = 0
        try:
            found, length = digest(open_object(key), "sha256" if key_format == "uuid4" else key_format)
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
