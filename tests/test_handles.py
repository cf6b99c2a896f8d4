"""Objects as files of aiofiles, files of aiofiles and anyio as sources, and objects sent into sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys

import aiofiles
import aiofiles.tempfile
import anyio
import pytest
from aiofiles.threadpool.binary import AsyncBufferedReader

import objrepo.aiofiles
from objrepo import CachedRepository, DiskRepository, MemoryRepository, ObjectNotFoundError
from objrepo.testing.fixtures import LOOPS, content_of

LARGE = content_of(3_000_000)
TEXT = b"first line\nsecond line\n\nlast line"


@pytest.fixture
def loop_name(anyio_backend):
    return anyio_backend[0]


class TestAiofiles:
    @pytest.fixture(params=LOOPS[:-1])
    def anyio_backend(self, request):
        """It needs asyncio; that trio is told so has a test of its own."""
        return request.param

    @pytest.mark.parametrize("content", [b"", TEXT, TEXT * 10_000, TEXT + LARGE.replace(b"\n", b"")], ids=len)
    async def test_code_for_aiofiles_works_unchanged(self, repo, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        key = await repo.put(content)

        async def code(opened):
            async with opened as file:
                yield await file.read(10)
                yield await file.tell()
                yield await file.readline()
                yield [await anext(file, b"") for _ in range(100)]
                yield await file.seek(0)
                yield await file.read()
                yield await file.seek(-5 if content else 0, os.SEEK_END)
                yield await file.read()
                yield await file.seek(3)
                yield await file.read1(2)
                buffer = bytearray(7)
                yield await file.readinto(buffer), buffer
                yield await file.peek(1) != b""
                yield file.mode
                yield await file.readlines(10_000)
                yield file.closed
            yield file.closed

        plain = [each async for each in code(aiofiles.open(tmp_path / "file", "rb"))]
        ours = [each async for each in code(objrepo.aiofiles.open(repo, key))]
        assert ours == plain

    async def test_it_is_genuine(self, repo):
        key = await repo.put(LARGE)
        file = await objrepo.aiofiles.open(repo, key)
        assert isinstance(file, AsyncBufferedReader)
        assert file.name == key
        assert await file.read() == LARGE
        await file.close()
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        with pytest.raises(ObjectNotFoundError):
            async with objrepo.aiofiles.open(repo, "0" * 64):
                pytest.fail("it is not there")

    async def test_a_file_that_is_not_closed_does_no_harm(self, repo):
        key = await repo.put(LARGE)
        file = await objrepo.aiofiles.open(repo, key)
        await file.read(1_000_000)
        del file
        assert await repo.get(key) == LARGE

    async def test_many_at_once(self, repo):
        key = await repo.put(LARGE)

        async def read():
            async with objrepo.aiofiles.open(repo, key) as file:
                pieces = []
                while piece := await file.read(100_000):
                    pieces.append(piece)
                assert b"".join(pieces) == LARGE

        await asyncio.gather(*(read() for _ in range(40)))

    async def test_of_any_repository(self, tmp_path):
        cached = CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=10_000_000)
        async with cached:
            key = await cached.put(LARGE)
            async with objrepo.aiofiles.open(cached, key) as file:
                assert await file.read() == LARGE

    async def test_temporary_files_are_sources(self, repo):
        async with aiofiles.tempfile.TemporaryFile("wb+") as file:
            await file.write(TEXT)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == TEXT
            await file.seek(6)
            assert await repo.get(await repo.put(file)) == TEXT[6:]
        async with aiofiles.tempfile.NamedTemporaryFile("wb+") as file:
            await file.write(LARGE)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == LARGE
        async with aiofiles.tempfile.SpooledTemporaryFile(max_size=1000) as file:
            for content in (b"small", LARGE):
                await file.seek(0)
                await file.write(content)
                await file.seek(0)
                assert await repo.get(await repo.put(file)) == content


async def test_trio_is_told(repo, loop_name):
    if loop_name == "trio":
        key = await repo.put(TEXT)
        with pytest.raises(RuntimeError, match=r"aiofiles needs a running asyncio loop.*repo\.open"):
            async with objrepo.aiofiles.open(repo, key):
                pytest.fail("there is no asyncio")


async def test_temporary_files_of_anyio_are_sources(repo):
    async with anyio.TemporaryFile() as file:
        await file.write(LARGE)
        await file.seek(0)
        assert await repo.get(await repo.put(file)) == LARGE
    async with anyio.NamedTemporaryFile() as file:
        await file.write(TEXT)
        await file.seek(3)
        assert await repo.get(await repo.put(file)) == TEXT[3:]
    async with anyio.SpooledTemporaryFile(max_size=1000) as file:
        for content in (b"small", LARGE):
            await file.seek(0)
            await file.write(content)
            await file.seek(0)
            assert await repo.get(await repo.put(file)) == content
    async with await anyio.open_file(__file__, "rb") as file:
        assert await repo.get(await repo.put(file)) == await anyio.Path(__file__).read_bytes()


class TestSendObject:
    @pytest.fixture
    async def pair(self):
        """A stream to send into, and a socket at its other end."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        receiver = await anyio.to_thread.run_sync(socket.create_connection, ("127.0.0.1", port))
        sender = await listener.listeners[0].accept()
        async with listener, sender:
            with receiver:
                yield sender, receiver

    @pytest.fixture(params=["loose", "packed", "compressed"])
    async def state(self, request, repo):
        async def settle():
            if request.param != "loose":
                await repo.maintain(compress=request.param == "compressed")

        return settle

    @pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
    async def test_the_receiver_gets_it(self, repo, pair, state, size):
        content = content_of(size)
        key = await repo.put(content)
        await state()
        sender, receiver = pair
        received = await self.sent(repo, key, sender, receiver)
        assert received == content

    async def sent(self, repo, key, sender, receiver, *range_):
        received = []

        def receive():
            while chunk := receiver.recv(100_000):
                received.append(chunk)

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, receive)
            sent = await repo.send_object(sender, key, *range_)
            await sender.send_eof()
        assert sent == len(b"".join(received))
        return b"".join(received)

    async def test_a_range(self, repo, pair):
        key = await repo.put(LARGE)
        assert await self.sent(repo, key, *pair, 100_000, 2_000_000) == LARGE[100_000:2_100_000]

    async def test_the_system_sends_the_file(self, repo, pair, monkeypatch):
        sent = []
        real = os.sendfile
        monkeypatch.setattr(os, "sendfile", lambda *args: (sent.append(real(*args)), sent[-1])[1])
        key = await repo.put(LARGE)
        assert await self.sent(repo, key, *pair) == LARGE
        assert sum(sent) == len(LARGE) - 256 * 1024, "what the first hop has brought is sent as it is"

    @pytest.mark.parametrize("how", ["no sendfile", "not for this file", "not for this socket"])
    async def test_where_the_system_cannot(self, repo, pair, monkeypatch, how):
        def sendfile(*args):
            raise OSError(22, "Invalid argument")

        key = await repo.put(LARGE)
        sender, receiver = pair
        if how == "no sendfile":
            monkeypatch.delattr(os, "sendfile")
        elif how == "not for this file":
            monkeypatch.setattr(os, "sendfile", sendfile)
        else:
            monkeypatch.setattr("objrepo.sendfile.SocketStream", ssl.SSLObject)
        assert await self.sent(repo, key, sender, receiver) == LARGE

    async def test_a_receiver_that_is_gone(self, repo, pair):
        content = content_of(30_000_000)
        key = await repo.put(content)
        sender, receiver = pair
        receiver.close()
        with pytest.raises(anyio.BrokenResourceError):
            await repo.send_object(sender, key)

    async def test_a_slow_receiver_takes_no_worker(self, folder, pair):
        from objrepo.offload import Threads

        async with DiskRepository(folder, Threads(1)) as repo:
            await repo.initialise()
            key = await repo.put(content_of(30_000_000))
            async with anyio.create_task_group() as group:
                group.start_soon(repo.send_object, pair[0], key)
                await anyio.sleep(0.2)
                for number in range(20):
                    with anyio.fail_after(10):
                        await repo.get(await repo.put(b"%d" % number))
                group.cancel_scope.cancel()

    async def test_into_a_process(self, repo):
        key = await repo.put(LARGE)
        program = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        async with await anyio.open_process([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert await repo.send_object(process.stdin, key) == len(LARGE)
            await process.stdin.aclose()
            assert (await process.stdout.receive()).decode().strip() == key

    async def test_what_is_not_there(self, repo, pair):
        with pytest.raises(ObjectNotFoundError):
            await repo.send_object(pair[0], "0" * 64)

    async def test_of_a_cache(self, tmp_path, pair):
        cached = CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=10_000_000)
        async with cached:
            key = await cached.put(LARGE)
            assert await self.sent(cached, key, *pair) == LARGE
