"""S3 repositories: answers of stores that a real Ceph does not give, cancellation, and other users of the bucket."""

from __future__ import annotations

import hashlib
import logging
import os
import time

import anyio
import pytest

from objrepo import (
    AccessDeniedError,
    NotInitialisedError,
    RepositoryError,
    RepositoryUnavailableError,
    S3Repository,
)
from objrepo.testing.fixtures import content_of
from s3_server import s3_server

MIB = 1024 * 1024
OURS = "ab/" + "c" * 62


@pytest.fixture
def anyio_backend():
    return "trio"


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
async def repo(server):
    async with S3Repository(**server.options, retry_timeout=2) as repo:
        await repo.initialise()
        server.requests.clear()
        yield repo


def answer_once(server, status, code, *, before=lambda: None, method="PUT"):
    """Have the next request of one method answered by an error."""
    left = [(status, code)]

    def answer(asked, name, query, headers):
        if asked != method or not left:
            return None
        before()
        return left.pop()

    server.answer = answer


class TestConditionalWrites:
    async def test_put_is_repeated_after_409(self, repo, server):
        """S3 answers it while the object is being deleted, which does not exist afterwards."""
        key = await repo.put(b"content")
        answer_once(server, 409, "ConditionalRequestConflict", before=server.objects.clear)
        assert await repo.put(b"content") == key
        assert server.objects[f"{key[:2]}/{key[2:]}"] == b"content"

    async def test_put_raises_after_409_again_and_again(self, repo, server):
        server.answer = lambda method, *_: (409, "ConditionalRequestConflict") if method == "PUT" else None
        with pytest.raises(RepositoryUnavailableError, match="is unavailable: HTTP 409 ConditionalRequestConflict"):
            await repo.put(b"content")

    async def test_412_means_that_the_object_exists(self, repo, server):
        key = await repo.put(b"content")
        server.requests.clear()
        assert await repo.put(b"content") == key
        assert [method for method, *_ in server.requests] == ["GET", "PUT"], "the log is listed first"

    async def test_a_store_without_conditional_writes(self, server):
        server.answer = lambda *request: (501, "NotImplemented") if "if-none-match" in request[-1] else None
        async with S3Repository(**server.options, retry_timeout=2) as repo:
            await repo.initialise()
            server.requests.clear()
            for content in (b"content", b"content", b"other"):
                key = await repo.put(content)
                assert await repo.get(key) == content
            assert [method for method, *_ in server.requests if method == "PUT"] == ["PUT"] * 3, "it is not asked again"

    async def test_upload_is_repeated_after_409(self, repo, server):
        content = content_of(9 * MIB)
        left = [(409, "ConditionalRequestConflict")]
        server.answer = lambda method, name, query, _: left.pop() if left and query.startswith("uploadId") else None
        key = await repo.put(content)
        assert server.objects[f"{key[:2]}/{key[2:]}"] == content


class TestErrors:
    @pytest.mark.parametrize("content", [[b"content"], [b"content", b"more"]])
    async def test_a_server_that_accepts_no_object_is_an_error_with_a_message(self, repo, server, content):
        """Such as a web server, which answers HTTP 404 to any request that writes."""
        server.answer = lambda method, *_: (404, "NotFound") if method in ("PUT", "POST") else None
        with pytest.raises(RepositoryError, match=r"bucket at http://.* does not support this request: HTTP 404"):
            await repo.put_many(content)

    @pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
    async def test_errors_in_an_answer_of_status_200_are_temporary(self, repo, server, code):
        key = await repo.put(b"content")
        answer_once(server, 200, code, method="POST")
        await repo.delete(key)
        assert not await repo.has(key)

    @pytest.mark.parametrize(
        ("status", "code", "kind", "message"),
        [
            (403, "AccessDenied", AccessDeniedError, r"access to s3://bucket at http.* is denied: .* \(AccessDenied\)"),
            (403, "InvalidAccessKeyId", AccessDeniedError, "the access key does not exist"),
            (404, "NoSuchBucket", NotInitialisedError, "there is no bucket for s3://bucket"),
            (503, "SlowDown", RepositoryUnavailableError, "is unavailable: HTTP 503 SlowDown"),
            (500, "InternalError", RepositoryUnavailableError, "is unavailable: HTTP 500 InternalError"),
            (501, "NotImplemented", RepositoryError, "does not support this request: HTTP 501 NotImplemented"),
            (400, "InvalidArgument", RepositoryError, "does not support this request: HTTP 400 InvalidArgument"),
        ],
    )
    async def test_listing_uploads(self, repo, server, status, code, kind, message):
        server.answer = lambda method, name, query, _: (status, code) if "uploads" in query else None
        for use in (repo.maintain, repo.erase):
            with pytest.raises(RepositoryError, match=message) as caught:
                await use()
            assert type(caught.value) is kind
            assert "\n" not in str(caught.value)
        assert "objrepo.json" in server.objects, "erase has deleted nothing"

    async def test_listing_uploads_is_repeated_after_a_temporary_error(self, repo, server):
        server.uploads["1"] = OURS
        left = [(503, "SlowDown"), (500, "InternalError")]
        server.answer = lambda method, name, query, _: left.pop() if left and "uploads" in query else None
        assert (await repo.maintain()).steps[0].objects == 1

    @pytest.mark.parametrize("status", [403, 501])
    async def test_verify_reports_where_uploads_cannot_be_listed(self, repo, server, caplog, status):
        await repo.put_many([b"one", b"two"])
        server.answer = lambda method, name, query, _: (status, "AccessDenied") if "uploads" in query else None
        with caplog.at_level(logging.WARNING, "objrepo"):
            report = await repo.verify()
        assert (report.objects, report.ok, report.leftovers) == (2, True, ())
        (message,) = caplog.messages
        assert "the unfinished uploads of s3://bucket" in message


class TestUploadsOfOthers:
    @pytest.mark.parametrize("prefix", ["", "folder"])
    @pytest.mark.parametrize("end", ["maintain", "erase"])
    async def test_are_not_aborted(self, server, prefix, end):
        folder = f"{prefix}/" if prefix else ""
        theirs = ["backup.tar", f"{folder}backup.tar", f"{folder}ab/short", f"other/{OURS}", f"{folder}more/{OURS}"]
        ours = [f"{folder}{OURS}", f"{folder}ff/{'0' * 62}"]
        async with S3Repository(**server.options, prefix=prefix) as repo:
            await repo.initialise()
            server.uploads.update({f"{number:03}": name for number, name in enumerate(sorted(theirs + ours))})
            leftovers = (await repo.verify()).leftovers
            assert [item.path for item in leftovers] == [name.removeprefix(folder) for name in ours]
            if end == "maintain":
                assert (await repo.maintain(live=False)).steps[0].objects == 2
            else:
                await repo.erase()
        assert sorted(server.uploads.values()) == sorted(theirs)


async def test_verify_of_large_objects_at_the_default_concurrency(repo, server):
    """Each object is read ahead in the pool in which all of them are verified."""
    contents = [os.urandom(16) * (6 * MIB // 16) for _ in range(40)]
    for content in contents:
        key = hashlib.sha256(content).hexdigest()
        server.objects[f"{key[:2]}/{key[2:]}"] = content
    server.latency = 0.05
    with anyio.fail_after(60):
        report = await repo.verify()
    assert (report.objects, report.ok) == (40, True)


async def test_the_objects_of_a_batch_are_sent_together_at_its_end(repo, server):
    contents = [b"%d" % number for number in range(16)]
    async with repo.batch() as batch:
        keys = await batch.put_many(contents)
        assert await batch.get(keys[0]) == contents[0]
        assert not [each for each in server.requests if each[0] == "PUT"]
    assert [method for method, *_ in server.requests if method == "PUT"] == ["PUT", "PUT"], "a pack and a log entry"
    assert [await repo.get(key) for key in keys] == contents


async def test_a_batch_whose_requests_are_denied_raises(repo, server):
    with pytest.raises(AccessDeniedError):
        async with repo.batch() as batch:
            key = await batch.put(b"content")
            server.answer = lambda method, *_: (403, "AccessDenied") if method == "PUT" else None
    server.answer = lambda *_: None
    assert not await repo.has(key)
    async with repo.batch() as batch:
        await batch.put(b"content")
    assert await repo.get(key) == b"content"


class TestCancellation:
    """An operation that is repeated ends without a further attempt."""

    OPERATIONS = {
        "put": lambda repo: repo.put(b"content"),
        "put large": lambda repo: repo.put(content_of(9 * MIB)),
        "put_many": lambda repo: repo.put_many(b"%d" % number for number in range(100)),
        "get": lambda repo: repo.get("0" * 64),
        "has_many": lambda repo: repo.has_many([f"{number:064x}" for number in range(7)]),
        "delete": lambda repo: repo.delete("0" * 64),
        "info": lambda repo: repo.info(),
        "maintain": lambda repo: repo.maintain(),
        "erase": lambda repo: repo.erase(),
    }

    async def cancelled(self, repo, operation):
        """Return how long it takes to cancel an operation after 0.3 s and to leave the repository."""
        began = time.monotonic()
        async with repo:
            with anyio.move_on_after(0.3) as scope:
                await operation(repo)
            assert scope.cancelled_caught
        return time.monotonic() - began

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("known", [False, True], ids=["opened", "in use"])
    async def test_an_endpoint_that_is_down(self, server, name, known):
        async with S3Repository(**server.options, retry_timeout=60) as repo:
            await repo.initialise()
            server.answer = lambda *_: (503, "SlowDown")
            if not known:
                await repo.__aexit__(None, None, None)
            try:
                assert await self.cancelled(repo, self.OPERATIONS[name]) < 30, "retries go on for 60 s"
            finally:
                if not known:
                    await repo.__aenter__()

    async def test_an_upload_whose_parts_fail(self, repo, server):
        async with S3Repository(**server.options, retry_timeout=60) as other:
            server.answer = lambda method, name, query, _: (503, "SlowDown") if "partNumber" in query else None
            assert await self.cancelled(other, self.OPERATIONS["put large"]) < 30, "retries go on for 60 s"
        server.answer = lambda *_: None
        assert server.uploads == {}
