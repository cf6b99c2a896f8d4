"""The contract of a repository, kept by one in Ceph."""

from __future__ import annotations

import pytest

from objrepo.testing import RepositoryContract


class TestS3(RepositoryContract):
    @pytest.fixture
    def repository(self, bucket):
        return bucket()
