"""What can go wrong, in words. Each error is also the builtin exception that callers already catch."""

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
    """The base of every error that objrepo raises about a repository or an object."""


class ObjectNotFoundError(RepositoryError, FileNotFoundError):
    """One or more keys name no object in the repository.

    Also a :class:`FileNotFoundError`, with ``errno`` set to ``ENOENT``.

    :ivar keys: every missing key, in the order in which they were asked for.
    """

    def __init__(self, keys: Iterable[str], repository: object = None) -> None:
        self.keys = tuple(keys)
        self.repository = None if repository is None else str(repository)
        super().__init__(_missing(self.keys, self.repository))
        self.errno = errno.ENOENT

    def __reduce__(self) -> tuple[type[ObjectNotFoundError], tuple[tuple[str, ...], str | None]]:
        return type(self), (self.keys, self.repository)


class CorruptObjectError(RepositoryError, OSError):
    """The stored bytes of an object are damaged: too few, not decompressible, or not those of its key.

    Also an :class:`OSError`, with ``errno`` set to ``EIO``.

    :ivar key: the key of the damaged object.
    :ivar reason: what is wrong with it.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"object {key!r} is damaged: {reason}")
        self.errno = errno.EIO

    def __reduce__(self) -> tuple[type[CorruptObjectError], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class NotInitialisedError(RepositoryError, RuntimeError):
    """The repository does not exist yet; the message says how to make it."""


class RepositoryBusyError(RepositoryError, TimeoutError):
    """Somebody else holds the lock that the operation needs; try again later. Also a :class:`TimeoutError`."""


class AccessDeniedError(RepositoryError, PermissionError):
    """Whoever keeps the repository does not let in who asks, or not for this. Also a :class:`PermissionError`."""


class RepositoryUnavailableError(RepositoryError, ConnectionError):
    """Whoever keeps the repository did not answer, or not as it should, for as long as was waited.

    Also a :class:`ConnectionError`.
    """


class ReadOnlyError(RepositoryError, io.UnsupportedOperation):
    """The repository cannot be written to, whoever asks. Also what a file raises that is open for reading only."""


class RepositoryClosedError(RepositoryError, ValueError):
    """The repository or stream is used outside of its ``async with``.

    Also a :class:`ValueError`, as a closed file raises.
    """


@contextmanager
def with_path(path: object, key: str | None = None) -> Iterator[None]:
    """Have errors of the system name the file, and the object, which they do not if they come of an open file.

    :param path: the file's; None if it has none.
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
