"""Making a container and deleting it, whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

from objrepo.disk.layout import Layout, not_initialised
from objrepo.errors import RepositoryError
from objrepo.fsync import fsync_directory, fsync_file

__all__ = ("erase", "initialise")

_LONGEST_PREFIX: Final = 8


def initialise(layout: Layout, *, clear: bool, **options: Any) -> None:
    """Make a container, or do nothing if it is there already.

    :param clear: whether to delete a container that is there first, with all its objects.
    :param options: those of ``Container.init_container``; None stands for "as it is", else its default.
    :raises ValueError: if an option is bad, or if the container that is there has another value.
    :raises FileExistsError: if the folder holds something else than a container.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _check(given)
    if layout.config_file.exists():
        if not clear:
            _check_agreement(layout, given)
            return
        erase(layout)
    _check_free(layout)
    _make(layout, given)


def erase(layout: Layout) -> None:
    """Delete the container's folder; no error if there is none.

    :raises NotInitialisedError: if the folder holds something else than a container: that is not ours to delete.
    """
    folder = layout.folder
    if not folder.exists():
        return
    if not layout.config_file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise not_initialised(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:  # it names a file without its folder
        raise OSError(error.errno, f"{error.strerror} ({error.filename})", str(folder)) from error


def _check(options: dict[str, Any]) -> None:
    for name in ("pack_size_target", "loose_prefix_len"):
        if name in options and (isinstance(options[name], bool) or not isinstance(options[name], int)):
            raise TypeError(f"{name} must be an int, not {type(options[name]).__name__}")
    if not 0 <= options.get("loose_prefix_len", 0) <= _LONGEST_PREFIX:
        raise ValueError(f"loose_prefix_len must be from 0 to {_LONGEST_PREFIX}, not {options['loose_prefix_len']}")


def _check_agreement(layout: Layout, options: dict[str, Any]) -> None:
    config = layout.config()
    for name, value in options.items():
        present = getattr(config, name)
        if present != value:
            raise ValueError(
                f"the repository at {layout.folder} has {name}={present!r}, it cannot become {value!r}; "
                "make another one, and copy the objects there"
            )


def _check_free(layout: Layout) -> None:
    folder = layout.folder
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot make a repository at {folder}: it is a file; choose a folder")
    if folder.exists() and any(folder.iterdir()) and not layout.config_file.exists():
        raise FileExistsError(
            f"cannot make a repository at {folder}: the folder holds other files; choose an empty one"
        )


def _make(layout: Layout, options: dict[str, Any]) -> None:
    from disk_objectstore import Container

    folder = layout.folder.resolve()
    changed = [parent.parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"cannot make a repository at {folder}: {error.filename} is a file") from None
    # Made beside its place and then moved there, so that nobody meets half a container, and of two who make it at the
    # same time one wins.
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.new")
    try:
        with Container(beside) as container:
            container.init_container(**options)
        _flush(beside)
        try:
            _move(beside, folder)
        except OSError as error:
            if layout.config_file.exists():
                _check_agreement(layout, options)
            else:
                raise RepositoryError(f"cannot make a repository at {folder}: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for parent in (folder, folder.parent, *changed):
        fsync_directory(parent)


def _flush(folder: Path) -> None:
    """Have the disk store what is in a folder, and that it is there."""
    for path in folder.iterdir():
        if path.is_dir():
            _flush(path)
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
        # Windows does not rename onto an empty folder, and no system onto one on which a disk is mounted. The
        # configuration goes last: it is what makes the folder a container.
        entries = sorted(source.iterdir(), key=lambda entry: entry.name == "config.json")
        for entry in entries:
            shutil.move(entry, folder / entry.name)
