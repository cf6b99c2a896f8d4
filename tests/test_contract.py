"""Every backend keeps the contract, and nothing in the contract knows which backend it has."""

from __future__ import annotations

import pytest

from objrepo import CachedRepository, DiskRepository, MemoryRepository, S3Repository, SandboxRepository
from objrepo.instrumentation import InstrumentedRepository
from objrepo.testing import RepositoryContract


class TestDisk(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path):
        return DiskRepository(tmp_path / "repository")


class TestSandbox(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path):
        return SandboxRepository(tmp_path / "sandboxes")


class TestMemory(RepositoryContract):
    @pytest.fixture
    def repository(self):
        return MemoryRepository()


class TestInstrumented(RepositoryContract):
    @pytest.fixture
    def repository(self):
        return InstrumentedRepository(MemoryRepository(), lambda operation: None)


class TestS3(RepositoryContract):
    """Over a store in memory; `tests/engines` has the real one."""

    @pytest.fixture
    def repository(self, memory_bucket):
        return S3Repository("objects", "in/a/folder")


class TestS3WithoutPacks(RepositoryContract):
    """A repository of format 1, as earlier releases make it."""

    @pytest.fixture
    def repository(self, memory_bucket, monkeypatch):
        monkeypatch.setattr("objrepo.bucket.backend._NEW_FORMAT", 1)
        return S3Repository("objects", "in/a/folder")


class TestCached(RepositoryContract):
    """A cache that holds some of the objects, and is too small for the largest."""

    @pytest.fixture
    def repository(self, tmp_path):
        return CachedRepository(DiskRepository(tmp_path / "cache"), MemoryRepository(), max_bytes=2_500_000)


class TestCachedWithOtherKeys(RepositoryContract):
    @pytest.fixture
    def repository(self, tmp_path):
        cache, origin = SandboxRepository(tmp_path / "cache"), DiskRepository(tmp_path / "origin")
        return CachedRepository(cache, origin, max_bytes=10_000_000)
