"""The errors of objrepo. Each is also the built-in exception that callers already catch."""

from __future__ import annotations

import errno
import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = (
    "AccessDeniedError",
    "CorruptObjectError",
    "NotInitialisedError",
    "ObjectNotFoundError",
    "ReadOnlyError",
    "RepositoryBusyError",
    "RepositoryClosedError",
    "RepositoryError",
    "RepositoryUnavailableError",
    "with_path",
)

_KEYS_SHOWN = 10
_KEY_LENGTH_SHOWN = 80


class RepositoryError(Exception):
    """The base class of all errors that objrepo raises about a repository or an object."""


class ObjectNotFoundError(RepositoryError, FileNotFoundError):
    """One or more keys name no object in the repository.

    Also a :class:`FileNotFoundError`, with ``errno`` set to ``ENOENT``.

    :ivar keys: every missing key, in the order of the request.
    :ivar repository: the repository, as text; None if unknown.
    """

    def __init__(self, keys: Iterable[str], repository: object = None) -> None:
        self.keys: tuple[str, ...] = tuple(keys)
        self.repository: str | None = None if repository is None else str(repository)
        super().__init__(_missing(self.keys, self.repository))
        self.errno: int | None = errno.ENOENT

    def __reduce__(self) -> tuple[type[ObjectNotFoundError], tuple[tuple[str, ...], str | None]]:
        return type(self), (self.keys, self.repository)


class CorruptObjectError(RepositoryError, OSError):
    """The stored bytes of an object are damaged: truncated, not decompressible, or their hash is not the key.

    Also an :class:`OSError`, with ``errno`` set to ``EIO``.

    :ivar key: the key of the damaged object.
    :ivar reason: how it is damaged.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"object {key!r} is damaged: {reason}")
        self.errno: int | None = errno.EIO

    def __reduce__(self) -> tuple[type[CorruptObjectError], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class NotInitialisedError(RepositoryError, RuntimeError):
    """The repository does not exist; the message says how to create it. Also a :class:`RuntimeError`."""


class RepositoryBusyError(RepositoryError, TimeoutError):
    """Another process or thread holds a lock that the operation needs; retry later. Also a :class:`TimeoutError`."""


class AccessDeniedError(RepositoryError, PermissionError):
    """The server refuses the credentials or the operation. Also a :class:`PermissionError`."""


class RepositoryUnavailableError(RepositoryError, ConnectionError):
    """The server did not answer within the timeouts, or answered with an error, at every attempt.

    Also a :class:`ConnectionError`.
    """


class ReadOnlyError(RepositoryError, io.UnsupportedOperation):
    """The repository is read-only, as every archive is. Also an :class:`io.UnsupportedOperation`."""


class RepositoryClosedError(RepositoryError, ValueError):
    """The repository or stream is used outside of its ``async with``. Also a :class:`ValueError`."""


@contextmanager
def with_path(path: object, key: str | None = None) -> Iterator[None]:
    """Add a path, and a key, to an :class:`OSError` without a file name, as operations on an open file raise it.

    :param path: of the file; None if it has none.
    :param key: of the object that is read or written, for the message.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, RepositoryError) or error.filename is not None or error.errno is None:
            raise
        reason = error.strerror if key is None else f"{error.strerror} (object {key})"
        raise OSError(error.errno, reason, None if path is None else str(path)) from error


def _missing(keys: tuple[str, ...], repository: str | None) -> str:
    shown = ", ".join(_short(key) for key in keys[:_KEYS_SHOWN])
    rest = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    place = f" in {repository}" if repository else ""
    noun = "object does" if len(keys) == 1 else "objects do"
    return f"{noun} not exist{place}: {shown}{rest}"


def _short(key: str) -> str:
    shown = ascii(key)
    return shown if len(shown) <= _KEY_LENGTH_SHOWN else f"{shown[:_KEY_LENGTH_SHOWN]}… ({len(key)} characters)"
