"""What all tests share."""

from __future__ import annotations

import pytest

from objrepo import DiskRepository
from objrepo.testing.fixtures import LOOPS


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    """Every async test runs on asyncio, on asyncio with uvloop, and on trio."""
    return request.param


def pytest_addoption(parser):
    parser.addoption("--engines", action="store_true", help="run what needs real engines, in tests/engines, too")
    parser.addoption("--keys", type=int, default=2000, help="how many keys are generated to lead out of a repository")


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.name == "engines" and not config.getoption("engines") else None


@pytest.fixture
def keys_at_most(request):
    """How many keys to try."""
    return request.config.getoption("keys")


@pytest.fixture
def folder(tmp_path):
    """Where `repo` is."""
    return tmp_path / "repository"


@pytest.fixture
async def repo(folder):
    """A repository on disk, entered and initialised."""
    async with DiskRepository(folder) as repo:
        await repo.initialise()
        yield repo


@pytest.fixture
def memory_bucket(monkeypatch):
    """Have every S3 repository of the test be in one bucket, which obstore keeps in memory."""
    from obstore.store import MemoryStore

    store = MemoryStore()
    monkeypatch.setattr("objrepo.s3.client._connect", lambda options, retries=0: store)
    monkeypatch.setattr("objrepo.s3.repository.list_uploads", lambda options, older_than: [])
    return store
