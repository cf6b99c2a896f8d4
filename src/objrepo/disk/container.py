"""`disk_objectstore.Container` with its faults in packing and in opening the index fixed. It imports SQLAlchemy."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from disk_objectstore import Container
from disk_objectstore.database import Base
from disk_objectstore.exceptions import InconsistentContent
from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import sessionmaker

from objrepo.disk.index import index_error
from objrepo.disk.layout import Layout
from objrepo.disk.locks import pack_lock
from objrepo.disk.safe_open import safe_open
from objrepo.errors import CorruptObjectError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.reports import note_read

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session


class PatchedContainer(Container):  # type: ignore[misc]
    """A container at any path, which removes only lock files of its own and fsyncs the packs that it writes.

    In disk-objectstore 1.5.0, a packer that finds a pack locked deletes the lock, so that a third packer can enter.
    Outside of macOS its ``safe_flush_to_disk(use_fullsync=True)``, which packing calls, does not fsync: it duplicates
    the descriptors instead, and leaves them open. So call :meth:`pack_loose` with ``do_fsync=False``: a pack is fsynced
    here when it is closed, before its rows are committed. Its ``get_session`` puts the path of the index into a URL
    unescaped, so that ``%`` and ``?`` lead to another file.
    """

    _operation_session: Session | None
    _slice: Sequence[str] | None = None
    _notes: tuple[Path, ...] = ()

    def pack_loose(self, keys: Sequence[str], **options: Any) -> None:
        """Pack some loose objects; see ``Container.pack_all_loose`` for the options."""
        self._slice = keys
        try:
            self.pack_all_loose(**options)
            for note in self._notes:  # the rows of what was appended are committed
                note.unlink(missing_ok=True)
        finally:
            self._slice, self._notes = None, ()

    def _list_loose(self) -> Iterator[str]:
        """Iterate over the loose objects that are to be packed, or over all; see ``Container._list_loose``."""
        return super()._list_loose() if self._slice is None else iter(self._slice)

    def _get_container_session(self) -> Session:
        """Create the index and return a session; see ``Container._get_container_session``."""
        index = self._get_pack_index_path()
        index.touch()  # honours the umask; SQLite would create it with mode 0644
        session = self._get_operation_session()
        with store_errors(index):
            Base.metadata.create_all(session.get_bind())
        return session

    def _get_operation_session(self) -> Session:
        """Return a session whose transactions are as those of ``disk_objectstore.database.get_session``."""
        if self._operation_session is None:
            url = URL.create("sqlite", database=str(self._get_pack_index_path()))
            engine = create_engine(url, connect_args={"isolation_level": None})
            event.listen(engine, "connect", _use_wal)
            event.listen(engine, "begin", _begin)
            self._operation_session = sessionmaker(engine, autoflush=False)()
        return self._operation_session

    def _write_data_to_packfile(self, pack_handle: Any, read_handle: Any, *args: Any, **options: Any) -> Any:
        """Append an object to a pack and report each piece; see ``Container._write_data_to_packfile``."""
        reader: Any = _ReportedReader(read_handle)
        return super()._write_data_to_packfile(pack_handle, reader, *args, **options)

    @contextmanager
    def lock_pack(self, pack_id: str, allow_repack_pack: bool = False) -> Iterator[Any]:
        """Lock a pack, open it for appending, and fsync it at the end; see ``Container.lock_pack``.

        :raises RepositoryBusyError: if another program holds the pack's lock.
        """
        pack = self._get_pack_path_from_pack_id(pack_id, allow_repack_pack=allow_repack_pack)
        layout = Layout(self.get_folder())
        with pack_lock(layout, int(pack_id)), safe_open(str(pack), "ab") as raw:
            # For `cut_off_appended`: when an error closes the pack, what is left in the buffer is discarded.
            note = layout.append_note(int(pack_id), raw.seek(0, io.SEEK_END))
            note.touch()
            self._notes += (note,)
            handle = io.BufferedWriter(raw)
            with with_path(pack):
                yield handle
                fsync_file(handle)
            fsync_directory(pack.parent)


class _ReportedReader:
    """A file that reports to :func:`~objrepo.reports.watching_reads` how many bytes of it have been read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._done = 0

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._done += len(data)
        note_read(self._file.name, self._done, self._done)
        return data


@contextmanager
def store_errors(index: Path) -> Iterator[None]:
    """Turn the errors of disk-objectstore and SQLAlchemy into those of objrepo."""
    try:
        yield
    except InconsistentContent as error:
        named = str(error).split("'")  # the key, if there is one, is in quotes
        raise CorruptObjectError(named[1] if len(named) > 2 else "?", str(error)) from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = error.__cause__ or error
        raise index_error(index, cause) from cause


def _use_wal(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = wal")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")
