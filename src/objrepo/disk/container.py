"""`disk_objectstore.Container` with its packing made safe. Importing this imports SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from disk_objectstore import Container

from objrepo.disk.durable import flush_file, flush_folder, start_write_back
from objrepo.disk.turns import turn
from objrepo.errors import RepositoryBusyError

__all__ = ("SafeContainer",)

_COPY_BYTES: Final = 512 * 1024
_WRITE_BACK_BYTES: Final = 4 * 1024 * 1024


class SafeContainer(Container):  # type: ignore[misc]
    """A container that removes only the lock files which it made itself, and flushes the packs that it writes.

    In disk-objectstore 1.5.0, a packer that is refused deletes the lock of the packer that works, and so lets a
    third one in. And outside of macOS its ``safe_flush_to_disk(use_fullsync=True)``, which packing calls, flushes
    nothing: it duplicates the descriptors instead, and leaves them open. So ``pack_all_loose`` is to be called with
    ``do_fsync=False``, and a pack is flushed here, when it is closed and before the index is told of it.
    """

    def add_streamed_object(self, stream: Any) -> str:
        """Store what a stream gives as a loose object, the disk being at work from the first megabytes on.

        :return: the key.
        """
        writer = self._new_object_writer()
        written = begun = 0
        patient = True
        with writer as file:
            while chunk := stream.read(_COPY_BYTES):
                # What is small, or only the rest, is done sooner than waited for.
                with turn(patient and len(chunk) == _COPY_BYTES) as taken:
                    file.write(chunk)
                patient = taken or len(chunk) < _COPY_BYTES
                written += len(chunk)
                if written - begun >= _WRITE_BACK_BYTES:
                    start_write_back(file, begun, written - begun)
                    begun = written
        return str(writer.get_hashkey())

    @contextmanager
    def lock_pack(self, pack_id: str, allow_repack_pack: bool = False) -> Iterator[Any]:
        """Open a pack for appending, keep others from doing so, and flush it in the end; see ``Container.lock_pack``.

        :raises RepositoryBusyError: if somebody else has the pack's lock.
        """
        pack = self._get_pack_path_from_pack_id(pack_id, allow_repack_pack=allow_repack_pack)
        lock = pack.with_name(f"{pack_id}.lock")
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            raise RepositoryBusyError(
                f"another program is writing to pack {pack_id}, or was killed while it did: {lock} exists"
            ) from None
        try:
            with open(pack, "ab") as handle:
                yield handle
                flush_file(handle)
                flush_folder(pack.parent)
        finally:
            lock.unlink(missing_ok=True)
