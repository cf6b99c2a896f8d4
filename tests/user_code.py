"""What users write, for the type checkers to look at; `test_user_code.py` runs it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiofiles
import anyio
from anyio.abc import ByteReceiveStream

from objrepo import AsyncRepository, DiskRepository, MemoryRepository, ObjectStream, SandboxRepository
from objrepo.disk import DiskInfo
from objrepo.offload import Inline, Threads
from objrepo.reports import MaintenanceReport, Progress


async def chunks() -> AsyncIterator[bytes]:
    """Yield the pieces of an object."""
    yield b"in "
    yield b"pieces"


async def sources(repo: AsyncRepository, path: Path) -> list[str]:
    """Put one object of each kind of source."""
    with path.open("rb") as file:
        keys = [
            await repo.put(b"bytes"),
            await repo.put(bytearray(b"bytearray")),
            await repo.put(memoryview(b"memoryview")),
            await repo.put(path),
            await repo.put(anyio.Path(path)),
            await repo.put(file),
            await repo.put(io.BytesIO(b"in memory")),
            await repo.put([b"an iterable ", b"of bytes"]),
            await repo.put(chunks()),
        ]
    async with await anyio.open_file(path, "rb") as anyio_file, aiofiles.open(path, "rb") as aiofiles_file:
        keys += [await repo.put(anyio_file), await repo.put(aiofiles_file)]
    return keys + await repo.put_many([path, b"bytes", chunks()])


async def read(repo: AsyncRepository, key: str) -> bytes:
    """Read an object in every way."""
    if not await repo.has(key) or not all(await repo.has_many([key])):
        return b""
    parts = bytearray()
    async with repo.open(key, offset=1, length=10) as stream:
        as_stream: ObjectStream = stream
        async for chunk in as_stream:
            parts += chunk
        position: int = await stream.seek(0)
        parts += await stream.read(position)
    async with repo.stream([key]) as objects:
        async for _, stream in objects:
            parts += await stream.read()
    assert await repo.size(key) == len(await repo.get(key))
    return bytes(parts)


async def manage(repo: DiskRepository) -> None:
    """Look after a repository on disk."""

    def show(progress: Progress) -> None:
        print(progress.step, progress.done, progress.total)

    await repo.initialise(pack_size_target=1024**3, loose_prefix_len=2)
    info: DiskInfo = await repo.info(detailed=True)
    print(info.loose, info.packed_size)
    report: MaintenanceReport = await repo.maintain(live=False, compress=True, timeout=5, progress=show)
    print([step.name for step in report.steps])
    print((await repo.verify(progress=show)).ok)
    async for key in repo.keys():
        print(key, await repo.hash(key))


def forward(stream: ByteReceiveStream) -> ByteReceiveStream:
    """Take any stream of anyio."""
    return stream


async def main(folder: Path) -> None:
    """Do all of it."""
    path = folder / "file"
    path.write_bytes(b"the content of a file")
    repositories: list[AsyncRepository] = [
        DiskRepository(folder / "disk", Threads(limit=4)),
        SandboxRepository(folder),
        MemoryRepository(Inline()),
    ]
    for repository in repositories:
        async with repository:
            await repository.initialise()
            for key in await sources(repository, path):
                assert await read(repository, key)
            await repository.delete_many([key async for key in repository.keys()])
            await repository.erase()
    async with DiskRepository(folder / "disk") as disk:
        await manage(disk)
