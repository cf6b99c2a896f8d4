"""`ObjectApp`: preconditions, ranges, uploads, refusals, pages; under real servers, with clients that disconnect."""

from __future__ import annotations

import base64
import email
import gzip
import hashlib
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import SimpleNamespace

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from helpers import ROOT, code_blocks, run_code_block, sha256, under_hypercorn, under_uvicorn
from objrepo import (
    ArchiveRepository,
    DiskRepository,
    MemoryRepository,
    RepositoryBusyError,
    S3Repository,
    SandboxRepository,
)
from objrepo.asgi import ObjectApp
from objrepo.asgi.ranges import ByteRange, parse_ranges
from objrepo.testing.fixtures import content_of
from processes import free_ports, peak_memory

TOKEN = "s3cret"
WRITER = {"authorization": f"Bearer {TOKEN}"}
CONTENT = bytes(range(256)) * 4


def draining(app):
    """Receive what an application leaves of a body: `ASGITransport` does not close its generator."""

    async def call(scope, receive, send):
        left = scope["type"] == "http"

        async def noting():
            nonlocal left
            message = await receive()
            left = message.get("more_body", False)
            return message

        await app(scope, noting, send)
        while left:
            await noting()

    return call


@asynccontextmanager
async def client_of(app, **options):
    """A client that calls an application in this process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", **options) as client:
        yield client


@pytest.fixture
async def client(repo):
    async with client_of(draining(ObjectApp(repo, token=TOKEN, max_bytes=1_000_000))) as client:
        yield client


@pytest.fixture
async def key(repo):
    return await repo.put(CONTENT)


class TestGet:
    async def test_an_object_and_its_headers(self, client, key):
        answer = await client.get(f"/{key}")
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["etag"] == f'"{key}"'
        assert answer.headers["content-length"] == "1024"
        assert answer.headers["accept-ranges"] == "bytes"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_head_has_the_same_headers_and_no_body(self, client, key):
        head, whole = await client.head(f"/{key}"), await client.get(f"/{key}")
        assert (head.status_code, head.content) == (200, b"")
        assert dict(head.headers) | {"cache-control": whole.headers["cache-control"]} == dict(whole.headers)
        ranged = await client.head(f"/{key}", headers={"range": "bytes=0-1"})
        assert (ranged.status_code, ranged.headers["content-length"]) == (200, "1024"), (
            "ranges are defined for GET only"
        )

    async def test_a_large_and_an_empty_object(self, repo, client):
        for content in (b"", content_of(3_000_000)):
            answer = await client.get(f"/{await repo.put(content)}")
            assert (answer.status_code, answer.content) == (200, content)

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    @pytest.mark.parametrize("condition", [{}, {"if-none-match": "*"}, {"range": "bytes=0-1"}])
    async def test_absent_objects_are_404(self, client, method, condition):
        answer = await client.request(method, f"/{'0' * 64}", headers=WRITER | condition)
        assert answer.status_code == 404

    @pytest.mark.parametrize(
        "path",
        ["/../etc/passwd", "/%2e%2e", "/..%2f..%2fetc%2fpasswd", "/%00", "/a/b", "/%ff", "/config.json", "/packs",
         "//etc/passwd", "/" + "a" * 5000, "/%2Fetc%2Fpasswd", "/packs%2fpacks.idx"],
    )  # fmt: skip
    async def test_paths_outside_the_repository_are_404(self, client, key, path):
        for method in ("GET", "HEAD", "DELETE"):
            answer = await client.request(method, httpx.URL("http://here", raw_path=path.encode()), headers=WRITER)
            assert answer.status_code in (404, 405)
        assert (await client.get(f"/{key}")).status_code == 200

    async def test_media_types_and_file_names(self, client, key):
        async def headers(query):
            answer = await client.get(f"/{key}?{query}")
            return answer.headers.get("content-type"), answer.headers.get("content-disposition"), answer.status_code

        assert await headers("type=image/png&inline=1") == ("image/png", "inline", 200)
        assert await headers("type=image/png") == ("image/png", "attachment", 200)
        named = ("text/plain", "attachment; filename*=UTF-8''a%20%C3%BC%22%0D%0A.txt", 200)
        assert await headers("type=text/plain&filename=a%20%C3%BC%22%0D%0A.txt") == named
        for active in ("text/html", "image/svg%2Bxml", "application/xhtml%2Bxml", "text/xml", "application/pdf"):
            assert (await headers(f"type={active}&inline=1"))[1] == "attachment", "active content is never displayed"
        for wrong in ("type=png", "type=a/b%0d%0ax:y", "type=", "filename=" + "x" * 256):
            assert (await headers(wrong))[2] == 400
        assert "sandbox" in (await client.get(f"/{key}")).headers["content-security-policy"]


class TestConditions:
    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("if-none-match", '"KEY"', 304),
            ("if-none-match", 'W/"KEY"', 304),
            ("if-none-match", '"other", "KEY"', 304),
            ("if-none-match", "*", 304),
            ("if-none-match", '"other"', 200),
            ("if-none-match", "KEY", 200),
            ("if-match", '"KEY"', 200),
            ("if-match", "*", 200),
            ("if-match", 'W/"KEY"', 412),
            ("if-match", '"other"', 412),
            ("if-modified-since", "Wed, 21 Oct 2037 07:28:00 GMT", 200),
        ],
    )
    async def test_preconditions_of_get_and_head(self, client, key, header, value, status):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, f"/{key}", headers={header: value.replace("KEY", key)})
            assert answer.status_code == status
            if status == 304:
                assert answer.content == b""
                assert answer.headers["etag"] == f'"{key}"'
                assert "cache-control" in answer.headers

    @pytest.mark.parametrize(
        ("header", "value", "status"),
        [
            ("if-match", '"KEY"', 204),
            ("if-match", '"other", "KEY"', 204),
            ("if-match", "*", 204),
            ("if-match", 'W/"KEY"', 412),
            ("if-match", '"other"', 412),
            ("if-match", "KEY", 412),
            ("if-none-match", '"other"', 204),
            ("if-none-match", '"KEY"', 412),
            ("if-none-match", 'W/"KEY"', 412),
            ("if-none-match", "*", 412),
        ],
    )
    async def test_a_delete_whose_precondition_fails_deletes_nothing(self, repo, client, key, header, value, status):
        answer = await client.delete(f"/{key}", headers=WRITER | {header: value.replace("KEY", key)})
        assert answer.status_code == status
        assert await repo.has(key) == (status == 412)

    @pytest.mark.parametrize(
        ("header", "value", "absent", "present"),
        [
            ("if-match", '"KEY"', 412, 200),
            ("if-match", "*", 412, 200),
            ("if-match", '"other"', 412, 412),
            ("if-match", 'W/"KEY"', 412, 412),
            ("if-none-match", "*", 201, 412),
            ("if-none-match", '"KEY"', 201, 412),
            ("if-none-match", 'W/"KEY"', 201, 412),
            ("if-none-match", '"other"', 201, 200),
        ],
    )
    async def test_a_put_whose_precondition_fails_stores_nothing(self, repo, client, header, value, absent, present):
        key = hashlib.sha256(CONTENT).hexdigest()
        headers = WRITER | {header: value.replace("KEY", key)}
        assert (await client.put(f"/{key}", content=CONTENT, headers=headers)).status_code == absent
        assert await repo.has(key) == (absent == 201)
        await repo.put(CONTENT)
        assert (await client.put(f"/{key}", content=CONTENT, headers=headers)).status_code == present

    async def test_preconditions_are_ignored_where_the_request_fails_without_them(self, client, key):
        condition = {"if-match": '"other"'}
        assert (await client.delete(f"/{'0' * 64}", headers=WRITER | condition)).status_code == 404
        assert (await client.delete(f"/{key}", headers=condition)).status_code == 401
        assert (await client.put("/readme", content=b"", headers=WRITER | condition)).status_code == 422
        large = await client.put(f"/{key}", content=bytes(1_000_001), headers=WRITER | condition)
        assert large.status_code == 413

    async def test_if_match_precedes_if_none_match(self, client, key):
        headers = {"if-match": '"other"', "if-none-match": f'"{key}"', "range": "bytes=0-1"}
        assert (await client.get(f"/{key}", headers=headers)).status_code == 412


class TestRanges:
    @pytest.mark.parametrize(
        ("header", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=1-3", 1, 4),
            ("bytes=1000-", 1000, 1024),
            ("bytes=1000-99999999999999999999", 1000, 1024),
            ("bytes=-5", 1019, 1024),
            ("bytes=-5000", 0, 1024),
            ("BYTES = 1-3 ,", 1, 4),
            ("bytes=1-3, 5000-6000", 1, 4),
        ],
    )
    async def test_one_range(self, client, key, header, start, end):
        answer = await client.get(f"/{key}", headers={"range": header})
        assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
        assert answer.headers["content-length"] == str(end - start)
        assert answer.headers["etag"] == f'"{key}"'

    @pytest.mark.parametrize(
        "header",
        ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=3-1", "bytes=1-3,x", "bytes=--5", "lines=1-3",
         "bytes=1-2-3", f"bytes=0-{'9' * 5000}", f"bytes={'9' * 5000}-", f"bytes=-{'9' * 5000}",
         "bytes=" + ",".join(f"{n}-{n}" for n in range(17)), "bytes=0-1000,0-1000",
         "bytes=\u0661-3".encode()],
    )  # fmt: skip
    async def test_malformed_and_excessive_ranges_return_the_whole_object(self, client, key, header):
        answer = await client.get(f"/{key}", headers={"range": header})
        assert (answer.status_code, answer.content) == (200, CONTENT)

    @pytest.mark.parametrize("header", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
    async def test_an_unsatisfiable_range_is_416(self, client, key, header):
        answer = await client.get(f"/{key}", headers={"range": header})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */1024"

    async def test_several_ranges(self, client, key):
        answer = await client.get(f"/{key}?type=text/plain", headers={"range": "bytes=0-1, 100-103 ,-1"})
        assert answer.status_code == 206
        assert len(answer.content) == int(answer.headers["content-length"])
        head = f"Content-Type: {answer.headers['content-type']}\n\n".encode()
        parts = email.message_from_bytes(head + answer.content).get_payload()
        assert [part.get_payload(decode=True) for part in parts] == [CONTENT[:2], CONTENT[100:104], CONTENT[-1:]]
        assert [part["content-range"] for part in parts] == [
            "bytes 0-1/1024",
            "bytes 100-103/1024",
            "bytes 1023-1023/1024",
        ]
        assert {part["content-type"] for part in parts} == {"text/plain"}

    @pytest.mark.parametrize(
        ("value", "status"),
        [('"KEY"', 206), ('"other"', 200), ('W/"KEY"', 200), ("Wed, 21 Oct 2037 07:28:00 GMT", 200)],
    )
    async def test_if_range(self, client, key, value, status):
        headers = {"range": "bytes=0-1", "if-range": value.replace("KEY", key)}
        assert (await client.get(f"/{key}", headers=headers)).status_code == status

    def test_a_range_has_a_content_range(self):
        assert parse_ranges({"range": "bytes=2-"}, "", 5) == [ByteRange(2, 5)]
        assert ByteRange(2, 5).content_range(5) == "bytes 2-4/5"
        assert parse_ranges({"range": "bytes=0-"}, "", 0) == []


class TestUploads:
    async def test_post_stores_the_body(self, repo, client):
        answer = await client.post("/", content=CONTENT, headers=WRITER)
        key = hashlib.sha256(CONTENT).hexdigest()
        assert answer.status_code == 201
        assert answer.json() == {"key": key, "size": 1024}
        assert answer.headers["location"] == f"/{key}"
        assert await repo.get(key) == CONTENT

    async def test_put_stores_the_body_if_its_hash_is_the_key(self, repo, client):
        key = hashlib.sha256(CONTENT).hexdigest()
        wrong = await client.put(f"/{key}", content=CONTENT[1:], headers=WRITER)
        assert wrong.status_code == 422
        assert not [key async for key in repo.keys()]
        assert (await client.put(f"/{key}", content=CONTENT, headers=WRITER)).status_code == 201
        assert (await client.put(f"/{key}", content=CONTENT, headers=WRITER)).status_code == 200
        only_new = WRITER | {"if-none-match": "*"}
        assert (await client.put(f"/{key}", content=CONTENT, headers=only_new)).status_code == 412
        assert (await client.put("/readme", content=CONTENT, headers=WRITER)).status_code == 422

    async def test_put_needs_keys_that_are_hashes(self, tmp_path):
        async with SandboxRepository(tmp_path) as repo:
            await repo.initialise()
            async with client_of(ObjectApp(repo, token=TOKEN)) as client:
                assert (await client.put(f"/{'0' * 64}", content=b"", headers=WRITER)).status_code == 409
                answer = await client.post("/", content=b"a", headers=WRITER)
                assert (await client.get(answer.headers["location"])).content == b"a"

    async def test_an_upload_that_is_too_large_is_413(self, repo, client):
        answer = await client.post("/", content=bytes(1_000_001), headers=WRITER)
        assert answer.status_code == 413
        assert not [key async for key in repo.keys()]

    @pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "gzip, identity"])
    async def test_encoded_uploads_are_refused(self, repo, client, coding):
        content = gzip.compress(CONTENT)
        headers = WRITER | {"content-encoding": coding}
        for method, path in (("POST", "/"), ("PUT", f"/{hashlib.sha256(content).hexdigest()}")):
            answer = await client.request(method, path, content=content, headers=headers)
            assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
            assert "Content-Encoding" in answer.text
        assert not [key async for key in repo.keys()]

    async def test_an_upload_may_name_the_identity_coding(self, repo, client):
        answer = await client.post("/", content=CONTENT, headers=WRITER | {"content-encoding": "identity"})
        assert await repo.get(answer.json()["key"]) == CONTENT

    async def test_a_range_of_an_upload_is_refused(self, repo, client):
        headers = WRITER | {"content-range": f"bytes 0-9/{len(CONTENT)}"}
        for method, path in (("POST", "/"), ("PUT", f"/{hashlib.sha256(CONTENT[:10]).hexdigest()}")):
            assert (await client.request(method, path, content=CONTENT[:10], headers=headers)).status_code == 400
        assert not [key async for key in repo.keys()]

    async def test_uploads_are_limited_in_number_and_duration(self, repo):
        async def chunks():
            yield b"a"
            await anyio.sleep(0.2)
            yield b"b"

        app = ObjectApp(repo, token=TOKEN, max_uploads=2, upload_seconds=0.1)
        statuses = []
        async with client_of(app) as client:

            async def upload():
                statuses.append((await client.post("/", content=chunks(), headers=WRITER)).status_code)

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(upload)
            assert statuses == [503, 408, 408]
            assert not [key async for key in repo.keys()]
            assert (await client.post("/", content=b"a", headers=WRITER)).status_code == 201, (
                "the finished uploads no longer count"
            )

    @pytest.mark.parametrize(
        ("authorization", "status"),
        [(None, 401), ("", 401), ("Bearer", 401), ("Bearer s3cre", 401), ("Basic s3cret", 401), ("s3cret", 401),
         ("Bearer \u00fc".encode(), 401), ("bearer s3cret", 204)],
    )  # fmt: skip
    async def test_changes_need_the_token(self, repo, client, key, authorization, status):
        headers = {} if authorization is None else {"authorization": authorization}
        for method, path in (("POST", "/"), ("PUT", f"/{key}"), ("DELETE", f"/{key}")):
            answer = await client.request(method, path, headers=headers, content=CONTENT)
            assert answer.status_code == status or (status == 204 and answer.status_code in (200, 201))
            if status == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
        assert await repo.has(key) == (status == 401)

    async def test_a_server_without_a_token_is_read_only(self, repo, key):
        async with client_of(ObjectApp(repo)) as client:
            for method, path in (("POST", "/"), ("PUT", f"/{key}"), ("DELETE", f"/{key}")):
                assert (await client.request(method, path, headers=WRITER)).status_code == 403
            assert (await client.get(f"/{key}")).status_code == 200

    async def test_other_methods_are_405(self, client, key):
        assert (await client.request("PATCH", f"/{key}", headers=WRITER)).status_code == 405
        assert (await client.request("DELETE", "/", headers=WRITER)).status_code == 405

    @pytest.mark.parametrize(
        ("option", "value"),
        [("token", ""), ("token", " "), ("max_bytes", 0), ("max_uploads", -1), ("upload_seconds", 0)],
    )
    def test_invalid_options_raise_value_error(self, option, value):
        with pytest.raises(ValueError, match=option):
            ObjectApp(MemoryRepository(), **{option: value})

    def test_repr_does_not_show_the_token(self):
        assert TOKEN not in repr(ObjectApp(MemoryRepository(), token=TOKEN))


class TestAuthorize:
    REQUESTS = [
        ("GET", "/KEY", "read"), ("HEAD", "/KEY", "read"), ("GET", "/?about", "read"), ("GET", "/?key=KEY", "read"),
        ("POST", "/?has", "read"), ("GET", "/", "list"), ("GET", "/?limit=5", "list"), ("GET", "/?info", "list"),
        ("POST", "/", "put"), ("PUT", "/KEY", "put"), ("DELETE", "/KEY", "delete"), ("POST", "/?delete", "delete"),
    ]  # fmt: skip

    @pytest.mark.parametrize("is_async", [False, True])
    @pytest.mark.parametrize(("method", "path", "operation"), REQUESTS)
    async def test_a_function_decides_about_each_request(self, repo, key, method, path, operation, is_async):
        asked = []

        def authorize(request, operation):
            asked.append((request.method, operation))
            return request.headers.get("x-user") == "me"

        async def later(request, operation):
            await anyio.lowlevel.checkpoint()
            return authorize(request, operation)

        app = ObjectApp(repo, authorize=later if is_async else authorize)
        keys = {"keys": [key]} if "?" in path and method == "POST" else None
        send = {"json": keys} if keys else {"content": CONTENT if method in ("POST", "PUT") else b""}
        async with client_of(app) as client:
            for headers, status in (({}, 403), ({"x-user": "me"}, 200)):
                answer = await client.request(method, path.replace("KEY", key), headers=headers, **send)
                assert answer.status_code == status or (status == 200 and answer.is_success), answer.text
        assert asked == [(method, operation)] * 2
        assert await repo.has(key) == (operation != "delete")

    @pytest.mark.parametrize("permission", [None, 1, "yes", False])
    async def test_only_true_is_a_permission(self, repo, key, permission):
        async with client_of(ObjectApp(repo, authorize=lambda request, operation: permission)) as client:
            answer = await client.get(f"/{key}")
            assert (answer.status_code, answer.text) == (403, "you are not permitted to read here")

    async def test_a_function_responds_by_raising(self, repo, key):
        def authorize(request, operation):
            raise HTTPException(401, "who are you?", {"www-authenticate": "Basic"})

        async with client_of(ObjectApp(repo, authorize=authorize)) as client:
            answer = await client.delete(f"/{key}")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Basic")
        assert await repo.has(key)

    async def test_caches_keep_what_everybody_may_read(self, repo, key):
        everybody, some = ObjectApp(repo, token=TOKEN), ObjectApp(repo, authorize=lambda request, operation: True)
        chosen = ObjectApp(repo, cache_control="no-store")
        for app, objects, lists in (
            (everybody, "public, max-age=31536000, immutable", "no-cache"),
            (some, "private, max-age=31536000, immutable", "private, no-cache"),
            (chosen, "no-store", "no-cache"),
        ):
            async with client_of(app) as client:
                for headers in ({}, {"range": "bytes=0-1"}, {"if-none-match": "*"}):
                    assert (await client.get(f"/{key}", headers=headers)).headers["cache-control"] == objects
                assert (await client.get("/")).headers["cache-control"] == lists

    def test_a_token_and_a_function_contradict_each_other(self):
        with pytest.raises(ValueError, match="either a token or authorize"):
            ObjectApp(MemoryRepository(), token=TOKEN, authorize=lambda request, operation: True)


class TestManyKeys:
    async def test_has(self, client, key):
        keys = [key, "0" * 64, "", "../etc", "\ud800", key]
        answer = await client.post("/?has", content=json.dumps({"keys": keys}))
        assert answer.json() == {"has": [True, False, False, False, False, True]}

    async def test_delete_deletes_all_or_none(self, repo, client, key):
        other = await repo.put(b"other")
        absent = ["0" * 64, "\ud800"]
        answer = await client.post("/?delete", content=json.dumps({"keys": [key, *absent]}), headers=WRITER)
        assert (answer.status_code, answer.json()) == (404, {"missing": absent})
        assert await repo.has_many([key, other]) == [True, True]
        answer = await client.post("/?delete", json={"keys": [key, other]}, headers=WRITER)
        assert (answer.status_code, answer.content) == (204, b"")
        assert await repo.has_many([key, other]) == [False, False]

    @pytest.mark.parametrize("path", ["/?has", "/?delete"])
    @pytest.mark.parametrize(
        ("body", "status"),
        [(b"", 400), (b"[]", 400), (b"{}", 400), (b'{"keys": "abc"}', 400), (b'{"keys": [1]}', 400), (b"\xff", 400),
         (b"[" * 100_000, 400), (json.dumps({"keys": ["a"] * 10_001}).encode(), 413), (b" " * 2_000_000, 413)],
        ids=lambda value: repr(value)[:20],
    )  # fmt: skip
    async def test_malformed_bodies_are_refused(self, client, path, body, status):
        assert (await client.post(path, content=body, headers=WRITER)).status_code == status

    async def test_about_and_info(self, repo, client, key):
        about = {"objrepo": 1, "initialised": True, "uuid": await repo.uuid(), "key_format": "sha256"}
        assert (await client.get("/?about")).json() == about
        del about["objrepo"], about["initialised"]
        assert (await client.get("/?info")).json() == about | {"objects": 1, "size": None}
        assert (await client.get("/?info=detailed")).json() == about | {"objects": 1, "size": 1024}
        assert (await client.get("/?info=much")).status_code == 400

    async def test_a_repository_that_does_not_exist(self, tmp_path):
        async with DiskRepository(tmp_path / "none") as repo, client_of(ObjectApp(repo)) as client:
            assert (await client.get("/?about")).json()["initialised"] is False
            answer = await client.get(f"/{'0' * 64}")
            assert (answer.status_code, answer.text) == (503, "the server's repository does not exist\n")
            assert answer.headers["objrepo-error"] == "NotInitialisedError"


def form(*parts, end=b"--", media_type="multipart/form-data; boundary=edge"):
    """The body and the headers of a form; a part is its headers without the first one's start, and its content."""
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="field"'
        + head.removesuffix(b"\r\n")
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for head, content in parts
    )
    return {"content": body + b"--edge" + end, "headers": WRITER | {"content-type": media_type}}


FILE = b'; filename="a"\r\n'


class TestForms:
    async def test_each_file_is_stored(self, repo, client):
        contents = [b"", b"small", content_of(900_000), b"\r\n--edg", b"\r\n--" * 1000, b"small"]
        files = [("photos", (f"caf\u00e9 {number}.jpg", content)) for number, content in enumerate(contents)]
        answer = await client.post("/", files=files, data={"a field": "without a file"}, headers=WRITER)
        assert answer.status_code == 201
        assert answer.json()["objects"] == [
            {
                "key": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "name": "photos",
                "filename": f"caf\u00e9 {number}.jpg",
            }
            for number, content in enumerate(contents)
        ]
        for content in contents:
            assert await repo.get(hashlib.sha256(content).hexdigest()) == content
        assert (await repo.info()).objects == len(contents) - 1

    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    async def test_a_form_may_arrive_in_any_pieces(self, repo, client, size):
        contents = [b"\r\n--edge", b"\r\n--edge-", b"", b"\r" * 50, b"--edge--"]
        contents = [content.replace(b"edge", b"edg\0") for content in contents]
        whole = form(*((FILE, content) for content in contents))

        async def pieces():
            for start in range(0, len(whole["content"]), size):
                yield whole["content"][start : start + size]

        answer = await client.post("/", content=pieces(), headers=whole["headers"])
        assert [each["key"] for each in answer.json()["objects"]] == [sha256(content) for content in contents]

    @pytest.mark.parametrize(
        ("request_", "status", "text"),
        [
            (form((FILE, b"a"), media_type="multipart/form-data"), 400, "boundary"),
            (form((FILE, b"a"), (FILE, b"b"), end=b""), 400, "ends before the form does"),
            (form((FILE, b"a")) | {"content": b""}, 400, "ends before the form does"),
            (form((FILE, b"a")) | {"content": b"not a form"}, 400, "is no form"),
            (form((FILE, b"a"), media_type=f"multipart/form-data; boundary={'x' * 999}"), 400, "is no form"),
            (form((b"\r\n", b"a field")), 400, "no file"),
            (form(), 400, ""),
            (form((FILE, b"a"), (FILE + b"Content-Transfer-Encoding: base64", b"YQ==")), 415, "Transfer-Encoding"),
            (form((FILE, b"a"), (FILE + b"Content-Encoding: gzip", b"abc")), 415, "Content-Encoding"),
            (form((FILE, b"a"), (FILE + b"Content-Digest: sha-256=:" + b"A" * 43 + b"=:", b"abc")), 422, "SHA-256"),
            (form((FILE, b"a"), (FILE + b"Content-Digest: sha-256=:AAAA:", b"abc")), 400, "Content-Digest"),
            (form((FILE, b"a"), (FILE, bytes(1_000_001))), 413, "and the limit is 1000000 bytes"),
            (form((FILE, b"a"), *[(b"\r\n", b"")] * 10_000), 413, "more than 10000 parts"),
            (form((FILE + b"X: y\r\n" * 100, b"a")), 400, "is no form"),
        ],
        ids=itertools.count(),
    )  # fmt: skip
    async def test_of_a_form_that_is_refused_nothing_is_stored(self, repo, client, request_, status, text):
        answer = await client.post("/", **request_)
        assert (answer.status_code, text in answer.text) == (status, True), answer.text
        assert [key async for key in repo.keys()] == []

    async def test_other_media_types_are_stored_as_they_are(self, repo, client):
        for media_type in ("application/x-www-form-urlencoded", "multipart/mixed; boundary=a", "nonsense", ""):
            answer = await client.post("/", content=CONTENT, headers=WRITER | {"content-type": media_type})
            assert answer.json()["key"] == sha256(CONTENT)

    async def test_a_digest_is_compared(self, repo, client):
        digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
        for sent, status in ((f"md5=:abc:, sha-256=:{digest}:", 201), (f"sha-256=:{digest}:", 201), ("md5=:abc:", 201)):
            answer = await client.post("/", content=CONTENT, headers=WRITER | {"content-digest": sent})
            assert answer.status_code == status
        await repo.delete(sha256(CONTENT))
        other = f"sha-256=:{'A' * 43}=:"
        for sent, status in (
            ([other], 422),
            (["sha-512=:AAAA:", other], 422),
            ([f"sha-256=:{digest}:, {other}"], 422),
            (["sha-256=:!:"], 400),
            (["sha-256=::"], 400),
            ([f"sha-256={digest}"], 400),
            (["sha-256"], 400),
        ):
            headers = [*WRITER.items(), *(("content-digest", each) for each in sent)]
            assert (await client.post("/", content=CONTENT, headers=headers)).status_code == status, sent
        assert not await repo.has(sha256(CONTENT))


class TestMethods:
    async def test_options(self, client, key):
        for path, methods in (("/", "GET, HEAD, POST, OPTIONS"), (f"/{key}", "GET, HEAD, PUT, DELETE, OPTIONS")):
            answer = await client.options(path)
            assert (answer.status_code, answer.headers["allow"], answer.content) == (204, methods, b"")

    async def test_a_method_that_is_not_allowed_names_those_that_are(self, client, key):
        for path, methods in (("/", "GET HEAD OPTIONS POST"), (f"/{key}", "DELETE GET HEAD OPTIONS PUT")):
            answer = await client.request("PATCH", path)
            assert answer.status_code == 405
            assert " ".join(sorted(re.split(", ?", answer.headers["allow"]))) == methods

    async def test_head_of_a_list(self, client):
        head, whole = await client.head("/"), await client.get("/")
        assert (head.status_code, head.headers) == (200, whole.headers)

    async def test_a_browser_of_another_site_needs_cors(self, repo, key):
        app = CORSMiddleware(
            ObjectApp(repo, token=TOKEN), allow_origins=["https://here"], allow_methods=["*"], allow_headers=["*"],
            expose_headers=["ETag", "Content-Range", "Location"],
        )  # fmt: skip
        asked = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization"}
        async with client_of(app) as client:
            for origin, status in (("https://here", 200), ("https://there", 400)):
                answer = await client.options(f"/{key}", headers=asked | {"origin": origin})
                assert answer.status_code == status
                assert (answer.headers.get("access-control-allow-origin") == origin) == (status == 200)
            answer = await client.get(f"/{key}", headers={"origin": "https://here"})
            assert answer.headers["access-control-allow-origin"] == "https://here"
            assert "ETag" in answer.headers["access-control-expose-headers"]


class TestListing:
    async def test_keys_are_listed_in_pages(self, repo, client):
        keys = sorted(await repo.put_many(content_of(10, seed) for seed in range(25)))
        answer = (await client.get("/?limit=10")).json()
        assert answer["keys"] == keys[:10]
        seen = list(answer["keys"])
        while answer["next"] is not None:
            answer = (await client.get(answer["next"])).json()
            seen += answer["keys"]
        assert seen == keys
        assert (await client.get("/")).json() == {"keys": keys, "next": None}

    async def test_a_page_of_many_keys_in_any_order(self):
        class ManyKeys(MemoryRepository):
            async def keys(self):
                for number in range(20_000, 0, -1):
                    yield f"{number:08}"

        async with client_of(ObjectApp(ManyKeys())) as client:
            for after, keys in (("00000500", ["00000501", "00000502"]), ("00019998", ["00019999", "00020000"])):
                page = (await client.get("/", params={"after": after, "limit": 2})).json()
                assert page["keys"] == keys
                assert (page["next"] is None) == (after == "00019998")

    @pytest.mark.parametrize("limit", ["0", "-1", "x", "100001", "", "1e3", "\u0663", "9" * 5000])
    async def test_invalid_limits_are_400(self, client, limit):
        assert (await client.get("/", params={"limit": limit})).status_code == 400


class TestHTML:
    HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    async def test_lists_of_keys_need_no_javascript(self, repo, client):
        keys = sorted(await repo.put_many(content_of(10, seed) for seed in range(101)))
        page = (await client.get("/", headers=self.HTML)).text
        assert re.findall(r'href="/\?key=(\w+)"', page) == keys[:100]
        following = re.search(r'rel="next" href="([^"]+)"', page)[1].replace("&amp;", "&")
        assert re.findall(r'href="/\?key=(\w+)"', (await client.get(following, headers=self.HTML)).text) == keys[100:]

    async def test_a_read_only_server_shows_no_upload_form(self, repo, client):
        assert 'id="upload"' in (await client.get("/", headers=self.HTML)).text
        async with client_of(ObjectApp(repo)) as reader:
            page = (await reader.get("/", headers=self.HTML)).text
        assert 'id="upload"' not in page
        assert "<script" not in page
        assert "There are no objects" in page

    @pytest.mark.parametrize(
        ("content", "shown"),
        [
            (b"<script>alert(1)</script>", "&lt;script&gt;"),
            (b"\x89PNG\r\n\x1a\n", '<img alt="preview" src="/KEY?type=image/png&amp;inline=1">'),
            (b"\0\xff" * 300, "00 ff 00 ff"),
            ("\u00fc".encode() * 100_000, "first 16,384 bytes are shown"),
            (b"", "0 bytes"),
        ],
    )
    async def test_previews(self, repo, client, content, shown):
        key = await repo.put(content)
        answer = await client.get("/", params={"key": f" {key} "})
        assert shown.replace("KEY", key) in answer.text
        assert "<script" not in answer.text
        assert "script-src 'nonce-" in answer.headers["content-security-policy"]

    async def test_an_absent_key_is_not_echoed(self, client):
        answer = await client.get("/", params={"key": "<script>"})
        assert (answer.status_code, "<script>" in answer.text) == (404, False)


@pytest.mark.parametrize(
    ("language", "code"), [each for each in code_blocks([ROOT / "docs" / "web.md"]) if each.values[0] == "python"]
)
def test_the_programs_on_the_page_run(project, language, code, forked_commands):
    run_code_block(language, code, project, forked_commands)


async def test_mounted_in_another_application(repo, key):
    app = Starlette(routes=[Mount("/objects", ObjectApp(repo, token=TOKEN))])
    async with client_of(app) as client:
        assert (await client.get(f"/objects/{key}")).content == CONTENT
        location = (await client.post("/objects/", content=b"a", headers=WRITER)).headers["location"]
        assert (await client.get(location)).content == b"a"
        listing = (await client.get("/objects/?limit=1")).json()
        assert (await client.get(listing["next"])).json()["next"] is None
        page = (await client.get("/objects/", headers=TestHTML.HTML)).text
        assert f'href="/objects/?key={key}"' in page


async def test_an_unavailable_repository_is_503_and_logged(caplog):
    host = f"127.0.0.1:{free_ports()[0]}"
    options = dict(endpoint=f"http://{host}", access_key_id="a", secret_access_key="b", retry_timeout=0)
    async with S3Repository("bucket", **options) as repo, client_of(ObjectApp(repo)) as client:
        with caplog.at_level(logging.WARNING, "objrepo.asgi"):
            answer = await client.get(f"/{'0' * 64}")
    assert answer.status_code == 503
    assert host not in answer.text
    assert host in caplog.text


async def test_a_busy_repository_is_503():
    class Busy(MemoryRepository):
        async def delete(self, key):
            raise RepositoryBusyError("a DiskRepository raises this after 30 seconds")

    async with Busy() as repo, client_of(ObjectApp(repo, token=TOKEN)) as client:
        answer = await client.delete(f"/{await repo.put(CONTENT)}", headers=WRITER)
        assert (answer.status_code, answer.text) == (503, "the repository is busy: try again later\n")


async def test_a_read_only_repository_is_403(tmp_path):
    with zipfile.ZipFile(tmp_path / "objects.zip", "w") as archive:
        archive.writestr(f"repo/{hashlib.sha256(CONTENT).hexdigest()}", CONTENT)
    async with ArchiveRepository(tmp_path / "objects.zip") as repo, client_of(ObjectApp(repo, token=TOKEN)) as client:
        answer = await client.post("/", content=b"a", headers=WRITER)
        assert (answer.status_code, answer.text) == (403, "the repository is read-only\n")
        answer = await client.delete(f"/{hashlib.sha256(CONTENT).hexdigest()}", headers=WRITER)
        assert answer.status_code == 403


# -- real servers ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[under_uvicorn, under_hypercorn])
def url(request, stored):
    """The URL of a server that opens and closes a repository on disk."""
    with request.param(ObjectApp(DiskRepository(stored), token=TOKEN, max_bytes=100_000_000)) as url:
        yield url


@pytest.fixture
def stored(folder):
    """The folder of an initialised repository."""

    async def make():
        async with DiskRepository(folder) as repo:
            await repo.initialise()

    anyio.run(make)
    return folder


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def files_in(folder):
    """The files in the folders to which uploads are written first."""
    return [path for part in ("sandbox", "loose") for path in (folder / part).rglob("*") if path.is_file()]


def test_a_round_trip_through_a_server(url):
    content = content_of(3_000_000)
    with httpx.Client(base_url=url, headers=WRITER) as client:
        location = client.post("/", content=content).headers["location"]
        assert client.get(location).content == content
        part = client.get(location, headers={"range": "bytes=1000000-2000000"})
        assert (part.status_code, part.content) == (206, content[1_000_000:2_000_001])
        assert client.head(location).headers["content-length"] == "3000000"
        assert client.delete(location).status_code == 204
        assert client.get(location).status_code == 404


def test_a_server_keeps_preconditions_and_refuses_encoded_uploads(url):
    with httpx.Client(base_url=url, headers=WRITER) as client:
        location = client.post("/", content=CONTENT).headers["location"]
        assert client.delete(location, headers={"if-match": '"other"'}).status_code == 412
        assert client.delete(location, headers={"if-none-match": "*"}).status_code == 412
        assert client.get(location).content == CONTENT
        answer = client.post("/", content=gzip.compress(CONTENT), headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
        assert client.get("/").json()["keys"] == [location[1:]]
        assert client.delete(location, headers={"if-match": f'"{location[1:]}"'}).status_code == 204


def test_an_interrupted_form_leaves_nothing(url, stored):
    host, _, port = url.removeprefix("http://").partition(":")
    body = form((FILE, b"small"), (FILE, bytes(3_000_000)))["content"]
    head = (
        f"POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n"
        "content-type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    for sent in (0, 50, 1_000_000):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body[:sent])
            time.sleep(0.1)
    wait_until(lambda: files_in(stored) == [])
    assert httpx.get(url).json()["keys"] == []
    answer = httpx.post(url, content=body, headers=WRITER | {"content-type": "multipart/form-data; boundary=edge"})
    assert [each["size"] for each in answer.json()["objects"]] == [5, 3_000_000]


def test_an_upload_of_unknown_length_that_is_too_large_is_413(stored):
    with under_uvicorn(ObjectApp(DiskRepository(stored), token=TOKEN, max_bytes=5_000_000)) as url:
        answer = httpx.post(url, content=(bytes(1_000_000) for _ in range(6)), headers=WRITER)
        assert answer.status_code == 413
        assert httpx.get(url).json()["keys"] == []
    assert files_in(stored) == []


def test_an_interrupted_upload_leaves_nothing(url, stored):
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 50000000\r\n\r\n"
    for sent in (0, 10, 3_000_000):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + bytes(sent))
            time.sleep(0.1)
    wait_until(lambda: files_in(stored) == [])
    assert httpx.get(url).json() == {"keys": [], "next": None}


def test_an_interrupted_download_is_cancelled(url):
    content = bytes(50_000_000)
    location = httpx.post(url, content=content, headers=WRITER).headers["location"]
    with httpx.stream("GET", url + location) as answer:
        next(answer.iter_raw(1000))
    assert httpx.get(url + location, headers={"range": "bytes=-3"}).content == bytes(3)


def test_500_concurrent_downloads(url):
    content = content_of(70_000)
    location = httpx.post(url, content=content, headers=WRITER).headers["location"]
    right = []

    async def download(client):
        answer = await client.get(url + location)
        right.append(answer.content == content)

    async def main():
        limits = httpx.Limits(max_connections=500)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client, anyio.create_task_group() as group:
            for _ in range(500):
                group.start_soon(download, client)

    anyio.run(main)
    assert right == [True] * 500


def test_slow_clients_occupy_no_worker_thread(stored):
    app = ObjectApp(DiskRepository(stored), token=TOKEN)
    with under_uvicorn(app) as url:
        location = httpx.post(url, content=bytes(20_000_000), headers=WRITER).headers["location"]
        host, _, port = url.removeprefix("http://").partition(":")
        slow = []
        for _ in range(60):  # more than there are worker threads
            connection = socket.create_connection((host, int(port)))
            connection.sendall(f"GET {location} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            slow.append(connection)
        for connection in slow:
            assert connection.recv(10)
        assert httpx.get(url + location, headers={"range": "bytes=0-3"}, timeout=10).content == bytes(4)
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    "path", ["/..", "/../..", "/./config.json", "/..;/x", "/%2e%2e/%2e%2e/etc/passwd", "/\\..\\config.json"]
)
def test_paths_that_clients_would_normalise_are_refused(url, path):
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 40[04]", answer)


class TestServe:
    """`objrepo serve`, in its own process."""

    @contextmanager
    def serving(self, folder, *options, env=()):
        command = [sys.executable, "-m", "objrepo", "serve", "--repo", str(folder), "--port", "0", *options]
        environment = {**os.environ, **dict(env)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
            try:
                url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line.decode())))
                yield url, process
            finally:
                process.kill()

    def test_it_serves_and_shuts_down(self, stored):
        with self.serving(stored, env={"OBJREPO_TOKEN": TOKEN}) as (url, process):
            location = httpx.post(url, content=CONTENT, headers=WRITER).headers["location"]
            assert httpx.get(url + location).content == CONTENT
            process.send_signal(signal.SIGTERM)
            last = process.stderr.read()
            assert b"Application shutdown complete" in last
            assert b"Traceback" not in last
            assert TOKEN.encode() not in last

    def test_a_large_form_takes_little_memory(self, stored, tmp_path):
        with (tmp_path / "large").open("wb") as file:
            file.truncate(100_000_000)
        with self.serving(stored, env={"OBJREPO_TOKEN": TOKEN}) as (url, process):
            httpx.post(url, files=[("file", ("small", b"small"))], headers=WRITER)
            before = peak_memory(process.pid)
            with (tmp_path / "large").open("rb") as file:
                answer = httpx.post(url, files=[("file", ("large", file))], headers=WRITER, timeout=60)
            assert answer.json()["objects"][0]["size"] == 100_000_000
            assert peak_memory(process.pid) - before < 30_000_000

    def test_a_token_from_a_file(self, stored, tmp_path):
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        with self.serving(stored, "--token-file", str(tmp_path / "token"), "--max-bytes", "3") as (url, _):
            assert httpx.post(url, content=b"abc", headers=WRITER).status_code == 201
            assert httpx.post(url, content=b"abcd", headers=WRITER).status_code == 413
            assert httpx.post(url, content=b"abc").status_code == 401

    @pytest.mark.parametrize(
        ("options", "status", "said"),
        [
            (["--host", "0.0.0.0"], 2, "set OBJREPO_TOKEN"),
            (["--host", "example.invalid"], 2, "set OBJREPO_TOKEN"),
            (["--port", "70000"], 2, "65535"),
            (["--max-bytes", "0"], 2, "max-bytes"),
            (["--repo", "nowhere"], 1, "run `objrepo init`"),
            (["--token-file", os.devnull], 2, f"{os.devnull} is empty: for a read-only server give no token"),
        ],
    )
    def test_misuse_is_refused(self, stored, options, status, said):
        command = [sys.executable, "-m", "objrepo", "serve", "--repo", str(stored), "--port", "0", *options]
        environment = {name: value for name, value in os.environ.items() if name != "OBJREPO_TOKEN"}
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
        assert done.returncode == status
        assert said in done.stderr.decode()
        assert b"Traceback" not in done.stderr


# -- resumable uploads -------------------------------------------------------------------------------------------------

TUS = WRITER | {"tus-resumable": "1.0.0"}
PART = TUS | {"content-type": "application/offset+octet-stream"}


def tus_app(folder, **options):
    return ObjectApp(DiskRepository(folder), token=TOKEN, max_bytes=100_000_000, **options)


@pytest.fixture(params=[under_uvicorn, under_hypercorn])
def tus(request, stored):
    """A client of a server, which closes unfinished uploads."""
    with request.param(tus_app(stored)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def begin(client, length, **headers):
    answer = client.post("/uploads", headers=TUS | {"upload-length": str(length)} | headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def append(client, location, offset, content, **headers):
    return client.patch(location, content=content, headers=PART | {"upload-offset": str(offset)} | headers)


def checksum(content, algorithm="sha1"):
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


@asynccontextmanager
async def tus_client(folder, **options):
    app = tus_app(folder, **options)
    async with (
        app._lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client,
    ):
        yield client


class TestResumable:
    def test_an_upload_in_parts(self, tus):
        content = content_of(3_000_000)
        location = begin(tus, len(content), **{"upload-metadata": "filename YQ=="})
        head = tus.head(location, headers=TUS)
        assert (head.status_code, head.headers["upload-offset"], head.headers["upload-length"]) == (200, "0", "3000000")
        assert (head.headers["cache-control"], head.headers["upload-metadata"]) == ("no-store", "filename YQ==")
        assert email.utils.parsedate_to_datetime(head.headers["upload-expires"]).timestamp() > time.time() + 80_000
        answer = append(tus, location, 0, content[:1_500_000])
        assert (answer.status_code, answer.headers["upload-offset"], answer.content) == (204, "1500000", b"")
        assert tus.get("/").json()["keys"] == []
        answer = append(tus, location, 1_500_000, content[1_500_000:])
        assert answer.headers["content-location"] == f"/{sha256(content)}"
        assert answer.headers["etag"] == f'"{sha256(content)}"'
        assert tus.head(location, headers=TUS).headers["content-location"] == f"/{sha256(content)}"
        assert tus.get(answer.headers["content-location"]).content == content
        assert tus.head(location, headers=TUS).headers["tus-resumable"] == "1.0.0"

    def test_a_client_that_is_cut_off_goes_on_where_it_was(self, tus):
        content = content_of(48_000_000)
        location = begin(tus, len(content))
        host, port = tus.base_url.host, tus.base_url.port
        offset = 0
        with ExitStack() as stale:
            for closed in (True, False, True):
                head = (
                    f"PATCH {location} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n"
                    "tus-resumable: 1.0.0\r\ncontent-type: application/offset+octet-stream\r\n"
                    f"upload-offset: {offset}\r\ncontent-length: {len(content) - offset}\r\n\r\n"
                )
                connection = stale.enter_context(socket.create_connection((host, port)))
                connection.sendall(head.encode() + content[offset : offset + 15_000_000])  # more than buffers hold
                if closed:  # else the server does not know that this client is gone
                    connection.close()
                before = offset
                offset = int(tus.head(location, headers=TUS).headers["upload-offset"])
                assert before < offset <= before + 15_000_000
            assert append(tus, location, offset, content[offset:]).headers["etag"] == f'"{sha256(content)}"'
        assert tus.get(f"/{sha256(content)}").content == content

    def test_checksums(self, tus):
        location = begin(tus, 10)
        for algorithm in ("sha1", "sha256"):
            answer = append(tus, location, 0, b"12345", **{"upload-checksum": checksum(b"12346", algorithm)})
            assert answer.status_code == 460
            assert tus.head(location, headers=TUS).headers["upload-offset"] == "0"
        for wrong in ("md5 YQ==", "sha1", "sha1 !", ""):
            assert append(tus, location, 0, b"12345", **{"upload-checksum": wrong}).status_code == 400
        assert append(tus, location, 0, b"12345", **{"upload-checksum": checksum(b"12345")}).status_code == 204
        answer = append(tus, location, 5, b"67890", **{"upload-checksum": checksum(b"67890", "sha256")})
        assert answer.headers["etag"] == f'"{sha256(b"1234567890")}"'

    def test_every_response_has_the_version(self, tus):
        location = begin(tus, 10)
        for answer, status in (
            (tus.post("/uploads", headers={"tus-resumable": "1.0.0", "upload-length": "1"}), 401),
            (tus.post("/uploads", headers=TUS | {"upload-length": "100000001"}), 413),
            (tus.post(location, headers=TUS), 405),
            (append(tus, location, 0, b"1", **{"content-encoding": "gzip"}), 415),
            (append(tus, location, 0, b"12345"), 204),
        ):
            assert (answer.status_code, answer.headers.get_list("tus-resumable")) == (status, ["1.0.0"])

    def test_the_method_may_be_in_a_header(self, tus):
        location = begin(tus, 5)
        headers = PART | {"upload-offset": "0", "x-http-method-override": "PATCH"}
        assert tus.post(location, content=b"12345", headers=headers).headers["etag"] == f'"{sha256(b"12345")}"'
        assert tus.post(location, headers=TUS | {"x-http-method-override": "DELETE"}).status_code == 204
        assert tus.head(location, headers=TUS).status_code == 404
        assert tus.post(location, headers=TUS | {"x-http-method-override": "PUT"}).status_code == 405

    async def test_an_upload_that_cannot_be_stored_expires(self, tmp_path, monkeypatch):
        passed = 0
        monkeypatch.setattr("objrepo.asgi.resumable.time", SimpleNamespace(time=lambda: time.time() + passed))
        async with tus_client(tmp_path / "absent", max_uploads=1, resume_seconds=1000) as client:
            headers = TUS | {"upload-length": "0"}
            assert (await client.post("/uploads", headers=headers)).headers["objrepo-error"]
            assert (await client.post("/uploads", headers=headers)).headers["retry-after"] == "60"
            passed = 2000
            assert (await client.post("/uploads", headers=headers)).headers["objrepo-error"]

    async def test_an_upload_does_not_expire_while_it_is_written(self, stored, monkeypatch):
        passed = 0
        monkeypatch.setattr("objrepo.asgi.resumable.time", SimpleNamespace(time=lambda: time.time() + passed))

        async def slow():
            nonlocal passed
            yield b"12345"
            passed = 2000
            await client.post("/uploads", headers=TUS | {"upload-length": "10"})
            yield b"67890"

        async with tus_client(stored, resume_seconds=1000) as client:
            location = (await client.post("/uploads", headers=TUS | {"upload-length": "10"})).headers["location"]
            answer = await client.patch(location, content=slow(), headers=PART | {"upload-offset": "0"})
            assert answer.headers["etag"] == f'"{sha256(b"1234567890")}"'

    async def test_requests_after_one_that_drops_the_upload_are_404(self, stored):
        statuses = []
        begun = anyio.Event()

        async def stalled():
            yield b"1"
            begun.set()
            await anyio.sleep_forever()

        async with tus_client(stored) as client:
            location = (await client.post("/uploads", headers=TUS | {"upload-length": "10"})).headers["location"]

            async def send(method, content=b""):
                answer = await client.request(method, location, content=content, headers=PART | {"upload-offset": "0"})
                statuses.append(answer.status_code)

            async with anyio.create_task_group() as group:
                group.start_soon(send, "PATCH", stalled())
                await begun.wait()
                for _ in range(3):
                    group.start_soon(send, "DELETE")
        assert sorted(statuses) == [204, 404, 404, 409]

    def test_an_upload_is_dropped(self, tus):
        location = begin(tus, 10)
        assert append(tus, location, 0, b"12345").status_code == 204
        assert tus.delete(location, headers=TUS).status_code == 204
        for method in ("HEAD", "PATCH", "DELETE"):
            answer = tus.request(method, location, headers=PART | {"upload-offset": "5"})
            assert (answer.status_code, answer.headers["tus-resumable"]) == (404, "1.0.0")

    def test_an_empty_object(self, tus):
        assert tus.head(begin(tus, 0), headers=TUS).headers["etag"] == f'"{sha256(b"")}"'

    def test_what_is_supported(self, tus):
        for path in ("/uploads", "/uploads/x"):
            answer = tus.options(path)
            assert answer.status_code == 204
            assert answer.headers["tus-extension"] == "creation,expiration,checksum,termination"
            assert answer.headers["tus-max-size"] == "100000000"

    def test_requests_that_are_refused(self, tus):
        def created(**headers):
            return tus.post("/uploads", headers={**TUS, **headers}).status_code

        location = begin(tus, 10)
        assert tus.post("/uploads", headers=WRITER | {"upload-length": "1"}).status_code == 412
        assert tus.head(location, headers=WRITER).headers["tus-version"] == "1.0.0"
        assert tus.post("/uploads", headers={"tus-resumable": "1.0.0", "upload-length": "1"}).status_code == 401
        assert tus.head(location, headers={"tus-resumable": "1.0.0"}).status_code == 401
        assert [created(**{"upload-length": length}) for length in ("", "-1", "x", "9" * 50)] == [400] * 4
        assert created(**{"upload-length": "100000001"}) == 413
        assert created(**{"upload-length": "1", "upload-metadata": "x" * 5000}) == 413
        assert created(**{"upload-defer-length": "1"}) == 400
        assert append(tus, location, 3, b"123").status_code == 409
        assert append(tus, location, "x", b"123").status_code == 400
        assert append(tus, location, 0, b"123", **{"content-type": "text/plain"}).status_code == 415
        assert append(tus, location, 0, b"12345678901").status_code == 413
        assert tus.put(location, headers=PART).status_code == 405
        assert tus.get("/").json()["keys"] == []

    def test_unfinished_uploads_are_limited_and_expire(self, stored, monkeypatch):
        passed = 0
        clock = SimpleNamespace(time=lambda: time.time() + passed)
        monkeypatch.setattr("objrepo.asgi.resumable.time", clock)
        with (
            under_uvicorn(tus_app(stored, max_uploads=2, resume_seconds=1000)) as url,
            httpx.Client(base_url=url) as client,
        ):
            append(client, begin(client, 1), 0, b"a")  # a finished one does not count
            first = begin(client, 10)
            begin(client, 10)
            answer = client.post("/uploads", headers=TUS | {"upload-length": "1"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
            passed = 900
            assert client.head(first, headers=TUS).status_code == 200
            passed = 1800
            assert client.post("/uploads", headers=TUS | {"upload-length": "1"}).status_code == 201
            assert client.head(first, headers=TUS).status_code == 200, "each request puts the end off"
            passed = 3000
            assert client.head(first, headers=TUS).status_code == 404

    def test_temporary_files_end_with_their_uploads(self, stored):
        def temporary():
            return [each for each in os.listdir("/proc/self/fd") if "(deleted)" in read_link(f"/proc/self/fd/{each}")]

        before = len(temporary())
        with under_uvicorn(tus_app(stored)) as url, httpx.Client(base_url=url) as client:
            locations = [begin(client, 10) for _ in range(3)]
            assert len(temporary()) == before + 3
            append(client, locations[0], 0, bytes(10))
            client.delete(locations[1], headers=TUS)
            assert len(temporary()) == before + 1
        assert len(temporary()) == before


def read_link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""
