"""The files of the filesystem: those that are read, and new ones."""

from __future__ import annotations

import io
import logging
import sys
from types import TracebackType
from typing import Any

from fsspec.spec import AbstractBufferedFile

from objrepo.fsspec.session import NEW, Session, leave
from objrepo.integrity import VerifyingHandle
from objrepo.streams import RangeHandle

log: logging.Logger = logging.getLogger(__name__)


class ObjectFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read. Its path is the key, so that another file under the same name changes nothing.

    In a ``checked:`` repository it is compared with the key if it is read in sequence: at its end it raises
    :class:`CorruptObjectError` instead of returning the last block.
    """

    def __init__(self, fs: Any, path: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(fs, path, *args, **kwargs)
        self._blocks: RangeHandle = _Blocks(fs, path)
        if fs.session.is_checked:
            key_format = fs.session.repository.key_format
            if key_format != "uuid4":
                self._blocks = VerifyingHandle(path, self._blocks, self.size, key_format, b"")
            if not self.size:  # nothing will be read
                self._blocks.read_at(0, 0)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._blocks.read_at(start, min(end, self.size) - start)


class _Blocks(RangeHandle):
    def __init__(self, fs: Any, key: str) -> None:
        self._fs = fs
        self._of = key

    def read_at(self, position: int, size: int) -> bytes:
        content: bytes = self._fs.cat_file(self._of, position, position + size)
        return content


class NewFile(io.RawIOBase):
    """A file that is written. Its object is stored when it is closed, and has the name then."""

    mode = "wb"

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self._is_dropped = False
        self._handled = sys.exc_info()[1]
        self._writer = session.repository.create().__enter__()

    @property
    def name(self) -> str:
        """The path."""
        return f"{NEW}/{self._name}"

    def writable(self) -> bool:
        return not self.closed

    def tell(self) -> int:
        return self._writer.size

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError(f"write to {self.name}, which is closed")
        with memoryview(data) as view:
            return self._writer.write(view.cast("B"))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._is_dropped = exc_type is not None
        self._handled = sys.exc_info()[1]
        self.close()

    def _dealloc_warn(self, source: object) -> None:
        """Note that the text or buffered file above this one is being deallocated: it closes this one next."""
        self._is_dropped = True

    def close(self) -> None:
        """Store the object and name it, unless the file is dropped or closed because of an exception.

        Most libraries do not say that there is an exception: they close a file in ``finally``, or when they leave a
        ``with`` of their own. So one that is being handled now, and was not when the file was opened, is the reason.
        """
        if self.closed:
            return
        raised = sys.exc_info()[1]
        if raised is not None and raised is not self._handled:
            log.warning("%s is not stored: it was closed while %r was handled", self.name, raised)
            self._is_dropped = True
        self._handled = None
        dropped = self._is_dropped or "_finalizing" in vars(self)  # which io.IOBase sets when it is deallocated
        try:
            leave(self._writer, commit=not dropped)
            if not dropped:
                self._session.set(self._name, self._writer.key)
        finally:
            super().close()
