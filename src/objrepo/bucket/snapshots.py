"""Writing snapshots: the whole state after one entry of the log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Final

from objrepo.bucket.client import BucketClient
from objrepo.bucket.encoding import SnapshotHead, decode_location, encode_location
from objrepo.bucket.local_index import CHUNK_ROWS, Scan
from objrepo.bucket.log import SNAPSHOTS, name_of
from objrepo.bucket.packs import PACK_BYTES
from objrepo.offload import WorkCancelled, cancel_requested

_PART_BYTES: Final = 1024 * 1024


def write_snapshot(bucket: BucketClient, scan: Scan, number: int) -> None:
    """Write the snapshot of a state, in bounded memory. Every program would write the same bytes.

    :param number: the last log entry that it includes.
    """
    used: set[int] = set()
    rows = 0
    for _, location in scan.rows():
        used.add(decode_location(location)[0])
        rows += 1
    names = sorted(scan.packs[pack] for pack in used)
    new = {name: position for position, name in enumerate(names)}
    tombstones, retired = scan.tombstones(), scan.retired()
    head = SnapshotHead(number, len(names), len(tombstones), len(retired), rows)

    def parts() -> Iterator[bytes]:
        yield head.encode()
        yield b"".join(names)
        for marks in (tombstones, retired):
            yield b"".join(key + position.to_bytes(8) for key, position in marks)
        left = scan.rows()
        while batch := list(islice(left, CHUNK_ROWS)):
            if cancel_requested():
                raise WorkCancelled
            yield b"".join(key + _renumbered(location, scan.packs, new) for key, location in batch)

    def chunks() -> Iterator[bytes]:
        hasher = hashlib.sha256()
        gathered = b""
        for part in parts():
            hasher.update(part)
            gathered += part
            if len(gathered) >= _PART_BYTES:
                yield gathered
                gathered = b""
        yield gathered + hasher.digest()

    name = name_of(number, SNAPSHOTS)
    if head.size <= PACK_BYTES:
        bucket.put(name, b"".join(chunks()))
    else:
        bucket.upload(name, chunks, head.size)


def _renumbered(location: bytes, names: dict[int, bytes], new: dict[bytes, int]) -> bytes:
    pack, offset, length = decode_location(location)
    return encode_location(new[names[pack]], offset, length)
