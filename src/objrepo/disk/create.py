"""Creating and erasing a container, each by one rename, so that neither is half done after a crash."""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from objrepo.disk.layout import Layout, not_initialised
from objrepo.errors import RepositoryError
from objrepo.fsync import fsync_directory, fsync_file

_log: Final = logging.getLogger("objrepo")

_LONGEST_PREFIX: Final = 8
_NAME_BYTES: Final = 200  # of the folder's name in names beside it, which may have 255 bytes in all
_ERASING: Final = "config.json.erasing"
"""The name of ``config.json`` in a folder that is being erased in place, as it cannot be renamed."""

_OWN_NAMES: Final = re.compile(
    r"packs|loose|sandbox|duplicates|quarantine|packs\.idx(-wal|-shm|-journal)?|maintain\.lock|writer-[0-9]+\.lock"
    rf"|append-[0-9]+-[0-9]+|{re.escape(_ERASING)}"
)


def initialise(layout: Layout, *, clear: bool, **options: Any) -> None:
    """Create a container, or do nothing if there is one.

    :param clear: whether to delete a container that exists, with all its objects.
    :param options: those of ``Container.init_container``; None keeps the value of a container that exists, and
        stands for the default otherwise.
    :raises ValueError: if an option is invalid, or a container that exists has another value.
    :raises FileExistsError: if the folder holds other files than a container's.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("pack_size_target", "loose_prefix_len"):
        if name in given and (isinstance(given[name], bool) or not isinstance(given[name], int)):
            raise TypeError(f"{name} must be an int, not {type(given[name]).__name__}")
    if not 0 <= given.get("loose_prefix_len", 0) <= _LONGEST_PREFIX:
        raise ValueError(f"loose_prefix_len must be from 0 to {_LONGEST_PREFIX}, not {given['loose_prefix_len']}")
    if layout.config_file.exists() and not clear:
        _check_agreement(layout, given)
        return
    folder = layout.folder
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot create a repository at {folder}: it is a file; choose a folder")
    if folder.exists() and not _is_own(folder):
        raise FileExistsError(
            f"cannot create a repository at {folder}: the folder holds other files; choose an empty one"
        )
    _make(layout, given, clear)


def erase(layout: Layout) -> None:
    """Delete the container's folder, and finish an erase that was interrupted; no error if there is none.

    :raises NotInitialisedError: if the folder holds other files than a container's.
    """
    folder = layout.folder.resolve()
    _remove_erased(folder)
    if not folder.exists():
        return
    if not _is_own(folder):
        raise not_initialised(layout.folder)
    erased = _tmp_path(folder, "erasing")
    try:
        _rename(folder, erased)
    except OSError:  # it is a mount point, or the folder above cannot be written to
        _erase_in_place(folder)
    else:
        _remove(erased)


def _check_agreement(layout: Layout, options: dict[str, Any]) -> None:
    config = layout.config()
    for name, value in options.items():
        present = getattr(config, name)
        if present != value:
            raise ValueError(
                f"the repository at {layout.folder} has {name}={present!r}, which cannot be changed to {value!r}; "
                "create another repository and copy the objects to it"
            )


def _is_own(folder: Path) -> bool:
    """Return whether a folder holds a container, what an interrupted erase left of one, or nothing."""
    return (folder / "config.json").exists() or (
        folder.is_dir() and all(_OWN_NAMES.fullmatch(path.name) for path in folder.iterdir())
    )


def _make(layout: Layout, options: dict[str, Any], clear: bool) -> None:
    from objrepo.disk.container import PatchedContainer

    folder = layout.folder.resolve()
    created = [parent.parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"cannot create a repository at {folder}: {error.filename} is a file") from None
    # It is created under another name and then renamed, so that no process meets a part of it, and one of two that
    # create it at the same time wins. Options that are invalid raise an error before anything is deleted.
    tmp_path = _tmp_path(folder, "new")
    try:
        with PatchedContainer(tmp_path) as container:
            container.init_container(**options)
        _fsync_tree(tmp_path)
        if clear:
            erase(layout)
        try:
            if not clear:
                _remove_remains(folder)
            _move(tmp_path, folder)
        except OSError as error:
            if layout.config_file.exists():
                _check_agreement(layout, options)
            else:
                raise RepositoryError(f"cannot create a repository at {folder}: {error}") from error
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)
    for parent in (folder, folder.parent, *created):
        fsync_directory(parent)


def _fsync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _fsync_tree(path)
        else:
            with path.open("rb+") as file:
                fsync_file(file)
    fsync_directory(folder)


def _move(source: Path, folder: Path) -> None:
    try:
        os.rename(source, folder)  # noqa: PTH104  (`Path.rename` says the same, longer)
    except OSError:
        if not folder.is_dir() or any(folder.iterdir()):
            raise
        # Windows does not rename onto an empty folder, and no system renames onto a mount point. The configuration
        # goes last: it makes the folder a container.
        entries = sorted(source.iterdir(), key=lambda entry: entry.name == "config.json")
        for entry in entries:
            shutil.move(entry, folder / entry.name)


def _remove_remains(folder: Path) -> None:
    """Remove what an interrupted erase left. Objects in a folder without ``config.json`` are kept under another name.

    They may belong to a repository that only lost its configuration.
    """
    with suppress(OSError):  # the remains may belong to another user, and are not in the way
        _remove_erased(folder)
    if (folder / _ERASING).exists():
        _erase_in_place(folder)
    if (folder / "config.json").exists() or not folder.exists() or not any(folder.iterdir()):
        return
    remains = _tmp_path(folder, "remains")
    _rename(folder, remains)
    if (remains / "config.json").exists():  # another process has created the repository meanwhile
        _rename(remains, folder)
    elif any(path.is_file() for name in ("packs", "loose") for path in (remains / name).rglob("*")):
        _log.warning(
            "%s held objects but no config.json, as after an interrupted erase; they are now in %s: delete that folder "
            "if they are not needed",
            folder,
            remains,
        )
    else:
        _remove(remains)


def _remove_erased(folder: Path) -> None:
    """Remove what interrupted calls of :func:`erase` left beside the folder."""
    pattern = re.compile(re.escape(_tmp_prefix(folder)) + r"[0-9a-f]{32}\.erasing")
    if folder.parent.is_dir():
        for path in folder.parent.iterdir():
            if pattern.fullmatch(path.name):
                _remove(path)


def _erase_in_place(folder: Path) -> None:
    """Empty a folder; from the first step on it is no container, and the last step removes the trace of it."""
    marker = folder / _ERASING
    with suppress(FileNotFoundError):
        os.rename(folder / "config.json", marker)  # noqa: PTH104
    fsync_directory(folder)
    for path in folder.iterdir():
        if path != marker:
            _remove(path)
    marker.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        if any(folder.iterdir()):
            raise


def _remove(path: Path) -> None:
    """Remove a file, or a folder that another process may be removing, too."""
    while os.path.lexists(path):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:  # it names a file without its folder
            raise OSError(error.errno, f"{error.strerror} ({error.filename})", str(path)) from error


def _rename(source: Path, target: Path) -> None:
    os.rename(source, target)  # noqa: PTH104
    fsync_directory(target.parent)


def _tmp_path(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{_tmp_prefix(folder)}{uuid.uuid4().hex}.{suffix}")


def _tmp_prefix(folder: Path) -> str:
    return f".{os.fsdecode(os.fsencode(folder.name)[:_NAME_BYTES])}."
