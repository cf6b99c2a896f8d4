"""`DiskRepository`: the default, which needs nothing but a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from objrepo.disk import create
from objrepo.disk.bulk_reader import FileSignatures, Item, open_items, plan, read_each
from objrepo.disk.group_commit import put_group
from objrepo.disk.listing import Cursor, list_keys
from objrepo.disk.locks import maintenance_lock
from objrepo.disk.loose import remove_loose, write_loose
from objrepo.disk.mending import Repairable
from objrepo.disk.reader import find_size, has_object, has_objects, open_object, read_at_once, read_object
from objrepo.disk.session import ContainerSession
from objrepo.disk.stats import DiskInfo, ObjectLocation, info_of, location_of
from objrepo.disk.verify import check_objects, find_leftovers
from objrepo.errors import NotInitialisedError, ObjectNotFoundError, RepositoryError
from objrepo.keys import require_str, valid_keys
from objrepo.offload import UNBATCHED, Offload, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader, Source
from objrepo.reports import (
    Leftover,
    MaintenanceReport,
    ProgressCallback,
    Statistics,
    VerifyReport,
)
from objrepo.repository import LIST_PAGE_SIZE, MAX_GROUPED_OBJECT_BYTES, log_report
from objrepo.sources import ChainedReader, open_source, read_up_to
from objrepo.streams import BATCH_BYTES, OpenedObject

__all__ = ("DiskInfo", "DiskRepository", "ObjectLocation")

T = TypeVar("T")

_DELETE_PATIENCE: Final = 30.0
"""How many seconds a deletion waits for a packer: a packer would bring back what is deleted under it."""


class DiskRepository(Repairable):
    """Keeps objects in a folder that is a ``disk_objectstore.Container``, under the hash of their content.

    AiiDA, ``dostore`` and other processes may read and write the same folder at any time. A ``put`` returns when the
    object is on the disk, not only on its way there.

    :param path: the folder; nothing is read or made before the first use.
    :param offload: where the blocking work is done; worker threads unless given.
    """

    def __init__(self, path: str | os.PathLike[str], offload: Offload | None = None) -> None:
        super().__init__(Path(path).absolute(), offload)

    def __str__(self) -> str:
        return f"DiskRepository at {self._layout.folder}"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._layout.folder

    async def initialise(
        self,
        *,
        clear: bool = False,
        pack_size_target: int | None = None,
        loose_prefix_len: int | None = None,
        hash_type: str | None = None,
        compression_algorithm: str | None = None,
    ) -> None:
        """Make the repository, or do nothing where it is made already. Cancellation is waited for.

        The options and their defaults are those of ``Container.init_container`` of disk-objectstore.

        :param clear: whether to delete a repository that is there first, with all its objects.
        :param pack_size_target: from which size in bytes on a pack is full; 4 GiB unless given.
        :param loose_prefix_len: how many digits of the key name the folder of a loose object, 0 to 8; 2 unless given.
        :param hash_type: ``'sha256'``, which it is unless given, or ``'sha1'``.
        :param compression_algorithm: ``'zlib+1'``, which it is unless given, to ``'zlib+9'``.
        :raises ValueError: if an option is bad, or contradicts the repository that is there.
        :raises TypeError: if an option is of a wrong type.
        :raises FileExistsError: if the folder holds something else than a repository.
        :raises NotADirectoryError: if the path is a file.
        """
        await super().initialise(
            clear=clear,
            pack_size_target=pack_size_target,
            loose_prefix_len=loose_prefix_len,
            hash_type=hash_type,
            compression_algorithm=compression_algorithm,
        )

    async def info(self, detailed: bool = False) -> DiskInfo:
        """Return the state of the repository. Cancellation leaves it to the worker to end by itself.

        :param detailed: whether to sum up the sizes too, which takes longer.
        """
        return await self._ready().run(self._info, detailed, wait=False)

    async def locate(self, key: str) -> ObjectLocation:
        """Return where an object is, in which file. Cancellation leaves it to the worker to end by itself.

        :raises ObjectNotFoundError: if the object is not there.
        """
        return await self._ready().run(self._locate, require_str(key), wait=False)

    async def maintain(
        self,
        dry_run: bool = False,
        live: bool = True,
        *,
        pack_loose: bool | None = None,
        do_repack: bool | None = None,
        clean_storage: bool | None = None,
        do_vacuum: bool | None = None,
        compress: bool = False,
        incremental_cleanup: bool = True,
        timeout: float = 0,
        progress: ProgressCallback | None = None,
    ) -> MaintenanceReport:
        """Pack loose objects and, when nobody else uses the repository, rewrite packs and index without holes.

        A step that is None is taken wherever it is safe. Cancellation stops the work between two objects or two
        packs and is waited for; what was finished by then stays.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only packing and removing loose copies is done.
        :param pack_loose: whether to move loose objects into packs. Size of the step: the bytes of these objects.
        :param do_repack: whether to rewrite packs without what was deleted. Size of the step: the bytes it frees.
        :param clean_storage: whether to remove loose files of packed objects. Size of the step: the bytes of these.
        :param do_vacuum: whether to rewrite the index. Size of the step: the bytes of the index.
        :param compress: whether packing compresses the objects that are worth it.
        :param incremental_cleanup: whether loose files go as soon as their pack is written, which needs less space,
            or only with ``clean_storage``.
        :param timeout: how many seconds to wait for another packer to end; 0 does not wait.
        :param progress: told of each object that was packed and each pack that was rewritten.
        :raises ValueError: if ``do_repack``, ``clean_storage`` or ``do_vacuum`` is asked for with ``live``.
        :raises RepositoryBusyError: if another packer is at work, at once or after ``timeout``.
        :raises CorruptObjectError: if a loose object does not hash to its key; it is not packed.
        """
        from objrepo.disk.maintenance import Plan

        plan = Plan.of(live, pack_loose, do_repack, clean_storage, do_vacuum, compress, incremental_cleanup)
        report = await self._ready().run(self._maintain, plan, dry_run, timeout, progress)
        log_report(self, report)
        return report

    def statistics(self) -> Statistics:
        """Return what this object is doing at the moment. It may be called at any time, and blocks nothing."""
        return replace(super().statistics(), idle_connections=self._pool.idle)

    def _initialise(self, **options: Any) -> None:
        if options["clear"]:
            self._pool.close()
        create.initialise(self._layout, **options)

    def _is_initialised(self) -> bool:
        return self._layout.is_initialised()

    def _uuid(self) -> str | None:
        with suppress(NotInitialisedError), self._pool.lease() as lease:
            return lease.config.container_id
        return None

    def _key_format(self) -> str:
        with self._pool.lease() as lease:
            return lease.config.hash_type

    def _put(self, reader: BinaryReader) -> str:
        with self._pool.lease() as lease:
            return write_loose(lease, reader)

    _groups_puts = True

    def _put_each(self, sources: list[memoryview | os.PathLike[str]]) -> list[Any]:
        outcomes = [source if isinstance(source, memoryview) else _small_file(source) for source in sources]
        small = {number: content for number, content in enumerate(outcomes) if content is not UNBATCHED}
        if len(small) > 1:
            stored = self._put_small(small)
        else:  # who is alone puts it where AiiDA does, in a file of its own
            stored = {number: self._outcome(content) for number, content in small.items()}
        return [stored.get(number, UNBATCHED) for number in range(len(sources))]

    def _outcome(self, content: memoryview | bytes) -> Any:
        try:
            return self._put_alone(memoryview(content))
        except (RepositoryError, OSError) as error:
            return error

    def _put_all(self, sources: Sequence[Source]) -> list[str]:
        keys: dict[int, str] = {}
        small: dict[int, bytes] = {}
        size = 0
        try:
            for number, source in enumerate(sources):
                if cancel_requested():
                    raise WorkCancelled
                with open_source(source) as reader:
                    head = read_up_to(reader, MAX_GROUPED_OBJECT_BYTES + 1)
                    if len(head) > MAX_GROUPED_OBJECT_BYTES:
                        keys[number] = self._put(ChainedReader(head, reader))
                        continue
                small[number] = head
                size += len(head)
                if size >= BATCH_BYTES:
                    keys |= self._put_small(small)
                    small, size = {}, 0
        finally:  # if a source raises, what came before it is stored all the same
            keys |= self._put_small(small)
        return [keys[number] for number in range(len(sources))]

    def _put_small(self, contents: dict[int, Any]) -> dict[int, str]:
        if not contents:
            return {}
        with self._pool.lease() as lease:
            return dict(zip(contents, put_group(lease, list(contents.values())), strict=True))

    def _has_one(self, key: object) -> bool:
        with self._pool.lease() as lease:
            return isinstance(key, str) and bool(lease.matches(key)) and has_object(lease, key)

    def _has(self, keys: Sequence[object]) -> list[bool]:
        with self._pool.lease() as lease:
            found = has_objects(lease, valid_keys(keys, lease.config.hash_type))
        return [isinstance(key, str) and key in found for key in keys]

    def _get_each(self, keys: list[str]) -> list[Any]:
        with self._pool.lease() as lease:
            possible = list(dict.fromkeys(valid_keys(keys, lease.config.hash_type)))
            outcomes = read_each(lease, possible, self) if possible else {}
        return [outcomes[key] if key in outcomes else ObjectNotFoundError([key], self) for key in keys]

    def _get(self, key: str) -> bytes:
        with self._pool.lease(checked=False) as lease:
            if lease.matches(key) and (content := read_at_once(lease, key)) is not None:
                return content
        with self._pool.lease() as lease:
            content = read_object(lease, key) if lease.matches(key) else None
        if content is None:
            raise ObjectNotFoundError([key], self)
        return content

    def _open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        with self._pool.lease() as lease:
            opened = open_object(lease, key, offset, length) if lease.matches(key) else None
        if opened is None:
            raise ObjectNotFoundError([key], self)
        return self._kept(opened)

    def _size(self, key: str) -> int:
        return self._found(key, find_size)

    def _found(self, key: str, look: Callable[[ContainerSession, str], T | None]) -> T:
        with self._pool.lease() as lease:
            found = look(lease, key) if lease.matches(key) else None
        if found is None:
            raise ObjectNotFoundError([key], self)
        return found

    def _plan(self, keys: Sequence[str]) -> tuple[Sequence[Item], Callable[[Sequence[Item]], list[OpenedObject]]]:
        with self._pool.lease() as lease:
            if len(valid_keys(keys, lease.config.hash_type)) < len(keys):
                self._require(keys)
            items, stamps = plan(lease, keys, self)
        return items, partial(self._open_items, stamps)

    def _open_items(self, stamps: FileSignatures, items: Sequence[Item]) -> list[OpenedObject]:
        with self._pool.lease() as lease:
            opened = open_items(lease, stamps, items, self)
        self._kept(opened[-1])
        return opened

    def _list(self, cursor: Cursor | None) -> tuple[list[str], Cursor | None]:
        with self._pool.lease() as lease:
            return list_keys(lease, cursor, LIST_PAGE_SIZE)

    def _delete(self, keys: Sequence[str]) -> None:
        with self._pool.lease() as lease, maintenance_lock(lease.layout, _DELETE_PATIENCE):
            found = has_objects(lease, keys)
            if missing := [key for key in keys if key not in found]:
                raise ObjectNotFoundError(missing, self)
            # Loose ones first: whatever stops this, nothing that was packed as well comes back as it was.
            remove_loose(lease, list(keys))
            lease.index.remove(keys)

    def _locate(self, key: str) -> ObjectLocation:
        return self._found(key, location_of)

    def _info(self, detailed: bool) -> DiskInfo:
        with self._pool.lease() as lease:
            return info_of(lease, detailed)

    def _maintain(
        self, plan: Any, dry_run: bool, timeout: float, progress: ProgressCallback | None
    ) -> MaintenanceReport:
        from objrepo.disk.maintenance import estimate, run

        with self._pool.lease() as lease:
            if dry_run:
                return MaintenanceReport(True, estimate(lease, plan))
            with maintenance_lock(lease.layout, timeout):
                return MaintenanceReport(False, run(lease, plan, progress))

    def _verify(self, keys: Sequence[str], quick: bool) -> VerifyReport:
        with self._pool.lease() as lease:
            return check_objects(lease, keys, quick)

    def _leftovers(self) -> tuple[Leftover, ...]:
        with self._pool.lease() as lease:
            return find_leftovers(lease)

    def _erase(self) -> None:
        self._pool.close()
        create.erase(self._layout)

    def _close(self) -> None:
        self._pool.close()


def _small_file(path: os.PathLike[str]) -> bytes | Any:
    """Return the content of a file; ``UNBATCHED`` where it may be large, or block, or cannot be read."""
    try:
        status = Path(path).stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_GROUPED_OBJECT_BYTES:
            with open(path, "rb", buffering=0) as file:
                content = file.read(MAX_GROUPED_OBJECT_BYTES + 1)
            if len(content) <= MAX_GROUPED_OBJECT_BYTES:
                return content
    except (OSError, ValueError):
        pass  # done alone, it meets its error
    return UNBATCHED
