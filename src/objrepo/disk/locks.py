"""The locks of a container, between threads, processes and programs.

One process at a time holds ``maintain.lock``, to pack or delete; one writer of groups holds a ``writer-*.lock``. The
system releases both when the process dies. ``packs/*.lock`` are the locks of disk-objectstore's packers: files that
exist or not, and that stay when the packer is killed. objrepo creates them with a mark, and only under
``maintain.lock``; so the process that holds that lock knows that a file with the mark is stale, and removes it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from objrepo.disk.layout import Layout
from objrepo.disk.safe_open import link_or_copy, safe_open
from objrepo.errors import RepositoryBusyError, RepositoryError
from objrepo.offload import WorkCancelled, cancel_requested

_MARK: Final = b"made by objrepo, which holds maintain.lock while this is in use\n"
_POLL_SECONDS: Final = 0.02


_pack_lock_timeout: Final = ContextVar("_pack_lock_timeout", default=0.0)
"""The timeout that the maintenance lock was acquired with: its holder waits as long for the lock of each pack."""


@contextmanager
def maintenance_lock(layout: Layout, timeout: float, *, break_locks: bool = False) -> Iterator[None]:
    """Hold the lock that one packer at a time holds.

    :param timeout: how many seconds to wait for it, and for other programs that write to packs; 0 tries once.
    :param break_locks: whether no other program is packing, so that its locks are stale and can be removed.
    :raises RepositoryBusyError: if another process holds the lock, or another program is writing to a pack.
    """
    deadline = time.monotonic() + timeout
    with _file_lock(layout.maintenance_lock, timeout) as locked:
        if not locked and cancel_requested():
            raise WorkCancelled
        if not locked:
            raise RepositoryBusyError(
                f"another process is maintaining the repository at {layout.folder} (lock {layout.maintenance_lock}); "
                "try again later"
            )
        if not break_locks and not _wait(lambda: _other_lock(layout) is None, deadline):
            raise _busy(_other_lock(layout) or layout.packs)
        for path in layout.pack_locks():
            if break_locks or is_own_lock(path):
                path.unlink(missing_ok=True)
        token = _pack_lock_timeout.set(timeout)
        try:
            yield
        finally:
            _pack_lock_timeout.reset(token)


def own_pack_lock(folder: Path, pack_id: int, timeout: float) -> AbstractContextManager[bool]:
    """Hold the lock of a pack that groups are written to; False if it is not free within ``timeout`` seconds."""
    return _file_lock(folder / f"writer-{pack_id}.lock", timeout)


@contextmanager
def _file_lock(path: Path, timeout: float) -> Iterator[bool]:
    import filelock

    try:
        # Not bound to a thread: the calls of a batch run on several.
        lock = filelock.FileLock(path, thread_local=False).acquire(
            timeout=timeout, poll_interval=_POLL_SECONDS, cancel_check=cancel_requested
        )
    except filelock.Timeout:
        yield False
        return
    with lock:
        yield True


@contextmanager
def pack_lock(layout: Layout, pack_id: int) -> Iterator[None]:
    """Hold the lock of a pack that disk-objectstore's packers take too; the caller holds the maintenance lock.

    :raises RepositoryBusyError: if another program holds it for longer than the timeout of the maintenance lock.
    """
    path = layout.packs / f"{pack_id}.lock"
    if not _wait(lambda: _create(path, layout.sandbox), time.monotonic() + _pack_lock_timeout.get()):
        raise _busy(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def is_own_lock(path: Path) -> bool:
    """Return whether objrepo created the lock of a pack."""
    with suppress(OSError, RepositoryError), safe_open(str(path)) as file:
        return file.read(len(_MARK) + 1) == _MARK
    return False


def _other_lock(layout: Layout) -> Path | None:
    """Return the lock of a pack that another program created, if there is one."""
    return next((path for path in layout.pack_locks() if not is_own_lock(path) and os.path.lexists(path)), None)


def _wait(succeeds: Callable[[], bool], deadline: float) -> bool:
    """Call a function until it returns True or the time is over."""
    while not succeeds():
        if cancel_requested():
            raise WorkCancelled
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _busy(path: Path) -> RepositoryBusyError:
    return RepositoryBusyError(
        f"another program is writing to a pack, or was killed while it was: {path} exists; try again later, or if no "
        "program is packing, remove it with `repair(live=False)` or `objrepo repair --exclusive`"
    )


def _create(path: Path, sandbox: Path) -> bool:
    """Create a lock unless it exists. It has its mark from the start: a process killed here leaves none without."""
    tmp_path = sandbox / uuid.uuid4().hex
    tmp_path.write_bytes(_MARK)
    try:
        link_or_copy(tmp_path, path)
        return True
    except FileExistsError:
        return False
    finally:
        tmp_path.unlink()
