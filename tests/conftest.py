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
    parser.addoption("--keys", type=int, default=2000, help="how many keys are generated to lead out of a repository")


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
