"""Rewriting packs without the bytes that no row names, so that no object is missing at any moment.

The objects of a pack are copied to a pack with a new number, the copy is fsynced, one transaction of the index changes
their rows, and then the old pack is removed. A crash in between leaves a pack that no row names; the next repack
removes it. On a full disk the objects at the end of the pack are moved first, and the pack is truncated after them.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from objrepo.disk.group_commit import is_rolled_back
from objrepo.disk.index import RawRow, Row
from objrepo.disk.layout import FIRST_OWN_PACK, REPACK_PACK
from objrepo.disk.locks import own_pack_lock, pack_lock
from objrepo.disk.pack_files import read_at
from objrepo.disk.reader import check_inside, short_of
from objrepo.disk.safe_open import link_or_copy, safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import CorruptObjectError, RepositoryBusyError, RepositoryError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.reports import Progress, ProgressCallback, note_read, watching_reads
from objrepo.sources import write_all

if TYPE_CHECKING:
    from io import FileIO

_COPY_BYTES: Final = 1024 * 1024
_log: Final = logging.getLogger("objrepo")
_PATIENCE: Final = 30.0
"""Seconds to wait for a writer to a pack."""


def unreferenced_bytes(session: ContainerSession) -> int:
    """Return the bytes in packs that belong to no object any more."""
    return max(session.layout.pack_files_size() - session.index.sums()[1], 0)


def is_disk_full(error: Exception) -> bool:
    """Return whether an operation failed because the disk or the quota has no space left."""
    code = getattr(error.__cause__, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT})


def repack(session: ContainerSession, progress: ProgressCallback | None) -> int:
    """Rewrite each pack with unreferenced bytes; return the number of bytes that this freed.

    Cancellation stops it between two pieces of a pack; objects that were moved by then stay moved.

    :raises CorruptObjectError: if an invalid row names a pack; the pack stays as it is, after the others are rewritten.
    """
    if os.path.exists(session.packs.path(REPACK_PACK)):  # noqa: PTH110
        recover_repack(session)
    session.index.discard_unfinished()  # a pack without rows is removed below
    packs = [int(path.name) for path in session.layout.pack_files()]
    total = session.layout.pack_files_size()
    lengths = session.index.lengths()
    failure: Exception | None = None
    done = freed = 0

    def report(part: Progress | None = None) -> None:
        size = done if part is None else done + part.done
        if progress is not None:
            progress(Progress("do_repack", size, max(total, size), "bytes"))

    # The emptiest first: what it takes to remove a pack without objects is there on a full disk too.
    for pack_id in sorted(packs, key=lambda pack_id: lengths.get(pack_id, 0)):
        with _locked(session, pack_id):
            path = Path(session.packs.path(pack_id))
            size = path.stat().st_size
            rows = session.index.rows_of_pack(pack_id)
            try:
                if sum(row[3] for row in rows if type(row[3]) is int) < size or not rows:
                    _check_rows(rows, path, size)
                    with watching_reads(report):
                        freed += _rewrite(session, path, size, rows)
            except CorruptObjectError as error:
                failure = failure or error
        done += size
        report()
    if failure is not None:
        raise failure
    return freed


def cut_off_appended(session: ContainerSession) -> None:
    """Remove what failed or killed writers appended to packs; the caller holds the maintenance lock.

    Only bytes that a writer noted before it appended them are removed, so that no reader can have them open. The lock
    of the index is held because disk-objectstore releases the lock of a pack before it commits the rows.
    """
    for note, pack_id, start in session.layout.append_notes():
        try:
            with _locked(session, pack_id, timeout=0):
                with _ignoring_full_disk():  # a log that needs space for another page has none to overwrite
                    session.index.discard_unfinished()
                with session.index.locked():
                    cut_off(session, pack_id, start)
                    note.unlink(missing_ok=True)
        except RepositoryBusyError:
            continue  # its writer is at work, as a batch that is open
        except (OSError, RepositoryError) as error:
            _log.warning("pack %d keeps unreferenced bytes until the next maintenance: %s", pack_id, error)


@contextmanager
def _ignoring_full_disk() -> Iterator[None]:
    try:
        yield
    except (OSError, RepositoryError) as error:
        if not is_disk_full(error):
            raise


def cut_off(session: ContainerSession, pack_id: int, start: int) -> None:
    """Remove the bytes of a pack from a position on that no row names; the caller holds the lock of the pack."""
    path = session.packs.path(pack_id)
    with suppress(FileNotFoundError):
        end = max(start, session.index.end_of_pack(pack_id))
        if end == 0 and pack_id not in session.index.pack_ids():  # rows of empty objects end at 0 too
            os.unlink(path)  # noqa: PTH108
        elif end < os.stat(path).st_size:  # noqa: PTH116
            with safe_open(path, "ab") as pack:
                pack.truncate(end)
                fsync_file(pack)


def recover_repack(session: ContainerSession) -> None:
    """Finish a repack of disk-objectstore that was killed: its pack gets a number of its own."""
    temporary = Path(session.packs.path(REPACK_PACK))
    rows = session.index.rows_of_pack(REPACK_PACK)
    if rows:
        new_id = _next_number(session, 0)
        with pack_lock(session.layout, new_id):
            link_or_copy(temporary, Path(session.packs.path(new_id)))
            session.packs.fsync(new_id)
            session.index.move(rows, new_id, [row[2] for row in rows])
    temporary.unlink()
    fsync_directory(temporary.parent)


def _check_rows(rows: list[RawRow], path: Path, size: int) -> None:
    """Refuse a pack of which an invalid row says what is where: its bytes must stay.

    :raises CorruptObjectError: naming the object.
    """
    for raw in rows:
        row = Row._make(raw)
        if not row.is_valid():
            raise CorruptObjectError(
                row.key, f"the index has no numbers for its position: {raw}; repair the repository"
            )
        check_inside(row, str(path), size)


def _rewrite(session: ContainerSession, path: Path, size: int, rows: list[RawRow]) -> int:
    """Move a pack's objects to a new one, and remove it; return the number of bytes that this freed."""
    kept = 0
    if rows:
        new_id = _next_number(session, int(path.name))
        with _locked(session, new_id):
            _move(session, path, new_id, rows)
            kept = os.stat(session.packs.path(new_id)).st_size  # noqa: PTH116
    path.unlink()
    fsync_directory(path.parent)
    return size - kept


def _move(session: ContainerSession, path: Path, new_id: int, rows: list[RawRow]) -> None:
    """Move objects to the end of another pack. On a full disk move half of them at a time, which frees their space."""
    try:
        _move_at_once(session, path, new_id, rows)
        return
    except (OSError, RepositoryError) as error:
        if not is_disk_full(error) or len(rows) == 1:
            raise
    middle = len(rows) // 2
    for part, remaining in ((rows[middle:], rows), (rows[:middle], rows[:middle])):
        with safe_open(str(path), "ab") as pack:
            pack.truncate(max(row[2] + row[3] for row in remaining))
        _move(session, path, new_id, part)


def _move_at_once(session: ContainerSession, path: Path, new_id: int, rows: list[RawRow]) -> None:
    new = Path(session.packs.path(new_id))
    with safe_open(str(path)) as source, safe_open(str(new), "ab") as target:
        start = target.seek(0, os.SEEK_END)
        try:
            with with_path(new):
                offsets = _copy(source, target, rows, path)
                fsync_file(target)
            fsync_directory(new.parent)
            session.index.move(rows, new_id, offsets)
        except BaseException as error:
            if not isinstance(error, Exception) or is_rolled_back(error):
                with suppress(OSError, RepositoryError):
                    cut_off(session, new_id, start)
            raise


def _copy(source: FileIO, target: FileIO, rows: list[RawRow], path: Path) -> list[int]:
    """Append the bytes of objects to a pack; return their offsets in it."""
    offsets = []
    first = position = target.tell()
    total = sum(row[3] for row in rows)
    for raw in rows:
        _, _, offset, length, _, _ = raw
        offsets.append(position)
        for start in range(0, length, _COPY_BYTES):
            if cancel_requested():
                raise WorkCancelled
            wanted = min(_COPY_BYTES, length - start)
            data = read_at(source.fileno(), wanted, offset + start)
            if len(data) < wanted:
                raise short_of(Row._make(raw), str(path), os.fstat(source.fileno()).st_size)
            write_all(target, data)
            note_read(f"pack {path.name}", position + start + wanted - first, total)
        position += length
    return offsets


def _next_number(session: ContainerSession, pack_id: int) -> int:
    """Return a number that no pack has, of the same kind: for disk-objectstore's packs, or for groups."""
    own = pack_id >= FIRST_OWN_PACK
    numbers = [int(path.name) for path in session.layout.pack_files()]
    numbers += [number for number in session.index.pack_ids() if number < 10**17]  # larger numbers are invalid
    return max((n for n in numbers if (n >= FIRST_OWN_PACK) == own), default=FIRST_OWN_PACK if own else 0) + 1


@contextmanager
def _locked(session: ContainerSession, pack_id: int, timeout: float | None = None) -> Iterator[None]:
    """Keep other processes from writing to a pack: disk-objectstore's packers, or writers of groups."""
    with ExitStack() as stack:
        if pack_id < FIRST_OWN_PACK:
            stack.enter_context(pack_lock(session.layout, pack_id))
        elif not stack.enter_context(
            own_pack_lock(session.layout.folder, pack_id, _PATIENCE if timeout is None else timeout)
        ):
            raise RepositoryBusyError(
                f"another process is writing to pack {pack_id} of {session.layout.folder}; try again later"
            )
        yield
