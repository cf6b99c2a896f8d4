"""GCS repositories over a test server, which implements what Google documents."""

from __future__ import annotations

import pytest

from gcs_server import gcs_server, require_token, service_account
from objrepo import (
    AccessDeniedError,
    ArchiveRepository,
    GCSRepository,
    NotInitialisedError,
    RepositoryUnavailableError,
    export,
    open_repository,
    sync,
)
from objrepo.bucket.client import BucketClient
from objrepo.bucket.gcs import GCSOptions
from objrepo.testing.fixtures import content_of

OURS = "ab/" + "c" * 62


@pytest.fixture
def anyio_backend():
    return "trio"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with gcs_server() as server:
        server.answer = require_token
        (tmp_path / "account.json").write_text(service_account(server.url))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        yield server


@pytest.fixture
def url(server):
    return f"gs://bucket/a/folder?endpoint={server.url}&timeout=5&retry_timeout=0.5"


@pytest.fixture
async def repo(url, server):
    async with open_repository(url) as repo:
        await repo.initialise()
        server.requests.clear()
        yield repo


@pytest.fixture
def client(server):
    return BucketClient(
        GCSOptions(bucket="bucket", prefix="a/folder", endpoint=server.url, timeout=5, retry_timeout=0.5)
    )


async def test_a_repository(repo, url):
    assert type(repo) is GCSRepository
    keys = await repo.put_many([b"one", b"two", b"three"])
    large = await repo.put(content_of(20_000_000))
    assert await repo.get(large) == content_of(20_000_000)
    await repo.delete(keys[0])
    assert (await repo.maintain(live=False)).steps
    async with open_repository(url) as other:
        assert await other.has_many([*keys, large]) == [False, True, True, True]
        assert (await other.verify()).ok


def test_without_an_event_loop(url):
    with sync.open_repository(url) as repo:
        repo.initialise()
        keys = repo.put_many([b"one", b"two"])
        assert [repo.get(key) for key in keys] == [b"one", b"two"]
        assert sorted(repo.keys()) == sorted(keys)


def test_an_object_is_created_once(client):
    assert client.create("lease", b"one")
    assert not client.create("lease", b"two")
    assert not client.create_first("lease", b"two")
    assert client.create_first("lease", b"one"), "as after a lost answer"
    assert client.read("lease")[0] == b"one"
    assert client.supports_conditions("other", b"")


def test_objects_that_do_not_exist_are_deleted_along_with_others(client, server):
    names = [f"name-{number:03}" for number in range(50)]
    for name in (names[0], names[20], names[49]):
        client.put(name, b"")
    client.delete(names)
    assert not server.objects


def test_a_listing_begins_after_a_name(client):
    names = [f"log/{number}" for number in range(10)]
    for name in names:
        client.put(name, b"")
    assert [each.name for each in client.list_all("log", "log/3")] == names[4:]


async def test_unfinished_uploads_of_the_repository_are_aborted(repo, server):
    server.uploads.update({"1": f"a/folder/{OURS}", "2": f"a/folder/{OURS}", "3": "a/folder/other", "4": f"b/{OURS}"})
    assert [step.objects for step in (await repo.maintain(dry_run=True)).steps if step.name == "abort_uploads"] == [2]
    await repo.maintain()
    assert sorted(server.uploads) == ["3", "4"]


class TestErrors:
    async def test_a_bucket_that_does_not_exist(self, repo, server):
        server.answer = lambda *_: (404, "NoSuchBucket")
        with pytest.raises(NotInitialisedError, match="there is no bucket for gs://bucket/a/folder"):
            await repo.get("0" * 64)

    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (401, "AuthenticationRequired", AccessDeniedError),
            (403, "AccessDenied", AccessDeniedError),
            (409, "Conflict", RepositoryUnavailableError),
            (429, "SlowDown", RepositoryUnavailableError),
            (503, "ServiceUnavailable", RepositoryUnavailableError),
        ],
    )
    async def test_an_answer_that_stays_is_one_error(self, repo, server, status, code, error):
        server.answer = lambda *_: (status, code)
        for operation in (repo.put(b"content"), repo.maintain()):
            with pytest.raises(error, match=code):
                await operation

    async def test_412_means_that_the_object_exists_and_409_does_not(self, repo, server):
        left = [(409, "Conflict")]
        server.answer = lambda method, *_: left.pop() if method == "PUT" and left else None
        key = await repo.put(b"content")
        assert server.objects[f"a/folder/{key[:2]}/{key[2:]}"] == b"content"


class TestCredentials:
    async def test_none(self, server, url, monkeypatch, tmp_path):
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        async with open_repository(url) as repo:
            with pytest.raises(AccessDeniedError, match="no credentials for gs://bucket/a/folder"):
                await repo.get("0" * 64)

    async def test_an_anonymous_repository_reads(self, repo, server, url):
        key = await repo.put(b"content")
        server.answer = lambda method, name, query, headers: (400, "Signed") if "authorization" in headers else None
        async with open_repository(f"{url}&anonymous=1") as other:
            assert await other.get(key) == b"content"
            with pytest.raises(AccessDeniedError, match="anonymous requests cannot write"):
                await other.put(b"other")

    async def test_an_expired_token_is_renewed(self, repo, server):
        left = [(401, "AuthenticationRequired")]
        server.answer = lambda *request: left.pop() if left else require_token(*request)
        key = await repo.put(b"content")
        assert await repo.get(key) == b"content"
        assert not left

    async def test_a_service_that_issues_no_tokens(self, server, url, monkeypatch, tmp_path):
        (tmp_path / "account.json").write_text(service_account("http://127.0.0.1:1"))
        async with open_repository(url.replace("retry_timeout=0.5", "retry_timeout=0")) as repo:
            with pytest.raises(RepositoryUnavailableError, match="the credentials for gs://bucket/a/folder"):
                await repo.get("0" * 64)

    async def test_a_refused_account(self, server, url, tmp_path):
        (tmp_path / "account.json").write_text(service_account(f"{server.url}/nothing"))
        async with open_repository(url) as repo:
            with pytest.raises(AccessDeniedError, match="the credentials for gs://bucket/a/folder"):
                await repo.get("0" * 64)


async def test_an_archive_in_a_bucket(repo, server, tmp_path):
    keys = await repo.put_many([b"one", b"two"])
    await export(repo, tmp_path / "export.zip")
    server.objects["export.zip"] = (tmp_path / "export.zip").read_bytes()
    async with ArchiveRepository(f"gs://bucket/export.zip?endpoint={server.url}") as archive:
        assert sorted([key async for key in archive.keys()]) == sorted(keys)
        assert (await archive.verify()).ok
