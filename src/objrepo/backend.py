"""What a new backend starts from: a few functions about well-formed keys and seekable files make a whole repository."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import BinaryIO

from objrepo.errors import ObjectNotFoundError
from objrepo.keys import is_key, valid_keys
from objrepo.repository import LIST_PAGE_SIZE, Repository
from objrepo.streams import OpenedObject, open_range

__all__ = ("Backend", "paginate")


class Backend(Repository):
    """A repository of objects that can be opened as files. Keys that reach its functions are well-formed.

    The rules are those of :class:`~objrepo.backend_functions.BlockingFunctions`, which are to be filled in too.
    """

    @abstractmethod
    def _has_keys(self, keys: Sequence[str]) -> list[bool]: ...

    @abstractmethod
    def _open_file(self, key: str) -> tuple[BinaryIO, int]:
        """Return a seekable file that holds the object, and the object's size.

        :raises ObjectNotFoundError: if it is not there.
        """

    def _has(self, keys: Sequence[object]) -> list[bool]:
        possible = list(dict.fromkeys(valid_keys(keys, self._key_format())))
        present = {key for key, found in zip(possible, self._has_keys(possible), strict=True) if found}
        return [isinstance(key, str) and key in present for key in keys]

    def _open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        if not is_key(key, self._key_format()):
            raise ObjectNotFoundError([key], self)
        file, size = self._open_file(key)
        return self._kept(open_range(key, file, size, offset, length))


def paginate(keys: list[str], start: int = 0) -> tuple[list[str], tuple[list[str], int] | None]:
    """Return one page of a listing that is in memory, and the cursor for the next: what ``_list`` returns."""
    end = start + LIST_PAGE_SIZE
    return keys[start:end], (keys, end) if end < len(keys) else None
