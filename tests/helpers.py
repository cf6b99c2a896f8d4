"""Helpers of several test modules: files of repositories on disk, damage, blocked calls, servers, blocks of code."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import httpx
import hypercorn.config
import hypercorn.trio
import pytest
import uvicorn
from disk_objectstore import Container

from objrepo.disk.layout import FIRST_OWN_PACK
from objrepo.testing.fixtures import content_of
from processes import free_ports

ROOT = Path(__file__).parent.parent
OBJREPO = (sys.executable, "-m", "objrepo")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def default_signals():
    """Have a child process be ended by signals, also if the tests run in the background, where SIGINT is ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


async def put_loose(repo, contents):
    """Put objects one after the other, so that each is stored as a loose file."""
    return [await repo.put(content) for content in contents]


def loose_file(folder, key):
    """Return the path of a loose object."""
    return folder / "loose" / key[:2] / key[2:]


def files_in(folder):
    """Return the names in a folder without lock files, which newer releases of filelock leave and older ones remove."""
    return {name for name in os.listdir(folder) if not name.endswith(".lock")}


def own_pack(folder, number=0):
    """Return the path of a pack that objrepo writes."""
    return folder / "packs" / str(FIRST_OWN_PACK + number)


def row_of(folder, key):
    """Return the pack, the offset and the length of a packed object."""
    with closing(sqlite3.connect(folder / "packs.idx")) as connection:
        return connection.execute("SELECT pack_id, offset, length FROM db_object WHERE hashkey = ?", (key,)).fetchone()


def flip(path, position):
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


def flip_packed(folder, key):
    """Flip one bit in the middle of a packed object."""
    pack_id, offset, length = row_of(folder, key)
    flip(folder / "packs" / str(pack_id), offset + length // 2)


def open_files(folder, process="self"):
    """Return the files below a folder that this or another process has open, also those without a name."""
    paths = []
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        with suppress(FileNotFoundError):  # it was closed just now
            paths.append(os.readlink(f"/proc/{process}/fd/{descriptor}"))
    return [path for path in paths if path.startswith(f"{folder}{os.sep}")]


def run_on_small_file_system(tmp_path, script, first=""):
    """Run a script on a file system of 6 MiB that is mounted for it; its argument is the mount point."""
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    (tmp_path / "disk").mkdir()
    shell = f"""
        mount -t tmpfs -o size=6m tmpfs {tmp_path}/disk && cd {tmp_path}/disk && {first} cd / &&
        {sys.executable} {tmp_path}/script.py {tmp_path}/disk
    """
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", shell], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"file systems cannot be mounted: {done.stderr}")  # other tests simulate the errors
    assert done.returncode == 0, done.stderr


class Blocked:
    """A blocking function that reports when it runs, and returns when it is released."""

    def __init__(self):
        self.running = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()

    def __call__(self):
        self.running.set()
        assert self.let_go.wait(30)
        self.ended.set()
        return "result"

    async def is_running(self):
        await anyio.to_thread.run_sync(self.running.wait)


@contextmanager
def under_uvicorn(app):
    """Run an application under uvicorn, on asyncio; yields its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def under_hypercorn(app):
    """Run an application under hypercorn, on trio; gives its URL."""
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{free_ports()[0]}"]
    config.graceful_timeout = 2
    config.keep_alive_timeout = 60  # a connection that waits for a response is not idle
    stop, ready = threading.Event(), threading.Event()

    async def serve(*, task_status=None):
        async def stopped():
            ready.set()
            while not stop.is_set():
                await anyio.sleep(0.02)

        await hypercorn.trio.serve(app, config, shutdown_trigger=stopped)

    thread = threading.Thread(target=partial(anyio.run, serve, backend="trio"))
    thread.start()
    try:
        assert ready.wait(10)
        url = f"http://{config.bind[0]}"
        for _ in range(500):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield url
    finally:
        stop.set()
        thread.join()


def run(command, folder, **options):
    """Run a command in a folder; return its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


TEST_COMMAND = "pip install nox && nox -s tests"
SETUP_COMMAND = "pip install '.[cli]' && objrepo put README.md src"
PAGES_THAT_NEED_AN_OBJECT_STORE = {ROOT / "docs" / name for name in ("aiida.md", "buckets.md", "web.md")}
"""Pages whose code `tests/engines/test_pages.py` runs."""

PAGES_THAT_NEED_A_CLOUD = {ROOT / "docs" / "clouds.md"}
"""Pages whose code `tests/engines/test_azure.py` runs."""


def code_blocks(paths):
    """Return the blocks of code in pages, as parameters that are named by file and line."""
    for path in sorted(paths):
        text = path.read_text()
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            yield pytest.param(*match.groups(), id=f"{path.relative_to(ROOT)}:{line}")


def is_part_of_an_example(code):
    return any(f"\n{code}" in example.read_text() for example in (ROOT / "docs" / "examples").glob("*.py"))


def run_code_block(language, code, folder, forked_commands):
    """Run a block of code in a folder."""
    if language.startswith("{"):  # a directive of the pages, which building them runs
        return
    assert language in {"python", "sh", "text"}, "a block names its language"
    if language == "text" or code.strip() in (TEST_COMMAND, SETUP_COMMAND):
        return  # the first would run this test again, the second has a test of its own
    if is_part_of_an_example(code):
        return  # which has a test of its own
    if language == "sh":
        run(["bash", "-eu", "-c", code], folder)  # without pipefail: `| head` ends a program that still writes
    elif "RepositoryContract" in code:
        (folder / "test_block.py").write_text(code)
        (folder / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
        assert "passed" in run([sys.executable, "-m", "pytest", "-q", "-k", "test_put_stores_the_content"], folder)
    else:
        (folder / "block.py").write_text(code)  # a file, as processes that a block spawns import it
        status, out, err = forked_commands.run_script(folder / "block.py", os.environ.copy())
        assert status == 0, (out + err).decode()


DAMAGED_SIZES = (10, 70_000, 400_000, 3_000_000)


async def damaged_in_all_ways(repo, folder):
    """Damage loose, packed and compressed objects; return their keys, and the contents of intact objects by key."""
    intact = {await repo.put(content_of(size, 1)): content_of(size, 1) for size in DAMAGED_SIZES}
    loose = [await repo.put(content_of(size, 2)) for size in DAMAGED_SIZES]
    with Container(folder) as container:
        packed = container.add_objects_to_pack([content_of(size, 3) for size in DAMAGED_SIZES], compress=False)
        compressed = container.add_objects_to_pack([content_of(size, 4) for size in DAMAGED_SIZES], compress=True)
        more = [content_of(size, 5) for size in DAMAGED_SIZES]
        intact |= dict(zip(container.add_objects_to_pack(more, compress=True), more, strict=True))
    for key in loose:
        flip(loose_file(folder, key), 5)
    for key in packed + compressed:
        flip_packed(folder, key)
    return loose + packed + compressed, intact
