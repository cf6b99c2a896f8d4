"""Verifying a container: each copy of each object, and leftovers of interrupted work."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from objrepo.disk.bulk_reader import PLACE, read_adjacent
from objrepo.disk.index import RawRow, Row
from objrepo.disk.layout import FIRST_OWN_PACK, REPACK_PACK
from objrepo.disk.locks import own_pack_lock
from objrepo.disk.reader import check_inside, open_loose, open_packed
from objrepo.disk.safe_open import UnsafePathError
from objrepo.disk.session import ContainerSession
from objrepo.errors import CorruptObjectError, RepositoryError
from objrepo.integrity import digest
from objrepo.keys import is_key
from objrepo.reports import DamagedObject, Leftover, VerifyReport

_TRIES: Final = 3
_PROCESS_ERRORS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN}


class Damage(NamedTuple):
    """A damaged copy of an object.

    :ivar row: where it is packed; None for a loose one.
    :ivar readable: whether the file can be read; if not, as without permission, its content may be intact.
    """

    row: Row | None
    reason: str
    readable: bool = True


def check_objects(session: ContainerSession, keys: Sequence[str], quick: bool) -> VerifyReport:
    """Check every copy of some objects; objects that were deleted meanwhile are left out.

    :param quick: whether to check only that the bytes are there, without reading them.
    """
    objects = size = 0
    damaged = []
    rows = {row[0]: row for row in session.index.rows(keys)}
    intact = {} if quick else _intact(session, rows.values())
    for key in keys:
        if key in intact and not os.path.lexists(session.layout.loose_name(session.config, key)):
            objects += 1
            size += intact[key]
        elif copies := _check(session, key, Row._make(rows[key]) if key in rows else _row(session, key), quick):
            objects += 1
            size += copies[0][0]
            damaged += [DamagedObject(key, damage.reason) for _, damage in copies if damage is not None]
    return VerifyReport(objects, size, tuple(damaged))


def _intact(session: ContainerSession, rows: Iterable[RawRow]) -> dict[str, int]:
    """Read small packed objects in the order of the packs; return the sizes of those whose hashes are their keys."""
    hasher = getattr(hashlib, session.config.hash_type)
    contents = read_adjacent(session, sorted((row for row in rows if row[3] == row[5]), key=PLACE))
    return {key: size for key, size, content, _ in contents if hasher(content).hexdigest() == key}


def damages(session: ContainerSession, key: str) -> tuple[list[Damage], bool]:
    """Read every copy of an object; return the damaged ones, and whether another one is intact."""
    found = [damage for _, damage in _check(session, key, _row(session, key), quick=False)]
    return [damage for damage in found if damage is not None], None in found


def _row(session: ContainerSession, key: str) -> Row | None:
    """Return the row of a key, valid or not."""
    rows = session.index.raw_row(key)
    return Row._make(rows[0]) if rows else None


def _check(session: ContainerSession, key: str, row: Row | None, quick: bool) -> list[tuple[int, Damage | None]]:
    """Check the copies of an object; return the size of each and its damage, if any."""
    for _ in range(_TRIES):
        copies = []
        if row is not None:
            copies.append(_check_packed(session, row, quick))
            if copies[0][1] is not None and (current := _row(session, key)) != row:
                row = current  # a repack has moved it, or a deletion removed it
                continue
        with suppress(FileNotFoundError):
            copies.append(_check_loose(session, key, quick))
        if copies:
            return copies
        row = _row(session, key)  # it may have been packed meanwhile
        if row is None:
            break
    return []


def _check_packed(session: ContainerSession, row: Row, quick: bool) -> tuple[int, Damage | None]:
    if not row.is_valid():
        return 0, Damage(row, f"the index has no numbers for its position: {tuple(row)}")
    path = session.packs.path(row.pack_id)
    size = max(row.size, 0)
    try:
        if quick:
            check_inside(row, path, os.stat(path).st_size)  # noqa: PTH116
            return size, None
        opened = open_packed(session, row)
        if opened is None:
            return size, Damage(row, "its row has changed")
        found, size = digest(opened, session.config.hash_type)
    except FileNotFoundError:
        return size, Damage(row, f"pack {path} is missing")
    except (OSError, UnsafePathError) as error:
        return size, _damage(row, path, error)
    return size, None if found == row.key else Damage(row, f"its content in pack {row.pack_id} hashes to {found}")


def _check_loose(session: ContainerSession, key: str, quick: bool) -> tuple[int, Damage | None]:
    path = session.layout.loose_name(session.config, key)
    try:
        if quick:
            status = os.lstat(path)
            return status.st_size, None if stat.S_ISREG(status.st_mode) else Damage(None, f"{path} is no file")
        found, size = digest(open_loose(session, key), session.config.hash_type)
    except FileNotFoundError:
        raise
    except (OSError, UnsafePathError) as error:
        return 0, _damage(None, path, error)
    return size, None if found == key else Damage(None, f"its content in {path} hashes to {found}")


def _damage(row: Row | None, path: str, error: OSError | UnsafePathError) -> Damage:
    """Return the damage that an error of reading shows; raise the error if it does not concern the file."""
    if isinstance(error, UnsafePathError):
        return Damage(row, str(error))
    if isinstance(error, CorruptObjectError):
        return Damage(row, error.reason)
    if isinstance(error, RepositoryError) or error.errno is None or error.errno in _PROCESS_ERRORS:
        raise error
    reason = f"{path} cannot be read: {error.strerror}"
    return Damage(row, reason, readable=error.errno in {errno.EIO, errno.EISDIR})


def find_leftovers(session: ContainerSession) -> tuple[Leftover, ...]:
    """Return what interrupted processes left behind, and the bytes in packs that no row names."""
    layout = session.layout
    found = [Leftover("temporary file", str(path), size) for path, size in _files(layout.sandbox)]
    found += [Leftover("duplicate", str(path), size) for path, size in _files(layout.duplicates)]
    found += [Leftover("quarantined", str(path), size) for path, size in _files(layout.quarantine)]
    lengths = session.index.lengths()
    for path, size in _files(layout.packs):
        if path.name.isascii() and path.name.isdecimal():
            if size > lengths.get(int(path.name), 0) and (orphaned := _orphaned_bytes(session, path)):
                found.append(Leftover("orphaned bytes", str(path), orphaned))
        elif path.name == str(REPACK_PACK):
            found.append(Leftover("interrupted repack", str(path), size))
        elif path.suffix == ".lock":
            found.append(Leftover("lock", str(path), size))
        else:
            found.append(Leftover("unknown file", str(path), size))
    found += [Leftover("unknown file", str(path), size) for path, size in _unknown_loose(session)]
    return tuple(found)


def _orphaned_bytes(session: ContainerSession, path: Path) -> int:
    """Return how many bytes of a pack no row names; 0 while a writer, such as an open batch, appends to the pack."""
    number = int(path.name)
    with ExitStack() as lock:
        if number >= FIRST_OWN_PACK:
            with suppress(OSError):  # the container may be read-only
                if not lock.enter_context(own_pack_lock(session.layout.folder, number, timeout=0)):
                    return 0
        with suppress(FileNotFoundError):
            return max(path.lstat().st_size - session.index.lengths().get(number, 0), 0)
    return 0


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Iterate over the files in a folder, with their sizes, in the order of their names."""
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            path = folder / name
            with suppress(FileNotFoundError):
                yield path, path.lstat().st_size


def _unknown_loose(session: ContainerSession) -> Iterable[tuple[Path, int]]:
    """Iterate over files in the folder of the loose objects whose names are no keys."""
    prefix = session.config.loose_prefix_len
    for path, size in _files(session.layout.loose):
        if prefix == 0 or not path.is_dir():
            if prefix or not is_key(path.name, session.config.hash_type):
                yield path, size
            continue
        for inner, inner_size in _files(path):
            if not is_key(path.name + inner.name, session.config.hash_type):
                yield inner, inner_size
