"""The contract of `put`, `put_many` and `create`: sources, invalid values, failures."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from aiofiles.threadpool import wrap as aiofiles_wrap
from anyio.streams.file import FileReadStream

from objrepo.errors import RepositoryClosedError, RepositoryError
from objrepo.keys import is_key
from objrepo.protocol import AsyncRepository, ObjectWriter, Source
from objrepo.reports import Progress
from objrepo.testing.fixtures import SIZES, content_of

CONTENT = content_of(2 * 1024 * 1024 + 3)
"""Larger than the buffer of async sources, so that these are piped to a worker thread."""


class Broken:
    """A file whose second ``read`` raises or returns another type than bytes."""

    def __init__(self, then: object) -> None:
        self.chunks: list[Any] = [b"a chunk", then]

    def read(self, size: int = -1) -> Any:
        del size
        chunk = self.chunks.pop(0)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk


def chunks(content: bytes, size: int = 100_000) -> Iterator[bytes]:
    """Cut a content into pieces, the first of them empty."""
    yield b""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def achunks(content: bytes) -> AsyncIterator[bytes]:
    """Cut a content into pieces, asynchronously."""
    for chunk in chunks(content):
        await anyio.lowlevel.checkpoint()
        yield chunk


def spooled(content: bytes) -> Any:
    """Return a temporary file at its start."""
    file = tempfile.SpooledTemporaryFile(max_size=10)
    file.write(content)
    file.seek(0)
    return file


def at_its_third_byte(file: Any) -> Any:
    """Read two bytes."""
    assert len(file.read(2)) == 2
    return file


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "a memoryview of ints": lambda path: memoryview(path.read_bytes() + b"\0").cast("I")[: len(CONTENT) // 4],
    "every second byte of a memoryview": lambda path: memoryview(path.read_bytes())[::2],
    "pathlib.Path": lambda path: path,
    "anyio.Path": anyio.Path,
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "file read in part": lambda path: at_its_third_byte(path.open("rb")),
    "io.BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "spooled temporary file": lambda path: spooled(path.read_bytes()),
    "anyio file": lambda path: anyio.wrap_file(path.open("rb")),
    "anyio file read in part": lambda path: anyio.wrap_file(at_its_third_byte(path.open("rb"))),
    "aiofiles file": lambda path: aiofiles_wrap(path.open("rb"), loop=None, executor=None),
    "aiofiles file read in part": lambda path: aiofiles_wrap(
        at_its_third_byte(path.open("rb")), loop=None, executor=None
    ),
    "list of bytes": lambda path: list(chunks(path.read_bytes())),
    "generator": lambda path: chunks(path.read_bytes()),
    "async generator": lambda path: achunks(path.read_bytes()),
    "short async generator": lambda path: achunks(path.read_bytes()[:1000]),
    "anyio byte stream": lambda path: FileReadStream(path.open("rb")),
    "async read": lambda path: SimpleNamespace(read=anyio.wrap_file(io.BytesIO(path.read_bytes())).read),
}


def expected(kind: str, content: bytes) -> bytes:
    """Return the part of a content that a kind of source stores."""
    if kind.endswith("in part"):
        return content[2:]
    if kind == "a memoryview of ints":
        return content[: len(content) // 4 * 4]
    if kind.startswith("every second"):
        return content[::2]
    return content[:1000] if kind.startswith("short") else content


class PutContract:
    """Promises of ``put``, ``put_many`` and ``create``."""

    @pytest.mark.parametrize("size", SIZES)
    async def test_put_stores_the_content(self, repo: AsyncRepository, size: int) -> None:
        key = await repo.put(content_of(size))
        assert is_key(key, await repo.key_format())
        assert await repo.get(key) == content_of(size)
        assert await repo.size(key) == size
        assert await repo.has(key)

    @pytest.mark.parametrize("kind", SOURCES)
    async def test_sources_of_every_kind_are_stored(self, repo: AsyncRepository, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "source"
        path.write_bytes(CONTENT)
        source = SOURCES[kind](path)
        key = await repo.put(source)
        assert await repo.get(key) == expected(kind, CONTENT)
        file = getattr(source, "wrapped", getattr(source, "_file", source))
        if isinstance(file, io.IOBase):
            assert not file.closed, "put does not close the source"
            file.close()

    async def test_a_stream_of_an_object_is_a_source(self, repo: AsyncRepository) -> None:
        key = await repo.put(CONTENT)
        async with repo.open(key, offset=5) as stream:
            assert await repo.get(await repo.put(stream)) == CONTENT[5:]

    async def test_a_pipe_is_a_source(self, repo: AsyncRepository) -> None:
        ours, theirs = os.pipe()
        async with anyio.create_task_group() as group:
            with open(ours, "rb") as reader, open(theirs, "wb") as writer:

                def write() -> None:
                    writer.write(CONTENT)
                    writer.close()

                group.start_soon(anyio.to_thread.run_sync, write)
                assert await repo.get(await repo.put(reader)) == CONTENT

    @pytest.mark.parametrize(
        "source",
        ["text", "", io.StringIO("text"), ["text"], [1, 2], 7, None, 1.5, {"a": b"b"}, object()],
        ids=lambda source: repr(source)[:20],
    )
    async def test_values_that_are_no_sources_raise_type_error(self, repo: AsyncRepository, source: Any) -> None:
        with pytest.raises(TypeError, match=r"bytes|binary"):
            await repo.put(source)
        assert [key async for key in repo.keys()] == []

    async def test_a_text_file_raises_type_error(self, repo: AsyncRepository, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("text")
        with (tmp_path / "text").open() as file:
            for source in (file, anyio.wrap_file(file), aiofiles_wrap(file, loop=None, executor=None)):
                with pytest.raises(TypeError, match="open it in binary mode"):
                    await repo.put(source)  # type: ignore[arg-type]

    @pytest.mark.parametrize("then", [None, "text", 7, OSError("the tape is damaged")], ids=repr)
    async def test_a_source_that_fails_stores_nothing(self, repo: AsyncRepository, then: Any) -> None:
        async def later() -> AsyncIterator[Any]:
            yield CONTENT
            if isinstance(then, Exception):
                raise then
            yield then

        for source in (Broken(then), later()):
            with pytest.raises(OSError if isinstance(then, OSError) else TypeError) as caught:
                await repo.put(source)
            assert str(caught.value)
        assert [key async for key in repo.keys()] == []
        assert (await repo.verify()).ok

    async def test_closed_and_missing_files_and_folders_raise(self, repo: AsyncRepository, tmp_path: Path) -> None:
        file = (tmp_path / "empty").open("xb")
        file.close()
        for source, error in (
            (file, ValueError),
            (tmp_path / "missing", FileNotFoundError),
            (tmp_path, (IsADirectoryError, PermissionError)),
        ):
            with pytest.raises(error):
                await repo.put(source)
        assert [key async for key in repo.keys()] == []

    async def test_put_many_returns_keys_in_order(self, repo: AsyncRepository, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"from a file")
        many = [b"%d" % number for number in range(600)]
        sources: list[Source] = [
            *many,
            path,
            achunks(CONTENT),
            b"",
            io.BytesIO(b"from memory"),
            CONTENT,
            [b"in ", b"pieces"],
            b"7",
        ]
        keys = await repo.put_many(sources)
        contents = [*many, b"from a file", CONTENT, b"", b"from memory", CONTENT, b"in pieces", b"7"]
        assert [await repo.get(key) for key in keys] == contents

    async def test_put_many_accepts_sync_and_async_iterators(self, repo: AsyncRepository) -> None:
        async def later() -> AsyncIterator[bytes]:
            for number in range(3):
                await anyio.lowlevel.checkpoint()
                yield b"%d" % number

        keys = await repo.put_many(later())
        again = await repo.put_many(b"%d" % number for number in range(3))
        assert [await repo.get(key) for key in keys] == [await repo.get(key) for key in again] == [b"0", b"1", b"2"]
        assert await repo.put_many([]) == []

    async def test_put_many_reports_its_progress(self, repo: AsyncRepository) -> None:
        steps: list[Progress] = []
        sources = [b"%d" % number for number in range(1500)]
        await repo.put_many(sources, progress=steps.append)
        assert (steps[-1].done, steps[-1].total, steps[-1].unit) == (1500, 1500, "objects")
        await repo.put_many(iter(sources), progress=steps.append)
        assert (steps[-1].done, steps[-1].total) == (1500, None)

    async def test_put_many_keeps_objects_before_an_iterator_raises(self, repo: AsyncRepository) -> None:
        def broken(name: bytes) -> Iterator[Source]:
            yield name
            yield [b"second of ", name]
            raise KeyError("mine")

        async def async_broken(name: bytes) -> AsyncIterator[Source]:
            for source in broken(name):
                yield source

        for sources in (broken(b"sync"), async_broken(b"async")):
            before = (await repo.info()).objects
            with pytest.raises(KeyError, match="mine"):
                await repo.put_many(sources)
            assert (await repo.info()).objects == before + 2

    async def test_put_many_of_other_values_raises_type_error(self, repo: AsyncRepository) -> None:
        for sources in (b"bytes", "text", [b"good", "text"], [b"good", None], 7, None):
            with pytest.raises(TypeError):
                await repo.put_many(sources)  # type: ignore[arg-type]

    async def test_many_tasks_put_one_object(self, repo: AsyncRepository) -> None:
        keys = set[str]()

        async def put() -> None:
            keys.add(await repo.put(CONTENT[:100_000]))

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(put)
        assert {await repo.get(key) for key in keys} == {CONTENT[:100_000]}
        assert (await repo.info()).objects == len(keys)

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_writer_stores_the_content(self, repo: AsyncRepository, size: int) -> None:
        content = content_of(size)
        async with repo.create() as writer:
            for start in range(0, size, 100_000):
                piece: Any = content[start : start + 100_000]
                assert await writer.write(piece if start else bytearray(piece)) == len(piece)
            assert writer.size == size
            with pytest.raises(ValueError, match="there is no key before"):
                _ = writer.key
        assert await repo.get(writer.key) == content
        assert isinstance(writer, ObjectWriter)
        with pytest.raises(RepositoryClosedError):
            await writer.write(b"more")
        with pytest.raises(RepositoryClosedError):
            await writer.__aenter__()

    @pytest.mark.parametrize("size", [0, 1000, 3_000_000])
    async def test_nothing_is_stored_when_the_body_raises_or_is_cancelled(
        self, repo: AsyncRepository, size: int
    ) -> None:
        writer = repo.create()
        with pytest.raises(KeyError, match="mine"):
            async with writer:
                await writer.write(content_of(size))
                raise KeyError("mine")
        with pytest.raises(ValueError, match="there is no key"):
            _ = writer.key
        with anyio.CancelScope() as scope:
            async with repo.create() as writer:
                await writer.write(content_of(size))
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert [key async for key in repo.keys()] == []
        assert (await repo.verify()).ok

    async def test_a_cancelled_write_stores_nothing(self, repo: AsyncRepository) -> None:
        with pytest.raises(RepositoryError, match="a write was cancelled"):
            async with repo.create() as writer:
                await writer.write(content_of(1_000_000))
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await writer.write(content_of(1_000_000))
                assert scope.cancelled_caught
                with pytest.raises(RepositoryError, match="a write was cancelled"):
                    await writer.write(b"more")
        assert [key async for key in repo.keys()] == []

    async def test_a_writer_accepts_only_bytes_like_objects(self, repo: AsyncRepository) -> None:
        async with repo.create() as writer:
            for bad in ("text", None, 7, [b"bytes"]):
                with pytest.raises(TypeError, match="an object is made of bytes"):
                    await writer.write(bad)  # type: ignore[arg-type]
            await writer.write(memoryview(b"bytes"))
        assert await repo.get(writer.key) == b"bytes"
