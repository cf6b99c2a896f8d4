"""Numbers and sizes of a container's objects and files."""

from __future__ import annotations

from dataclasses import dataclass, replace

from objrepo.disk.listing import loose_keys, loose_sizes
from objrepo.disk.safe_open import is_inside, signature, signature_of
from objrepo.disk.session import ContainerSession
from objrepo.reports import HTMLTableMixin, RepositoryInfo


@dataclass(frozen=True, kw_only=True)
class DiskInfo(RepositoryInfo):
    """The state of a :class:`DiskRepository`; sizes are in bytes, and None without ``detailed``.

    :ivar compression_algorithm: the algorithm for compressed objects in packs, such as ``'zlib+1'``.
    :ivar loose: the number of loose files, of packed objects too.
    :ivar packed: the number of packed objects.
    :ivar pack_files: the number of packs.
    :ivar loose_size: the size of all loose files.
    :ivar packed_size: the size of all packed objects when decompressed.
    :ivar packed_size_on_disk: the size of all packed objects in the packs.
    :ivar pack_files_size: the size of the packs, with the bytes of deleted objects.
    :ivar index_size: the size of the index of the packs.
    """

    compression_algorithm: str
    loose: int
    packed: int
    pack_files: int
    loose_size: int | None = None
    packed_size: int | None = None
    packed_size_on_disk: int | None = None
    pack_files_size: int | None = None
    index_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectLocation(HTMLTableMixin):
    """The place of an object in the files of a :class:`DiskRepository`.

    :ivar key: its key.
    :ivar size: its size in bytes.
    :ivar loose: whether it has a loose file; it may be packed too.
    :ivar pack: the number of its pack; None, as the following, if it is not packed.
    :ivar offset: the position of its first byte in the pack.
    :ivar length: the number of bytes in the pack.
    :ivar compressed: whether these bytes are compressed.
    """

    key: str
    size: int
    loose: bool
    pack: int | None = None
    offset: int | None = None
    length: int | None = None
    compressed: bool | None = None


def location_of(session: ContainerSession, key: str) -> ObjectLocation | None:
    """Return the place of an object, None if it does not exist."""
    status = is_inside(session.layout.loose_name(session.config, key))
    row = session.index.row(key)
    if row is not None:
        place = {"pack": row.pack_id, "offset": row.offset, "length": row.length}
        return ObjectLocation(
            key=key, size=row.size, loose=status is not None, compressed=bool(row.compressed), **place
        )
    return None if status is None else ObjectLocation(key=key, size=status.st_size, loose=True)


def version_of(session: ContainerSession, key: str) -> tuple[int, ...] | None:
    """Return the state of the file that holds an object, and where the object is in a pack; None if there is none."""
    row = session.index.row(key)
    if row is None:
        status = is_inside(session.layout.loose_name(session.config, key))
        return None if status is None else signature_of(status)
    pack = signature(session.packs.path(row.pack_id))
    return None if pack is None else (*pack, row.offset)


def info_of(session: ContainerSession, detailed: bool) -> DiskInfo:
    """Return the numbers of objects and files.

    :param detailed: whether to add up the sizes too.
    """
    loose = loose_size = copies = copies_size = 0
    for keys in loose_keys(session):
        loose += len(keys)
        rows = session.index.rows(keys)
        copies += len(rows)
        copies_size += sum(row[-1] for row in rows)
        if detailed:
            loose_size += sum(loose_sizes(session, keys).values())
    packed = session.index.count()
    info = DiskInfo(
        location=str(session.layout.folder),
        uuid=session.config.container_id,
        key_format=session.config.hash_type,
        objects=packed + loose - copies,
        compression_algorithm=session.config.compression_algorithm,
        loose=loose,
        packed=packed,
        pack_files=len(session.layout.pack_files()),
    )
    if not detailed:
        return info
    packed_size, packed_size_on_disk = session.index.sums()
    return replace(
        info,
        size=packed_size + loose_size - copies_size,
        loose_size=loose_size,
        packed_size=packed_size,
        packed_size_on_disk=packed_size_on_disk,
        pack_files_size=session.layout.pack_files_size(),
        index_size=session.layout.index_file.stat().st_size,
    )
