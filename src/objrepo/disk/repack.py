"""Rewriting packs without what was deleted from them, so that at no moment an object is missing.

What is left of a pack is copied to one with a new number, the copy is flushed, one transaction of the index makes the
move, and only then the old pack is removed. A crash on the way leaves a pack that no row names, before or after; the
next repack removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from objrepo.disk.group_commit import FIRST_OWN_PACK
from objrepo.disk.index import RawRow, Row
from objrepo.disk.layout import REPACK_PACK
from objrepo.disk.locks import own_pack_lock, pack_lock
from objrepo.disk.pack_files import read_at, short_of
from objrepo.disk.reader import check_inside
from objrepo.disk.safe_open import safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import RepositoryBusyError, with_path
from objrepo.fsync import fsync_directory, fsync_file
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.reports import Progress, ProgressCallback
from objrepo.sources import write_all

if TYPE_CHECKING:
    from io import FileIO

__all__ = ("recover_repack", "repack", "unreferenced_bytes")

_COPY_BYTES: Final = 1024 * 1024
_PATIENCE: Final = 30.0
"""How many seconds to wait for a writer to a pack."""


def unreferenced_bytes(session: ContainerSession) -> int:
    """Return the bytes in packs that belong to no object any more."""
    return max(session.layout.pack_files_size() - session.index.sums()[1], 0)


def repack(session: ContainerSession, progress: ProgressCallback | None) -> int:
    """Rewrite each pack that has unreferenced_bytes; return how many bytes that freed.

    A caller that has been cancelled stops it between two pieces of a pack; what was moved by then stays moved.
    """
    if session.packs.file_id(REPACK_PACK) is not None:
        recover_repack(session)
    packs = [int(path.name) for path in session.layout.pack_files()]
    total = session.layout.pack_files_size()
    done = freed = 0
    for pack_id in packs:
        with _locked(session, pack_id):
            path = Path(session.packs.path(pack_id))
            size = path.stat().st_size
            rows = session.index.rows_of_pack(pack_id)
            if sum(row[3] for row in rows) < size or not rows:
                freed += _rewrite(session, path, size, rows)
        done += size
        if progress is not None:
            progress(Progress("do_repack", done, max(total, done), "bytes"))
    return freed


def recover_repack(session: ContainerSession) -> None:
    """Finish what a repack of disk-objectstore has begun when it was killed: its pack gets a number of its own."""
    temporary = Path(session.packs.path(REPACK_PACK))
    rows = session.index.rows_of_pack(REPACK_PACK)
    if rows:
        new_id = _next_number(session, 0)
        with pack_lock(session.layout, new_id):
            _link_or_copy(temporary, Path(session.packs.path(new_id)))
            session.index.move(rows, new_id, [row[2] for row in rows])
    temporary.unlink()
    fsync_directory(temporary.parent)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (OSError, AttributeError, NotImplementedError):  # a file system without links
        shutil.copyfile(source, target, follow_symlinks=False)
    with safe_open(str(target)) as file:
        fsync_file(file)
    fsync_directory(target.parent)


def _rewrite(session: ContainerSession, path: Path, size: int, rows: list[RawRow]) -> int:
    """Move a pack's objects to a new one, and remove it; return how many bytes that freed."""
    kept = 0
    if rows:
        new_id = _next_number(session, int(path.name))
        with _locked(session, new_id):
            new = Path(session.packs.path(new_id))
            try:
                with safe_open(str(path)) as source, safe_open(str(new), "xb") as target, with_path(new):
                    moves = _copy(source, target, rows, path)
                    kept = target.tell()
                    fsync_file(target)
                fsync_directory(new.parent)
                session.index.move(rows, new_id, moves)
            except BaseException:
                if not session.index.rows_of_pack(new_id):
                    new.unlink(missing_ok=True)
                raise
    path.unlink()
    fsync_directory(path.parent)
    return size - kept


def _copy(source: FileIO, target: FileIO, rows: list[RawRow], path: Path) -> list[int]:
    """Copy the bytes of objects; return where each begins now."""
    offsets = []
    position = 0
    for raw in rows:
        row = Row._make(raw)
        check_inside(row, str(path), os.fstat(source.fileno()).st_size)
        _, _, offset, length, _, _ = raw
        offsets.append(position)
        for start in range(0, length, _COPY_BYTES):
            if cancel_requested():
                raise WorkCancelled
            wanted = min(_COPY_BYTES, length - start)
            data = read_at(source.fileno(), wanted, offset + start)
            if len(data) < wanted:
                raise short_of(row, str(path), os.fstat(source.fileno()).st_size)
            write_all(target, data)
        position += length
    return offsets


def _next_number(session: ContainerSession, pack_id: int) -> int:
    """Return a number that no pack has, of the same kind: disk-objectstore's, or those that groups are written to."""
    own = pack_id >= FIRST_OWN_PACK
    numbers = [int(path.name) for path in session.layout.pack_files()]
    numbers += [number for number in session.index.pack_ids() if number < 10**17]  # nobody has made so many
    return max((n for n in numbers if (n >= FIRST_OWN_PACK) == own), default=FIRST_OWN_PACK if own else 0) + 1


@contextmanager
def _locked(session: ContainerSession, pack_id: int) -> Iterator[None]:
    """Keep others from writing to a pack: disk-objectstore's packers, or those who put groups."""
    with ExitStack() as stack:
        if pack_id < FIRST_OWN_PACK:
            stack.enter_context(pack_lock(session.layout, pack_id))
        elif not stack.enter_context(own_pack_lock(session.layout.folder, pack_id, _PATIENCE)):
            raise RepositoryBusyError(
                f"somebody is writing to pack {pack_id} of the repository at {session.layout.folder}; try again later"
            )
        yield
