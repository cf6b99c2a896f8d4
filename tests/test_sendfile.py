"""`send_object`: contents of objects sent to sockets and processes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys

import anyio
import pytest

from objrepo import ArchiveRepository, CachedRepository, DiskRepository, MemoryRepository, ObjectNotFoundError, export
from objrepo.testing.fixtures import content_of

LARGE = content_of(3_000_000)


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
    async def test_the_receiver_gets_the_content(self, repo, pair, state, size):
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

    async def test_a_range_is_sent(self, repo, pair):
        key = await repo.put(LARGE)
        assert await self.sent(repo, key, *pair, 100_000, 2_000_000) == LARGE[100_000:2_100_000]

    async def test_large_objects_are_sent_by_sendfile(self, repo, pair, monkeypatch):
        sent = []
        real = os.sendfile
        monkeypatch.setattr(os, "sendfile", lambda *args: (sent.append(real(*args)), sent[-1])[1])
        key = await repo.put(LARGE)
        assert await self.sent(repo, key, *pair) == LARGE
        assert sum(sent) == len(LARGE) - 256 * 1024, "the first chunk, which is in memory, is sent without sendfile"

    async def test_a_range_of_a_stored_object_of_a_zip_is_sent_by_sendfile(self, repo, pair, tmp_path, monkeypatch):
        sent = []
        real = os.sendfile
        monkeypatch.setattr(os, "sendfile", lambda *args: (sent.append(real(*args)), sent[-1])[1])
        keys = await repo.put_many([LARGE, LARGE[1:]])
        await export(repo, tmp_path / "objects.zip")
        async with ArchiveRepository(tmp_path / "objects.zip") as archive:
            for key, content in zip(keys, [LARGE, LARGE[1:]], strict=True):
                async with archive.open(key, offset=7) as stream:
                    assert await stream.read() == content[7:]
            assert await self.sent(archive, keys[1], *pair, 100_000, 2_000_000) == LARGE[100_001:2_100_001]
        assert sum(sent) == 2_000_000 - 256 * 1024

    @pytest.mark.parametrize("how", ["no sendfile", "not for this file", "not for this socket"])
    async def test_content_is_sent_where_sendfile_is_unavailable(self, repo, pair, monkeypatch, how):
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

    async def test_a_closed_receiver_raises_broken_resource_error(self, repo, pair):
        content = content_of(30_000_000)
        key = await repo.put(content)
        sender, receiver = pair
        receiver.close()
        with pytest.raises(anyio.BrokenResourceError):
            await repo.send_object(sender, key)

    async def test_a_slow_receiver_occupies_no_worker_thread(self, folder, pair):
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

    async def test_objects_are_sent_to_a_process(self, repo):
        key = await repo.put(LARGE)
        program = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        async with await anyio.open_process([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert await repo.send_object(process.stdin, key) == len(LARGE)
            await process.stdin.aclose()
            assert (await process.stdout.receive()).decode().strip() == key

    async def test_what_is_not_there(self, repo, pair):
        with pytest.raises(ObjectNotFoundError):
            await repo.send_object(pair[0], "0" * 64)

    async def test_objects_of_a_cached_repository_are_sent(self, tmp_path, pair):
        cached = CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=10_000_000)
        async with cached:
            key = await cached.put(LARGE)
            assert await self.sent(cached, key, *pair) == LARGE
