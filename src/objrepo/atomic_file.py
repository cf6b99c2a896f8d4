"""Files that get their name when they are complete."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from objrepo.fsync import fsync_directory, fsync_file

__all__ = ("AtomicFile",)


class AtomicFile:
    """A file that is written under a temporary name in the same directory, and renamed by :meth:`publish`.

    It is used by ``with``, which creates the temporary file, and removes it unless it was published. The system applies
    the umask when it creates the file; a file that replaces another is never more open than that one.

    :param path: the final name.
    :param replace: whether to replace an existing file.
    :param resumable: a fixed temporary name. Such a file is opened with what it contains, and is kept if unpublished.
    :raises FileExistsError: (on entering) if there is a file of that name, without ``replace``, or one that is not a
        regular file.
    :raises OSError: (on entering) if the temporary file cannot be created.

    :ivar file: the temporary file, open for reading and writing from its start.
    :ivar temporary: its path.
    """

    def __init__(self, path: Path, *, replace: bool = False, resumable: Path | None = None) -> None:
        self._path = path
        self._replace = replace
        self._keep = resumable is not None
        self.temporary: Path = resumable or path.with_name(f".objrepo-{os.urandom(8).hex()}")

    def __enter__(self) -> Self:
        mode = 0o666
        with suppress(FileNotFoundError):
            mode &= self._permissions()
        create = os.O_CREAT if self._keep else os.O_CREAT | os.O_EXCL
        try:
            opened = open(self.temporary, "r+b", opener=lambda path, flags: os.open(path, flags | create, mode))
            self.file: BinaryIO = cast("BinaryIO", opened)
        except OSError as error:  # it names the temporary file
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        except BaseException:  # an interrupt
            self._remove()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        with suppress(OSError):  # of a file that was not finished: it follows the error that is being raised
            self.file.close()
        self._remove()

    def _remove(self) -> None:
        if not self._keep:
            self.temporary.unlink(missing_ok=True)

    def finish(self) -> None:
        """Make the content durable, and close the file: it may be read back before it is published."""
        fsync_file(self.file)
        self.file.close()

    def publish(self, durable: bool = True) -> None:
        """Give the file its name. With ``durable``, content and name survive a power failure.

        :raises FileExistsError: (on entering) if there is a file of that name by now, without ``replace``.
        """
        if durable and not self.file.closed:
            self.finish()
        self.file.close()  # Windows renames no open files
        if self._replace:
            self.temporary.replace(self._path)
        else:
            self._rename_to_new()
        if durable:
            fsync_directory(self._path.parent)

    def _permissions(self) -> int:
        """Return the permissions of the existing file, which is to be replaced."""
        status = self._path.stat()
        if not self._replace:
            raise self._exists()
        if not stat.S_ISREG(status.st_mode):  # a rename would replace a device such as /dev/null
            raise FileExistsError(errno.EEXIST, "cannot be replaced, as it is not a regular file", str(self._path))
        return status.st_mode

    def _rename_to_new(self) -> None:
        try:
            os.link(self.temporary, self._path)
        except FileExistsError:
            raise self._exists() from None
        except (OSError, AttributeError, NotImplementedError):  # a file system without hard links
            if self._path.exists():
                raise self._exists() from None
            self.temporary.replace(self._path)
        else:
            self.temporary.unlink()

    def _exists(self) -> FileExistsError:
        return FileExistsError(errno.EEXIST, "the file exists; remove it or choose another name", str(self._path))
