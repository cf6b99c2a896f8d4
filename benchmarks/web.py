"""`ObjectApp` under uvicorn, compared with Starlette's FileResponse and chunks of 1,024 bytes, as in aiida-restapi."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route

from benchmarks.harness import Results, compare_async
from objrepo import DiskRepository
from objrepo.asgi import ObjectApp
from objrepo.offload import Inline
from objrepo.sync import SyncRepository

SMALL, LARGE = 1024, 64 * 1024 * 1024
CONNECTIONS = 32


def run(results: Results, folder: Path) -> None:
    """Start a server of each kind, and send requests alternately."""
    folder.mkdir(parents=True)
    keys = anyio.run(stored, folder)
    kinds = {"objrepo": object_app, "Starlette's FileResponse": file_app, "chunks of 1,024 bytes": chunk_app}
    with ExitStack() as servers:
        running = {name: servers.enter_context(served(make, folder)) for name, make in kinds.items()}
        requests, rounds = (500, 3) if results.quick else (2000, 15)
        for work, key, size, count, connections in (
            ("web: GET 1 KiB", keys[0], SMALL, requests, 1),
            (f"web: GET 1 KiB on {CONNECTIONS} connections", keys[0], SMALL, requests, CONNECTIONS),
            ("web: GET 64 MiB", keys[1], LARGE, 1, 1),
        ):
            implementations: dict[str, Callable[[int], Awaitable[Any]]] = {
                name: functools.partial(ask, port, key, size, count, connections) for name, (port, _) in running.items()
            }
            anyio.run(compare_async, results, work, implementations, 3 if size == LARGE else rounds, count)
        many = 100 if results.quick else 500
        port, pid = running["objrepo"]
        before = peak(pid)
        anyio.run(ask, port, keys[1], LARGE, many, many, 0)
        print(
            f"{many} × 64 MiB at once: no error, {peak(pid) - before:.0f} MiB more in the server",
            flush=True,
        )


async def stored(folder: Path) -> list[str]:
    """Store the objects, and write them to files named by their keys."""
    async with DiskRepository(folder / "repository") as repo:
        await repo.initialise()
        contents = [os.urandom(SMALL), os.urandom(LARGE)]
        keys = [await repo.put(content) for content in contents]
        await repo.maintain()
    for key, content in zip(keys, contents, strict=True):
        (folder / key).write_bytes(content)
    return keys


def object_app(folder: Path) -> Any:
    """Return an `ObjectApp`."""
    return ObjectApp(DiskRepository(folder / "repository"))


def file_app(folder: Path) -> Any:
    """Return an application that sends files."""

    async def get(request: Any) -> FileResponse:
        return FileResponse(folder / request.path_params["key"])

    return Starlette(routes=[Route("/{key}", get)])


def chunk_app(folder: Path) -> Any:
    """Return an application that sends objects of a sync repository in small chunks."""
    repository = SyncRepository(DiskRepository(folder / "repository", Inline()))

    async def get(request: Any) -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            with repository.open(request.path_params["key"]) as file:
                while chunk := file.read(1024):
                    yield chunk

        return StreamingResponse(chunks(), headers={"content-length": request.headers["x-size"]})

    return Starlette(routes=[Route("/{key}", get)])


@contextmanager
def served(make: Callable[[Path], Any], folder: Path) -> Iterator[tuple[int, int]]:
    """Run an application in another process; yield its port and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(make, folder, port))
    server.start()
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert server.pid is not None
        yield port, server.pid
    finally:
        server.terminate()
        server.join()


def serve(make: Callable[[Path], Any], folder: Path, port: int) -> None:
    """Run a server until it is terminated."""
    uvicorn.run(make(folder), port=port, log_level="warning", loop="uvloop", access_log=False)


async def ask(port: int, key: str, size: int, count: int, connections: int, number: int) -> None:
    """Send requests over several connections, and read the responses."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        for _ in range(count // connections):
            writer.write(f"GET /{key} HTTP/1.1\r\nhost: here\r\nx-size: {size}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            left = size
            while left:
                left -= len(await reader.read(min(left, 2**20)))
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one())


def peak(pid: int) -> float:
    """Return the peak memory of a process in MiB."""
    if sys.platform != "linux":
        return 0.0
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
