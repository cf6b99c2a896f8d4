"""Loose objects: one file each, which gets its name when it is complete."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, Final

from objrepo.disk.cpu_limiter import cpu_slot
from objrepo.disk.one_commit import write_back
from objrepo.disk.safe_open import UnsafePathError, refused, safe_open
from objrepo.disk.session import ContainerSession
from objrepo.errors import with_path
from objrepo.fsync import fsync_directory, fsync_file, start_write_back
from objrepo.protocol import BinaryReader
from objrepo.sources import write_all

_COPY_BYTES: Final = 512 * 1024
_NO_SLOT: Final = nullcontext(True)
_WRITE_BACK_BYTES: Final = 4 * 1024 * 1024
# Such a file gets its name by way of `/proc`, which some sandboxes lack.
_UNNAMED: Final = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112
_NO_LINK: Final = {errno.EPERM, errno.EACCES, errno.EXDEV}
"""What `link` fails with where a policy of the system forbids it, as SELinux does on Android."""


def write_loose(session: ContainerSession, reader: BinaryReader, durable: bool) -> str:
    """Store the bytes of a reader; an error leaves nothing behind.

    :param durable: whether to flush the file and the directories that name it. If so, an object that exists is written
        again: its file may be damaged, or not durable yet. If not, a file that is intact stays: it may be durable.
    :return: the key.
    """
    if (not durable or session.orders_metadata) and (unnamed := _unnamed_file(session)) is not None:
        with unnamed:
            key = _copy(reader, unnamed, session.config.hash_type, early=durable)
            path = _prepared_path(session, key)
            if durable:
                with with_path(path):
                    write_back(unnamed)
            try:
                _link(unnamed, path, session, None if durable else key)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise OSError(error.errno, error.strerror, path) from error  # it names the file in `/proc`
                session.has_unnamed_files = False
                unnamed.seek(0)
                return write_loose(session, unnamed, durable)
            if durable:
                with with_path(path):
                    fsync_file(unnamed)
        return key
    tmp_path = _tmp_path(session)
    try:
        with open(tmp_path, "xb", buffering=0) as file:
            key = _copy(reader, file, session.config.hash_type, early=durable)
            if durable:
                with with_path(tmp_path):
                    fsync_file(file)
        path = _prepared_path(session, key)
        if not durable and _is_intact(path, key, session):
            tmp_path.unlink()
            return key
        _rename(tmp_path, path)
        if durable:
            _fsync_folder(Path(path).parent, session)
    except BaseException:
        tmp_path.unlink(missing_ok=True)
        raise
    return key


def remove_loose(session: ContainerSession, keys: Iterable[str], durable: bool = True) -> None:
    """Remove the files of objects; keys without a file are skipped.

    :param durable: whether to flush the directories.
    """
    folders = set()
    for key in keys:
        path = session.layout.loose_name(session.config, key)
        try:
            os.unlink(path)  # noqa: PTH108  (most keys have no file, and a `Path` takes twice as long)
        except FileNotFoundError:
            continue
        folders.add(Path(path).parent)
    for folder in folders if durable else ():
        fsync_directory(folder)


def _copy(reader: BinaryReader, file: BinaryIO, hash_type: str, early: bool) -> str:
    """Write the bytes of a reader to a file; return the hash.

    :param early: whether write-back begins with the first megabytes.
    """
    hasher = hashlib.new(hash_type)
    written = begun = 0
    patient = True
    while chunk := reader.read(_COPY_BYTES):
        # A short chunk takes less time than waiting for a slot.
        with cpu_slot(patient) if len(chunk) == _COPY_BYTES else _NO_SLOT as patient:
            hasher.update(chunk)
            with with_path(file.name):
                write_all(file, chunk)
        written += len(chunk)
        if early and written - begun >= _WRITE_BACK_BYTES:
            start_write_back(file, begun, written - begun)
            begun = written
    return hasher.hexdigest()


def _tmp_path(session: ContainerSession) -> Path:
    return session.layout.sandbox / uuid.uuid4().hex


def _unnamed_file(session: ContainerSession) -> BinaryIO | None:
    """Open a new file that has no name yet, so that no crash leaves it; None where the system has no such files.

    To write 1 KiB to it and name it took 24 µs, to another file and rename that 32 µs.
    """
    if _UNNAMED and session.has_unnamed_files:
        try:
            return open(session.layout.sandbox, "w+b", buffering=0, opener=_open_unnamed)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                raise
            session.has_unnamed_files = False
    return None


def _open_unnamed(folder: str, _: int) -> int:
    return os.open(folder, _UNNAMED | os.O_RDWR, 0o666)


def _link(file: BinaryIO, path: str, session: ContainerSession, key: str | None) -> None:
    """Name an unnamed file.

    :param key: a file of that name stays if its content has this hash; None replaces it.
    """
    number = file.fileno()
    source = f"/proc/self/fd/{number}"
    try:
        os.link(source, path, src_dir_fd=number)  # which makes it follow the symbolic link
    except FileExistsError:
        if key is not None and _is_intact(path, key, session):
            return
        tmp_path = _tmp_path(session)
        try:
            os.link(source, tmp_path, src_dir_fd=number)
            _rename(tmp_path, path)
        except BaseException:
            tmp_path.unlink(missing_ok=True)
            raise


def _is_intact(path: str, key: str, session: ContainerSession) -> bool:
    """Return whether there is a file of an object, and its content has the hash that is the object's key."""
    try:
        with safe_open(path) as file:
            return hashlib.file_digest(file, session.config.hash_type).hexdigest() == key
    except (OSError, UnsafePathError):
        return False


def _prepared_path(session: ContainerSession, key: str) -> str:
    """Return the path of an object's file, in a folder that exists."""
    path = session.layout.loose_name(session.config, key)
    if session.config.loose_prefix_len:
        folder = path.rpartition(os.sep)[0]
        try:
            if stat.S_ISLNK(os.lstat(folder).st_mode):
                raise refused(folder)
        except FileNotFoundError:
            Path(folder).mkdir(exist_ok=True)
            session.flushed_folders.discard(Path(folder).name)
    return path


def _rename(tmp_path: Path, path: str) -> None:
    try:
        os.replace(tmp_path, path)  # noqa: PTH105
    except PermissionError:
        # Windows does not replace a file that is open for reading; such a file holds the object already.
        if os.name == "posix" or not Path(path).exists():
            raise
        tmp_path.unlink()


def _fsync_folder(folder: Path, session: ContainerSession) -> None:
    """Make the entries of a folder durable, and the folder's own entry."""
    fsync_directory(folder)
    if session.config.loose_prefix_len and folder.name not in session.flushed_folders:
        fsync_directory(folder.parent)  # the process that made the folder may not have fsynced it yet
        session.flushed_folders.add(folder.name)
