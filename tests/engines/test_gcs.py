"""The contract of a repository, kept by one on a test server of the XML API of Google Cloud Storage."""

from __future__ import annotations

import pytest

from engines.survival import FAULTS, check_that_faults_are_survived
from gcs_server import gcs_server, require_token, service_account
from objrepo import GCSRepository
from objrepo.testing import RepositoryContract

BUCKET = "bucket"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with gcs_server() as server, pytest.MonkeyPatch.context() as environment:
        server.answer = require_token
        account = tmp_path_factory.mktemp("gcs") / "account.json"
        account.write_text(service_account(server.url))
        environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        yield server


class TestGCS(RepositoryContract):
    @pytest.fixture
    def anyio_backend(self):
        return "trio", {}  # Ceph and Azurite have the other event loops

    @pytest.fixture
    def repository(self, server):
        server.objects.clear()
        return GCSRepository(BUCKET, "in/a/folder", endpoint=server.url, timeout=10, retry_timeout=10)


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_any_one_request_is_survived(server, fault, monkeypatch):
    def make(url, folder):
        return GCSRepository(BUCKET, folder, endpoint=url)

    server.objects.clear()
    await check_that_faults_are_survived(server.url, fault, make, monkeypatch)
