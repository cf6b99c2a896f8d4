"""`ObjectFileSystem`: objects by key, new files by name, and the files of lists."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.transaction import Transaction
from fsspec.utils import isfilelike

from objrepo.atomic_file import AtomicFile
from objrepo.fsspec.file_tree import LIST_HEADER, FileTree, Folder
from objrepo.fsspec.files import NewFile, ObjectFile
from objrepo.fsspec.session import NEW, Session, is_here


# A batch of the repository. Names are given at once, and taken back if the transaction is discarded.
class _Transaction(Transaction):  # type: ignore[misc]
    fs: ObjectFileSystem

    def start(self) -> None:
        self.fs.session.begin()
        super().start()

    def complete(self, commit: bool = True) -> None:
        self.files.clear()
        try:
            self.fs.session.end(commit)
        finally:
            super().complete(commit)


class ObjectFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The objects of a repository as files.

    - ``objrepo://KEY`` is an object; ``objrepo://`` lists all of them.
    - ``objrepo://new/NAME`` is a file to write. When it is closed, its object is stored, and the name stands for its
      key. The process keeps the names, for all its filesystems with the same repository, until it ends.
    - :meth:`snapshot` stores the list of the files in a folder. Its key is a folder: ``objrepo://KEY/NAME``.

    An object never changes: a file that is written again is another object under the same name, and removing a file
    removes its name only. ``with filesystem.transaction`` is a :meth:`~objrepo.AsyncRepository.batch`. Files cannot be
    appended to, and nothing else can be written.

    A file that is dropped, or closed while an exception that was raised since it was opened is handled, stores nothing.

    It starts no thread and no event loop, and many threads may use it. A pickled one reads objects and lists in another
    process, but does not have the names there, and does not write.

    :param repository: the folder or URL of the repository; by default ``$OBJREPO``, else ``./.objrepo``.
    """

    protocol = "objrepo"
    root_marker = ""
    transaction_type = _Transaction  #: :meta private:

    def __init__(self, repository: str | None = None, *, _process_id: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.session: Session = Session(repository or os.environ.get("OBJREPO") or ".objrepo", _process_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (
            type(self),
            self.storage_args,
            {"_process_id": self.session.process_id, **self.storage_options},
        )

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    # -- names ---------------------------------------------------------------------------------------------------------

    def snapshot(self, path: str = "objrepo://new") -> str:
        """Store the list of the files in a folder, in the format of ``sha256sum``, and return its key.

        ``objrepo://KEY/NAME`` is then a file of the folder, in every process, for as long as the objects exist.

        :param path: the folder. The key of a single file is that of its object, and nothing is stored.
        :return: the key. Equal files with equal names have equal keys, where keys are hashes.
        :raises FileNotFoundError: if there is no such folder, or no file in it.
        :raises RepositoryError: if the names are those of another process.
        :raises OSError: if the list cannot be stored.
        """
        path = self._strip_protocol(path)
        found = self._find(path)
        if isinstance(found, str):
            return found
        tree, name = self._tree(path)
        content = tree.to_list(name)
        if content == LIST_HEADER:
            raise FileNotFoundError(errno.ENOENT, "there is no file in the folder: write one before the snapshot", path)
        return self.session.repository.put(content)

    def _tree(self, path: str) -> tuple[FileTree, str]:
        """Return the files among which a path is, and its name there."""
        key, _, name = path.partition("/")
        if key == NEW:
            return self.session.names, name
        tree = self.session.read_list(key)
        if tree is None:
            raise NotADirectoryError(errno.ENOTDIR, "the object is not a list that snapshot() stored", path)
        return tree, name

    def _find(self, path: str) -> str | Folder:
        """Return the key of a file, or a folder."""
        if path != NEW and "/" not in path and self.session.read_list(path) is None:
            return path
        tree, name = self._tree(path)
        return tree.find(name)

    def _key(self, path: str) -> str:
        """Return the key of a file."""
        path = str(self._strip_protocol(path))
        if path != NEW and "/" not in path:
            return path
        found = self._find(path)
        if isinstance(found, str):
            return found
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def _target(self, path: Any) -> str:
        """Return a name that is to be written."""
        first, _, name = str(self._strip_protocol(path)).partition("/")
        if first != NEW:
            raise OSError(errno.EROFS, "objects are read-only: write to objrepo://new/NAME", path)
        return name

    # -- reading -------------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a folder, or all keys, without sizes; or a single file, with its size.

        :raises FileNotFoundError: if there is no such file or folder.
        """
        path = self._strip_protocol(path)
        found = self._find(path) if path else {key: key for key in self.session.repository.keys()}
        if isinstance(found, str):
            entries = [self.info(path)]
        else:
            above = path and f"{path}/"
            entries = [_entry(above + name, each) for name, each in list(found.items())]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return the name, size, type and key of a file, or name and type of a folder.

        :raises FileNotFoundError: if there is no such file or folder.
        """
        path = self._strip_protocol(path)
        entry = _entry(path, self._find(path) if path else {})
        if entry["type"] == "file":
            entry["size"] = self.session.repository.size(entry["key"])
        return entry

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the content of a file, or a range of it; negative numbers count from the end.

        :raises FileNotFoundError: if there is no such file.
        """
        key = self._key(path)
        if start is None and end is None:
            return self.session.repository.get(key)
        with self.session.repository.open(key) as file:
            first, last, _ = slice(start, end).indices(file.seek(0, os.SEEK_END))
            file.seek(first)
            return file.read(max(last - first, 0))

    def get_file(
        self, rpath: str, lpath: Any = None, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copy a file to a local one, which gets its name when it is complete.

        :raises FileNotFoundError: if there is no such file.
        :raises CorruptObjectError: if it is damaged, in a ``checked:`` repository; there is no local file then.
        """
        if outfile is not None or isfilelike(lpath) or self.isdir(rpath):
            super().get_file(rpath, lpath, callback, outfile, **kwargs)
            return
        path = Path(lpath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFile(path, replace=True) as file:
            super().get_file(rpath, file.file, callback, **kwargs)
            file.publish(durable=False)

    def ukey(self, path: str) -> str:
        """Return the key of a file: as an object never changes, a cache may keep it by that."""
        return self._key(path)

    # -- writing -------------------------------------------------------------------------------------------------------

    def open(self, path: str, mode: str = "rb", *args: Any, compression: str | None = None, **kwargs: Any) -> Any:
        """Open a file: ``rb``, ``wb``, ``xb``, or the same for text.

        :raises io.UnsupportedOperation: for other modes; and for writing with ``compression``, as fsspec would leave
            the file open when the compressing one is closed: that of ``fsspec.open`` closes both.
        """
        if compression is not None and "r" not in mode:
            raise io.UnsupportedOperation(
                f"use fsspec.open({path!r}, {mode!r}, compression=...), which closes the file"
            )
        return super().open(path, mode, *args, compression=compression, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        if mode == "rb":
            key = self._key(path)
            size: Any = block_size or self.blocksize  # fsspec annotates it as str
            kwargs.setdefault("size", self.session.repository.size(key))
            return ObjectFile(self, key, mode, size, *args, **kwargs)
        name = self._target(path)
        if mode not in ("wb", "xb"):
            raise io.UnsupportedOperation(f"objects never change, so mode {mode!r} is not supported: write a new file")
        self.session.names.check(name, exclusive=mode == "xb")
        return NewFile(self.session, name)

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a folder below ``objrepo://new``, and those above it. Writing a file does that, too.

        :raises FileExistsError: if it exists.
        :raises OSError: with ``EROFS``, as every method that writes, if the path is elsewhere.
        """
        self.session.names.make_folder(self._target(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder below ``objrepo://new``, and those above it.

        :raises FileExistsError: if it exists, unless ``exist_ok``.
        """
        self.session.names.make_folder(self._target(path), exist_ok)

    def rm_file(self, path: str) -> None:
        """Remove a name, or an empty folder, below ``objrepo://new``. Objects stay.

        :raises FileNotFoundError: if there is no such name.
        :raises OSError: if the folder is not empty.
        """
        self.session.remove(self._target(path))

    _rm = rm_file

    def rmdir(self, path: str) -> None:
        """Remove an empty folder below ``objrepo://new``.

        :raises NotADirectoryError: if it is a file.
        :raises OSError: if it is not empty.
        """
        if isinstance(self.session.names.find(self._target(path)), str):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self.rm_file(path)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Give a file, such as ``objrepo://KEY``, a name below ``objrepo://new``. No content is copied.

        :raises FileNotFoundError: if there is no such file.
        """
        name, found = self._target(path2), self._find(self._strip_protocol(path1))
        if isinstance(found, str):
            self.session.set(name, found)
        else:
            self.makedirs(path2, exist_ok=True)

    # Some of the inherited methods would succeed without writing anything, or fail after having written something.

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file below ``objrepo://new``."""
        self._target(path)
        super().touch(path, truncate, **kwargs)

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> None:
        """Store a local file under a name below ``objrepo://new``."""
        self._target(rpath)
        super().put_file(lpath, rpath, *args, **kwargs)

    def put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> None:
        """Store local files under names below ``objrepo://new``."""
        self._targets(rpath)
        super().put(lpath, rpath, *args, **kwargs)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """Give files names below ``objrepo://new``, as :meth:`cp_file` does."""
        self._targets(path2)
        super().copy(path1, path2, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """Rename files below ``objrepo://new``.

        :raises OSError: with ``EINVAL``, if a file would stay where it is, or a folder is moved into itself: fsspec
            would copy it, and then remove the copy.
        """
        self._targets(path1)
        if self._strip_protocol(path1) == self._strip_protocol(path2):
            return
        if isinstance(path1, list) and isinstance(path2, list):
            pairs = [*zip(path1, path2, strict=True)]
        else:
            pairs = [(path, path2) for path in self.expand_path(path1)]
        for source, target in pairs:
            moved, folder = self._strip_protocol(source), self._strip_protocol(target)
            if folder == self._parent(moved) or f"{folder}/".startswith(f"{moved}/"):
                raise OSError(errno.EINVAL, f"{moved} cannot be moved to itself, or into itself", target)
        super().mv(path1, path2, *args, **kwargs)

    def _targets(self, paths: Any) -> None:
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            self._target(path)

    def start_transaction(self) -> Transaction:
        """Begin a batch, for callers without ``with``; ``end_transaction`` ends it."""
        self.transaction.start()
        return self.transaction


def _entry(path: str, found: str | Folder) -> dict[str, Any]:
    if isinstance(found, str):
        return {"name": path, "size": None, "type": "file", "key": found}
    return {"name": path, "size": 0, "type": "directory"}


def _unpickled(cls: type[ObjectFileSystem], args: tuple[Any, ...], options: dict[str, Any]) -> ObjectFileSystem:
    if is_here(options["_process_id"]):
        del options["_process_id"]
    return cls(*args, **options)
