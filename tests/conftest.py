"""Fixtures and options of all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest

from forked import ForkedCommands
from helpers import ROOT
from objrepo import DiskRepository
from objrepo.testing.fixtures import LOOPS

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as where a shell runs the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    """Every async test runs on asyncio, on asyncio with uvloop, and on trio."""
    return request.param


def pytest_addoption(parser):
    parser.addoption("--engines", action="store_true", help="run tests/engines too, which need real servers")
    parser.addoption("--keys", type=int, default=2000, help="number of malformed keys that are generated")


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name == "engines" and not config.getoption("engines") else None


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory):
    """Keep local indexes out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture
def number_of_keys(request):
    """The number of malformed keys to generate."""
    return request.config.getoption("keys")


@pytest.fixture
def frozen_heap():
    """Keep garbage collections from visiting older objects, of which there are millions after many tests."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def folder(tmp_path):
    """The path of `repo`, not created."""
    return tmp_path / "repository"


@pytest.fixture
async def repo(folder):
    """An initialised repository on disk."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        yield repo


@pytest.fixture
def workdir(tmp_path):
    """The working directory of commands."""
    workdir = tmp_path / "work"
    workdir.mkdir()
    return workdir


@pytest.fixture(scope="session")
def forked_commands():
    with closing(ForkedCommands()) as commands:
        yield commands


@pytest.fixture
def run_objrepo(workdir, forked_commands):
    """Run `objrepo` with arguments; returns its exit status, its output, and what it writes to standard error."""

    def run(*arguments, stdin=b"", env=()):
        status, out, err = forked_commands.run(arguments, stdin, workdir, {**os.environ, **dict(env)})
        assert b"Traceback" not in err
        return status, out, err.decode()

    return run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the README and the docs, in which code of the pages is run."""
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def memory_bucket(monkeypatch):
    """Replace the bucket of every S3 repository by one in memory."""
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr("objrepo.bucket.s3.S3Options.connect", lambda options, retries=0: store)
    monkeypatch.setattr("objrepo.bucket.s3.S3Options.list_uploads", lambda *_: [])
    return store
