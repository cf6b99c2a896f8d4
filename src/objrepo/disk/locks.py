"""Who may do what at the same time: the locks of a container, across threads, processes and programs.

``maintain.lock`` is of one packer or deleter, and a ``writer-*.lock`` of one who writes groups to a pack; the system
gives both back when their owner dies. ``packs/*.lock`` is what disk-objectstore's packers agree by: a file that is
there or not, which stays when its owner is killed. Those made here say so, and are made under ``maintain.lock`` only:
whoever holds that one can tell that their owner is gone, and removes them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from objrepo.disk.layout import Layout
from objrepo.disk.safe_open import safe_open
from objrepo.errors import RepositoryBusyError, RepositoryError
from objrepo.offload import WorkCancelled, cancel_requested

__all__ = ("is_own_lock", "maintenance_lock", "own_pack_lock", "pack_lock")

_MARK: Final = b"made by objrepo, which holds maintain.lock while this is in use\n"
_POLL_SECONDS: Final = 0.02


@contextmanager
def maintenance_lock(layout: Layout, timeout: float, *, break_locks: bool = False) -> Iterator[None]:
    """Hold the lock that one packer at a time holds.

    :param timeout: how many seconds to wait for it; 0 tries once.
    :param break_locks: whether the caller knows that no other program is packing, so that its locks are left over.
    :raises RepositoryBusyError: if somebody else holds it, or if another program is writing to a pack.
    """
    import filelock

    try:
        lock = filelock.FileLock(layout.maintenance_lock).acquire(
            timeout=timeout, poll_interval=_POLL_SECONDS, cancel_check=cancel_requested
        )
    except filelock.Timeout:
        if cancel_requested():
            raise WorkCancelled from None
        raise RepositoryBusyError(
            f"the repository at {layout.folder} is being maintained by somebody else (lock {layout.maintenance_lock}); "
            "try again later"
        ) from None
    with lock:
        for path in layout.pack_locks():
            if break_locks or is_own_lock(path):
                path.unlink(missing_ok=True)
            else:
                raise RepositoryBusyError(
                    f"another program is packing the repository at {layout.folder}, or was killed while it did: "
                    f"{path} exists; if nobody is packing, `objrepo repair --exclusive` removes it"
                )
        yield


@contextmanager
def own_pack_lock(folder: Path, pack_id: int, timeout: float) -> Iterator[bool]:
    """Hold the lock of a pack that groups are written to, if it is to be had within ``timeout`` seconds."""
    import filelock

    lock = filelock.FileLock(folder / f"writer-{pack_id}.lock")
    try:
        lock.acquire(timeout=timeout, poll_interval=_POLL_SECONDS, cancel_check=cancel_requested)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def pack_lock(layout: Layout, pack_id: int) -> Iterator[None]:
    """Hold the lock of a pack that disk-objectstore's packers take too; the caller holds the maintenance lock.

    :raises RepositoryBusyError: if somebody else has it.
    """
    path = layout.packs / f"{pack_id}.lock"
    try:
        _make(path, layout.sandbox)
    except FileExistsError:
        raise RepositoryBusyError(
            f"another program is writing to pack {pack_id}, or was killed while it did: {path} exists; "
            "if nobody is packing, `objrepo repair --exclusive` removes it"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def is_own_lock(path: Path) -> bool:
    """Say whether a lock of a pack was made here."""
    with suppress(OSError, RepositoryError), safe_open(str(path)) as file:
        return file.read(len(_MARK) + 1) == _MARK
    return False


def _make(path: Path, sandbox: Path) -> None:
    """Make a lock with its mark in it at once, so that whoever is killed here leaves none without."""
    aside = sandbox / uuid.uuid4().hex
    aside.write_bytes(_MARK)
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):  # a file system without links
        with open(path, "xb") as file:
            file.write(_MARK)
    finally:
        aside.unlink()
