"""Checking what a container holds: each copy of each object, and what was left behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from objrepo.disk.index import Row
from objrepo.disk.layout import REPACK_PACK
from objrepo.disk.reader import open_loose, open_packed
from objrepo.disk.safe_open import UnsafePathError
from objrepo.disk.session import ContainerSession
from objrepo.errors import CorruptObjectError
from objrepo.integrity import digest
from objrepo.keys import is_key
from objrepo.reports import DamagedObject, Leftover, VerifyReport

__all__ = ("Damage", "check_objects", "damages", "find_leftovers")

_TRIES: Final = 3


class Damage(NamedTuple):
    """A damaged copy of an object.

    :ivar row: where it is packed; None for a loose one.
    """

    row: Row | None
    reason: str


def check_objects(session: ContainerSession, keys: Sequence[str], quick: bool) -> VerifyReport:
    """Check every copy of some objects; what has been deleted meanwhile is left out.

    :param quick: whether to look only at whether the bytes are there, and not at what they are.
    """
    objects = size = 0
    damaged = []
    rows = {row[0]: Row._make(row) for row in session.index.rows(keys)}
    for key in keys:
        try:
            checked = _check(session, key, rows.get(key), quick)
        except CorruptObjectError as error:  # its row is none
            checked = 0, [Damage(None, error.reason)]
        if checked is None:
            continue
        objects += 1
        size += checked[0]
        damaged += [DamagedObject(key, damage.reason) for damage in checked[1]]
    return VerifyReport(objects, size, tuple(damaged))


def damages(session: ContainerSession, key: str) -> tuple[list[Damage], bool]:
    """Read every copy of an object; return the damaged ones, and whether another one is intact."""
    row = session.index.row(key)
    checked = _check(session, key, row, quick=False)
    copies = (row is not None) + os.path.lexists(session.layout.loose_name(session.config, key))
    return ([], False) if checked is None else (checked[1], len(checked[1]) < copies)


def _check(session: ContainerSession, key: str, row: Row | None, quick: bool) -> tuple[int, list[Damage]] | None:
    """Check the copies of an object; return its size and what is damaged, None if it is not there."""
    found: list[Damage] = []
    size: int | None = None
    for _ in range(_TRIES):
        if row is not None and key == row.key:
            size, reason = _check_packed(session, row, quick)
            if reason is not None and session.index.row(key) != row:
                row = session.index.row(key)  # somebody has moved it meanwhile
                continue
            found += [Damage(row, reason)] if reason is not None else []
        with suppress(FileNotFoundError):
            loose_size, reason = _check_loose(session, key, quick)
            size = loose_size if size is None else size
            found += [Damage(None, reason)] if reason is not None else []
        if size is not None:
            return size, found
        row = session.index.row(key)  # somebody may have packed it meanwhile
        if row is None:
            return None
    return None


def _check_packed(session: ContainerSession, row: Row, quick: bool) -> tuple[int, str | None]:
    if quick:
        try:
            present = os.stat(session.packs.path(row.pack_id)).st_size  # noqa: PTH116
        except FileNotFoundError:
            return row.size, f"pack {session.packs.path(row.pack_id)} is missing"
        if row.offset < 0 or row.length < 0 or row.size < 0 or row.offset + row.length > present:
            end = row.offset + row.length
            return row.size, f"it should end at {end} in {session.packs.path(row.pack_id)}, which has {present} bytes"
        return row.size, None
    try:
        opened = open_packed(session, row)
        if opened is None:
            return row.size, "its row has changed"
        found, size = digest(opened, session.config.hash_type)
    except CorruptObjectError as error:
        return max(row.size, 0), error.reason
    except UnsafePathError as error:
        return max(row.size, 0), str(error)
    except OSError as error:
        if error.errno != errno.EIO:
            raise  # it is not the object that is damaged
        return max(row.size, 0), f"pack {session.packs.path(row.pack_id)} cannot be read: {error}"
    return size, None if found == row.key else f"its content in pack {row.pack_id} hashes to {found}"


def _check_loose(session: ContainerSession, key: str, quick: bool) -> tuple[int, str | None]:
    path = session.layout.loose_name(session.config, key)
    if quick:
        status = os.lstat(path)
        return status.st_size, None if stat.S_ISREG(status.st_mode) else f"{path} is no file"
    try:
        found, size = digest(open_loose(session, key), session.config.hash_type)
    except FileNotFoundError:
        raise
    except CorruptObjectError as error:
        return 0, error.reason
    except UnsafePathError as error:
        return 0, str(error)
    except OSError as error:
        if error.errno not in {errno.EIO, errno.EISDIR}:
            raise  # it is not the object that is damaged
        return 0, f"the file {path} cannot be read: {error}"
    return size, None if found == key else f"its content in {path} hashes to {found}"


def find_leftovers(session: ContainerSession) -> tuple[Leftover, ...]:
    """Return what was left behind by whoever was interrupted, and what was deleted from packs."""
    layout = session.layout
    found = [Leftover("temporary file", str(path), size) for path, size in _files(layout.sandbox)]
    found += [Leftover("duplicate", str(path), size) for path, size in _files(layout.duplicates)]
    found += [Leftover("quarantined", str(path), size) for path, size in _files(layout.quarantine)]
    lengths = session.index.lengths()
    for path, size in _files(layout.packs):
        if path.name.isascii() and path.name.isdecimal():
            used = lengths.get(int(path.name), 0)
            if size > used:
                found.append(Leftover("orphaned bytes", str(path), size - used))
        elif path.name == str(REPACK_PACK):
            found.append(Leftover("interrupted repack", str(path), size))
        elif path.suffix == ".lock":
            found.append(Leftover("lock", str(path), size))
        else:
            found.append(Leftover("unknown file", str(path), size))
    found += [Leftover("unknown file", str(path), size) for path, size in _strange_loose(session)]
    return tuple(found)


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Iterate over the files in a folder, with their sizes, in the order of their names."""
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            path = folder / name
            with suppress(FileNotFoundError):
                yield path, path.lstat().st_size


def _strange_loose(session: ContainerSession) -> Iterable[tuple[Path, int]]:
    """Iterate over files that lie among the loose objects and have no name of one."""
    prefix = session.config.loose_prefix_len
    for path, size in _files(session.layout.loose):
        if prefix == 0 or not path.is_dir():
            if prefix or not is_key(path.name, session.config.hash_type):
                yield path, size
            continue
        for inner, inner_size in _files(path):
            if not is_key(path.name + inner.name, session.config.hash_type):
                yield inner, inner_size
