"""Loose objects: one file each, written to a temporary file, fsynced, and renamed."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from objrepo.disk.cpu_limiter import cpu_slot
from objrepo.disk.safe_open import refused
from objrepo.disk.session import ContainerSession
from objrepo.errors import with_path
from objrepo.fsync import fsync_directory, fsync_file, start_write_back
from objrepo.protocol import BinaryReader
from objrepo.sources import write_all

_COPY_BYTES: Final = 512 * 1024
_WRITE_BACK_BYTES: Final = 4 * 1024 * 1024


def write_loose(session: ContainerSession, reader: BinaryReader) -> str:
    """Store the bytes of a reader durably; an error leaves nothing behind.

    An object that exists is written again: its file may be damaged, or not durable yet.

    :return: the key.
    """
    tmp_path = session.layout.sandbox / uuid.uuid4().hex
    try:
        with open(tmp_path, "xb", buffering=0) as file:
            key = _copy(reader, file, session.config.hash_type)
            with with_path(tmp_path):
                fsync_file(file)
        _rename(tmp_path, Path(session.layout.loose_name(session.config, key)), session)
    except BaseException:
        tmp_path.unlink(missing_ok=True)
        raise
    return key


def remove_loose(session: ContainerSession, keys: Iterable[str]) -> None:
    """Remove the files of objects, durably; keys without a file are skipped."""
    folders = set()
    for key in keys:
        path = Path(session.layout.loose_name(session.config, key))
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        folders.add(path.parent)
    for folder in folders:
        fsync_directory(folder)


def _copy(reader: BinaryReader, file: BinaryIO, hash_type: str) -> str:
    """Write the bytes of a reader to a file, with write-back from the first megabytes on; return the hash."""
    hasher = hashlib.new(hash_type)
    written = begun = 0
    patient = True
    while chunk := reader.read(_COPY_BYTES):
        # A short chunk takes less time than waiting for a slot.
        with cpu_slot(patient and len(chunk) == _COPY_BYTES) as held:
            hasher.update(chunk)
            with with_path(file.name):
                write_all(file, chunk)
        patient = held or len(chunk) < _COPY_BYTES
        written += len(chunk)
        if written - begun >= _WRITE_BACK_BYTES:
            start_write_back(file, begun, written - begun)
            begun = written
    return hasher.hexdigest()


def _rename(tmp_path: Path, path: Path, session: ContainerSession) -> None:
    loose, name = session.layout.loose, path.parent.name
    durable = path.parent == loose or (name in session.flushed_folders and path.parent.exists())
    if not durable:
        path.parent.mkdir(exist_ok=True)
    if path.parent != loose and path.parent.is_symlink():
        raise refused(path.parent)
    try:
        os.replace(tmp_path, path)  # noqa: PTH105
    except PermissionError:
        # Windows does not replace a file that is open for reading; such a file holds the object already.
        if os.name == "posix" or not path.exists():
            raise
        tmp_path.unlink()
    fsync_directory(path.parent)
    if not durable:
        fsync_directory(loose)  # the process that made the folder may not have fsynced it yet
        session.flushed_folders.add(name)
