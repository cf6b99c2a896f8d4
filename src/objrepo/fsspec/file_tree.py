"""`FileTree`: names of files in folders, and the key of each."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from typing import Final, Self

from objrepo.key_list import list_line, parse_line

__all__ = ("LIST_HEADER", "FileTree", "Folder")

Folder = dict[str, "str | Folder"]
"""The key of each file in a folder, and the folders in it, by name."""

LIST_HEADER: Final = b"# objrepo: files by name\n"
"""The first line of a stored list; ``sha256sum`` and ``objrepo get --from`` skip it as a comment."""


class FileTree:
    """Names of files, with ``/`` between folders, and the key of each. Many threads may use it.

    The name of the outermost folder is empty. A folder that a name needs is made.

    :param path: the path of the outermost folder, for errors.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._root: Folder = {}
        self._lock = threading.Lock()

    @classmethod
    def from_list(cls, path: str, content: bytes) -> Self:
        """Return the files in the content of a list.

        :raises ValueError: if a line has no key or no name, or a name is invalid.
        :raises OSError: if a name is that of a file and of a folder.
        """
        tree = cls(path)
        for line in content.decode(errors="surrogateescape").split("\n"):
            if not line or line.startswith("#"):
                continue
            key, name = parse_line(line) or ("", None)
            if name is None:
                raise ValueError(f"the list has a line without a key and a name: {line[:80]!r}")
            tree.set(name.lstrip("/"), key)
        return tree

    def to_list(self, name: str = "") -> bytes:
        """Return a list of the files in a folder, with names from there on, in the format of ``sha256sum``."""
        folder = self.find(name)
        lines = [list_line(key, each) for each, key in sorted(_files(folder))] if isinstance(folder, dict) else []
        return LIST_HEADER + "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")

    def find(self, name: str) -> str | Folder:
        """Return the key of a file, or a folder, which others may change.

        :raises FileNotFoundError: if there is neither.
        :raises NotADirectoryError: if a part of the name is a file.
        """
        found: str | Folder = self._root
        for part in name.split("/") if name else ():
            if isinstance(found, str):
                raise self._error(errno.ENOTDIR, name)
            if part not in found:
                raise self._error(errno.ENOENT, name)
            found = found[part]
        return found

    def set(self, name: str, key: str) -> str | None:
        """Name an object, and return the key of the object that had the name before.

        :raises ValueError: if a part of the name is empty, ``.`` or ``..``, or has a NUL; or if a list cannot have it.
        :raises OSError: if the name is that of a folder, or a part of it that of a file.
        """
        folders, last = _parts(name)
        with self._lock:
            folder = self._make(folders)
            previous = folder.get(last)
            if isinstance(previous, dict):
                raise self._error(errno.EISDIR, name)
            folder[last] = key
        return previous

    def check(self, name: str, exclusive: bool) -> None:
        """Raise the error that :meth:`set` would raise.

        :raises FileExistsError: if ``exclusive`` and there is such a file.
        """
        try:
            found = self.find(name)
        except FileNotFoundError:
            _parts(name)
            return
        if isinstance(found, dict):
            raise self._error(errno.EISDIR, name)
        if exclusive:
            raise self._error(errno.EEXIST, name)

    def make_folder(self, name: str, exist_ok: bool = False) -> None:
        """Make a folder.

        :raises FileExistsError: if it exists, unless ``exist_ok``.
        """
        with self._lock:
            folders, last = _parts(name) if name else ([], "")
            folder = self._make(folders)
            if name and last not in folder:
                folder[last] = {}
            elif not exist_ok or isinstance(folder.get(last), str):
                raise self._error(errno.EEXIST, name)

    def remove(self, name: str) -> str | None:
        """Remove a name, and return the key of its object; None for a folder, which has to be empty."""
        with self._lock:
            found = self.find(name)
            if isinstance(found, dict) and found:
                raise self._error(errno.ENOTEMPTY, name)
            if name:
                above, _, last = name.rpartition("/")
                folder = self.find(above)
                assert isinstance(folder, dict), "a file was found in it"
                del folder[last]
        return found if isinstance(found, str) else None

    def _make(self, folders: list[str]) -> Folder:
        folder = self._root
        for part in folders:
            inner = folder.setdefault(part, {})
            if isinstance(inner, str):
                raise self._error(errno.ENOTDIR, "/".join(folders))
            folder = inner
        return folder

    def _error(self, number: int, name: str) -> OSError:
        return OSError(number, os.strerror(number), f"{self._path}/{name}")


def _parts(name: str) -> tuple[list[str], str]:
    name.encode(errors="surrogateescape")
    *folders, last = name.split("/")
    if not {"", ".", ".."}.isdisjoint([*folders, last]) or "\0" in name:
        raise ValueError(f"invalid name {name!r}: no part may be empty, '.' or '..', or have a NUL")
    return folders, last


def _files(folder: Folder, above: str = "") -> Iterator[tuple[str, str]]:
    for name, found in list(folder.items()):
        if isinstance(found, str):
            yield above + name, found
        else:
            yield from _files(found, f"{above}{name}/")
