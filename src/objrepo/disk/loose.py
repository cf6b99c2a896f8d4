"""Loose objects: a file each, written aside, flushed, and moved to its place."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import BinaryIO, Final

from objrepo.disk.cpu_limiter import turn
from objrepo.disk.safe_open import refused
from objrepo.disk.session import ContainerSession
from objrepo.errors import with_path
from objrepo.fsync import fsync_directory, fsync_file, start_write_back
from objrepo.protocol import BinaryReader
from objrepo.sources import write_all

__all__ = ("remove_loose", "write_loose")

_COPY_BYTES: Final = 512 * 1024
_WRITE_BACK_BYTES: Final = 4 * 1024 * 1024


def write_loose(lease: ContainerSession, reader: BinaryReader) -> str:
    """Store what a reader gives; on return it is on the disk, and if anything is raised, nothing is left.

    An object that is there already is written again: it may be damaged, or not be on the disk yet.

    :return: the key.
    """
    aside = lease.layout.sandbox / uuid.uuid4().hex
    try:
        with open(aside, "xb", buffering=0) as file:
            key = _copy(reader, file, lease.config.hash_type)
            with with_path(aside):
                fsync_file(file)
        _move(aside, Path(lease.layout.loose_name(lease.config, key)), lease)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return key


def remove_loose(lease: ContainerSession, keys: list[str]) -> None:
    """Remove the files of objects, those that are there; on return they are gone from the disk."""
    folders = set()
    for key in keys:
        path = Path(lease.layout.loose_name(lease.config, key))
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        folders.add(path.parent)
    for folder in folders:
        fsync_directory(folder)


def _copy(reader: BinaryReader, file: BinaryIO, hash_type: str) -> str:
    """Write what a reader gives to a file, the disk being at work from the first megabytes on; return the hash."""
    hasher = hashlib.new(hash_type)
    written = begun = 0
    patient = True
    while chunk := reader.read(_COPY_BYTES):
        # What is small, or only the rest, is done sooner than waited for.
        with turn(patient and len(chunk) == _COPY_BYTES) as taken:
            hasher.update(chunk)
            with with_path(file.name):
                write_all(file, chunk)
        patient = taken or len(chunk) < _COPY_BYTES
        written += len(chunk)
        if written - begun >= _WRITE_BACK_BYTES:
            start_write_back(file, begun, written - begun)
            begun = written
    return hasher.hexdigest()


def _move(aside: Path, path: Path, lease: ContainerSession) -> None:
    loose, name = lease.layout.loose, path.parent.name
    lasting = path.parent == loose or (name in lease.flushed_folders and path.parent.exists())
    if not lasting:
        path.parent.mkdir(exist_ok=True)
    if path.parent != loose and path.parent.is_symlink():
        raise refused(path.parent)
    try:
        os.replace(aside, path)  # noqa: PTH105
    except PermissionError:
        # Windows does not replace what somebody is reading, and what can be read so is there.
        if os.name == "posix" or not path.exists():
            raise
        aside.unlink()
    fsync_directory(path.parent)
    if not lasting:
        fsync_directory(loose)  # whoever made the folder may not have come to that yet
        lease.flushed_folders.add(name)
