"""`disk_objectstore.Container` with its packing made safe. Importing this imports SQLAlchemy."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from disk_objectstore import Container

from objrepo.disk.layout import Layout
from objrepo.disk.locks import pack_lock
from objrepo.disk.safe_open import safe_open
from objrepo.errors import with_path
from objrepo.fsync import fsync_directory, fsync_file

__all__ = ("PatchedContainer",)


class PatchedContainer(Container):  # type: ignore[misc]
    """A container that removes only the lock files which it made itself, and flushes the packs that it writes.

    In disk-objectstore 1.5.0, a packer that is refused deletes the lock of the packer that works, and so lets a
    third one in. And outside of macOS its ``safe_flush_to_disk(use_fullsync=True)``, which packing calls, flushes
    nothing: it duplicates the descriptors instead, and leaves them open. So ``pack_all_loose`` is to be called with
    ``do_fsync=False``, and a pack is flushed here, when it is closed and before the index is told of it.
    """

    @contextmanager
    def lock_pack(self, pack_id: str, allow_repack_pack: bool = False) -> Iterator[Any]:
        """Open a pack for appending, keep others from doing so, and flush it in the end; see ``Container.lock_pack``.

        :raises RepositoryBusyError: if somebody else has the pack's lock.
        """
        pack = self._get_pack_path_from_pack_id(pack_id, allow_repack_pack=allow_repack_pack)
        with pack_lock(Layout(self.get_folder()), int(pack_id)), safe_open(str(pack), "ab") as raw:
            handle = io.BufferedWriter(raw)
            with with_path(pack):
                yield handle
                fsync_file(handle)
            fsync_directory(pack.parent)
