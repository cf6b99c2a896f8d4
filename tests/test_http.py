"""`HTTPRepository` and `ObjectApp` together, over real servers: the contract, failures of servers, tokens."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from helpers import OBJREPO, flip, loose_file, sha256, under_hypercorn, under_uvicorn
from objrepo import (
    AccessDeniedError,
    CorruptObjectError,
    DiskRepository,
    HTTPRepository,
    MemoryRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryBusyError,
    RepositoryError,
    RepositoryUnavailableError,
    SandboxRepository,
)
from objrepo.asgi import ObjectApp
from objrepo.testing import RepositoryContract
from objrepo.testing.fixtures import ContractFixtures, content_of
from objrepo.testing.put_contract import PutContract
from objrepo.testing.read_contract import ReadContract
from processes import free_ports
from s3_server import s3_server
from web import serving

TOKEN = "s3cret"


class Site:
    """A server with many repositories, each under a path of its own."""

    def __init__(self):
        self.apps = {}
        self.app = Starlette(routes=[Mount("/{name}", self.respond)])
        self.url = ""
        self._numbers = itertools.count()

    async def respond(self, scope, receive, send):
        await self.apps[scope["path_params"]["name"]](scope, receive, send)

    @asynccontextmanager
    async def serving(self, repository, **options):
        """Serve a repository; yields its URL."""
        name = f"repository-{next(self._numbers)}"
        async with repository:
            self.apps[name] = ObjectApp(repository, **{"token": TOKEN, **options})
            yield f"{self.url}/{name}"
            del self.apps[name]


def running(server):
    site = Site()
    with server(site.app) as site.url:
        yield site


@pytest.fixture(scope="module")
def uvicorn_site():
    yield from running(under_uvicorn)


@pytest.fixture(scope="module")
def hypercorn_site():
    yield from running(under_hypercorn)


class AdministeredRepository(HTTPRepository):
    """A client whose user also has access to the server, and does there what clients cannot do."""

    def __init__(self, url, served):
        super().__init__(url, token=TOKEN, timeout=10, concurrency=8)
        self.served = served

    async def initialise(self, **options):
        try:
            await super().initialise(**options)
        except AccessDeniedError:
            await self.served.initialise()
            await super().initialise()

    async def maintain(self, *args, **options):
        try:
            return await super().maintain(*args, **options)
        except AccessDeniedError:
            return await self.served.maintain(*args, **options)

    async def erase(self):
        with pytest.raises(AccessDeniedError, match="on the server"):
            await super().erase()
        await self.served.erase()
        self.backend.close()  # as the server has another repository from now on


class HTTPContract:
    @pytest.fixture
    async def repository(self, site, served):
        async with site.serving(served) as url:
            yield AdministeredRepository(url, served)


class TestDiskUnderUvicorn(HTTPContract, RepositoryContract):
    @pytest.fixture
    def site(self, uvicorn_site):
        return uvicorn_site

    @pytest.fixture
    def served(self, tmp_path):
        return DiskRepository(tmp_path / "served")


class TestMemoryUnderHypercorn(HTTPContract, RepositoryContract):
    """Another server; the event loops of clients are those of the class before."""

    @pytest.fixture
    def anyio_backend(self):
        return "trio", {}

    @pytest.fixture
    def site(self, hypercorn_site):
        return hypercorn_site

    @pytest.fixture
    def served(self):
        return MemoryRepository()


class TestSandboxUnderUvicorn(HTTPContract, PutContract, ReadContract, ContractFixtures):
    """Its keys are no hashes."""

    @pytest.fixture
    def anyio_backend(self):
        return "asyncio", {}

    test_put_many_reports_its_progress = None  # it takes 3,000 requests here

    @pytest.fixture
    def site(self, uvicorn_site):
        return uvicorn_site

    @pytest.fixture
    def served(self, tmp_path):
        return SandboxRepository(tmp_path / "served")


# -- failures ----------------------------------------------------------------------------------------------------------


class Faults:
    """An application that responds to the next requests of a method by faults, and forwards the others.

    :ivar requests: the method and the query or path of each request.
    """

    def __init__(self, app):
        self.app = app
        self.left = []
        self.requests = []

    def add(self, method, fault, times=1):
        self.left += [(method, fault)] * times

    async def __call__(self, scope, receive, send):
        query = scope["query_string"].decode()
        self.requests.append((scope["method"], f"?{query}" if query else scope["path"].rpartition("/")[2]))
        for number, (method, fault) in enumerate(self.left):
            if method == scope["method"]:
                del self.left[number]
                return await fault(self.app, scope, receive, send)
        return await self.app(scope, receive, send)


def status(code, text="not now", **headers):
    async def fault(app, scope, receive, send):
        await PlainTextResponse(text, code, headers)(scope, receive, send)

    return fault


async def lose_the_response(app, scope, receive, send):
    async def swallow(message):
        pass

    await app(scope, receive, swallow)
    raise ConnectionAbortedError("uvicorn responds with 500, as no response was started")


async def cut_the_body(app, scope, receive, send):
    async def send_half(message):
        if message["type"] == "http.response.body":
            await send({**message, "body": message["body"][: len(message["body"]) // 2], "more_body": True})
            raise ConnectionAbortedError("uvicorn closes the connection, as the response is incomplete")
        await send(message)

    await app(scope, receive, send_half)


async def flip_a_sent_byte(app, scope, receive, send):
    async def damaged():
        message = await receive()
        return (
            {**message, "body": bytes([message["body"][0] ^ 1]) + message["body"][1:]} if message["body"] else message
        )

    await app(scope, damaged, send)


async def flip_a_received_byte(app, scope, receive, send):
    async def damaged(message):
        if message["type"] == "http.response.body" and message["body"]:
            message = {**message, "body": bytes([message["body"][0] ^ 1]) + message["body"][1:]}
        await send(message)

    await app(scope, receive, damaged)


async def ignore_the_range(app, scope, receive, send):
    headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
    await app({**scope, "headers": headers}, receive, send)


@pytest.fixture
async def served(folder):
    async with DiskRepository(folder) as served:
        await served.initialise()
        yield served


@pytest.fixture
def faults(served):
    app = ObjectApp(served, token=TOKEN, max_bytes=30_000_000)
    yield Faults(app)
    app._unfinished.close()  # as its lifespan does, which the site does not run


@pytest.fixture
def url(uvicorn_site, faults, caplog):
    caplog.set_level(logging.CRITICAL, "uvicorn.error")  # which logs faults
    uvicorn_site.apps["faults"] = faults
    return f"{uvicorn_site.url}/faults"


@pytest.fixture
async def repo(url, faults):
    async with HTTPRepository(url, token=TOKEN, timeout=10, retry_timeout=30) as repo:
        await repo.key_format()
        faults.requests.clear()
        yield repo


@pytest.fixture
async def hasty(url):
    """A client that repeats nothing."""
    async with HTTPRepository(url, token=TOKEN, timeout=10, retry_timeout=0) as repo:
        await repo.key_format()
        yield repo


class TestRepetition:
    @pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
    async def test_temporary_errors_are_repeated(self, repo, faults, code):
        for method in ("PUT", "GET", "HEAD", "POST"):
            faults.add(method, status(code))
        key = await repo.put(b"content")
        assert await repo.get(key) == b"content"
        assert await repo.size(key) == 7
        await repo.delete(key)
        assert faults.left == []

    async def test_a_put_whose_response_is_lost_is_repeated(self, repo, faults, served):
        faults.add("PUT", lose_the_response)
        key = await repo.put(b"content")
        assert [each async for each in served.keys()] == [key]

    async def test_a_delete_whose_response_is_lost_is_repeated(self, repo, faults, served):
        keys = await repo.put_many([b"one", b"two"])
        faults.add("POST", lose_the_response)
        await repo.delete_many(keys)
        assert await served.has_many(keys) == [False, False]

    async def test_a_repeated_delete_names_the_missing_objects(self, repo, faults, served):
        key = await repo.put(b"one")
        faults.add("POST", status(503))
        with pytest.raises(ObjectNotFoundError) as caught:
            await repo.delete_many([key, "0" * 64])
        assert caught.value.keys == ("0" * 64,)
        assert await served.has(key)

    @pytest.mark.parametrize("size", [1000, 3_000_000, 20_000_000])
    async def test_a_download_that_is_cut_off_is_repeated(self, repo, faults, served, size):
        content = content_of(size)
        key = await served.put(content)
        faults.add("GET", cut_the_body, 2)
        assert await repo.get(key) == content
        faults.add("GET", cut_the_body, 2)
        async with repo.open(key) as stream:
            assert await stream.read() == content
        assert faults.left == []

    @pytest.mark.parametrize("size", [1000, 10_000_000])
    async def test_an_upload_that_arrives_damaged_is_repeated(self, repo, faults, served, size):
        faults.add("PUT", flip_a_sent_byte)
        key = await repo.put(content_of(size))
        assert [each async for each in served.keys()] == [key]
        assert await served.get(key, check=True) == content_of(size)

    async def test_an_upload_to_a_repository_without_hashes_is_not_repeated(self, uvicorn_site, tmp_path):
        """The server may have stored it: to store it again would make another object."""
        async with SandboxRepository(tmp_path / "sandbox") as served:
            await served.initialise()
            uvicorn_site.apps["faults"] = faults = Faults(ObjectApp(served, token=TOKEN))
            async with HTTPRepository(f"{uvicorn_site.url}/faults", token=TOKEN) as repo:
                faults.add("POST", cut_the_body)
                with pytest.raises(RepositoryUnavailableError):
                    await repo.put(b"content")
                assert (await served.info()).objects == 1
                faults.add("POST", flip_a_sent_byte)
                await repo.put(b"content")
                assert (await served.info()).objects == 2, "the damaged upload was refused, and then repeated"

    async def test_an_existing_large_object_is_not_sent_again(self, repo, faults):
        content = content_of(5_000_000)
        key = await repo.put(content)
        faults.requests.clear()
        assert await repo.put([content[:3_000_000], content[3_000_000:]]) == key
        assert faults.requests == [("HEAD", key)]


class TestParts:
    """Large objects, which are sent by tus."""

    @pytest.fixture(autouse=True)
    def smaller_parts(self, monkeypatch):
        monkeypatch.setattr("objrepo.http.repository._RESUMABLE_BYTES", 5_000_000)
        monkeypatch.setattr("objrepo.http.repository.PART_BYTES", 1_000_000)

    async def test_a_large_object_is_sent_in_parts(self, repo, faults, served):
        content = content_of(5_500_000)
        key = await repo.put([content[:3_000_000], content[3_000_000:]])
        assert await served.get(key, check=True) == content
        assert [method for method, _ in faults.requests] == ["HEAD", "POST", *["PATCH"] * 6]

    @pytest.mark.parametrize("fault", [status(503), lose_the_response, flip_a_sent_byte])
    async def test_only_a_part_is_repeated(self, repo, faults, served, fault):
        faults.add("PATCH", fault, 3)
        key = await repo.put(content_of(5_500_000))
        assert await served.get(key, check=True) == content_of(5_500_000)
        assert faults.left == []
        assert [method for method, _ in faults.requests].count("PATCH") == 6 + 3

    async def test_the_last_response_is_lost(self, repo, faults, served):
        async def of_the_last_part(app, scope, receive, send):
            if dict(scope["headers"])[b"upload-offset"] == b"5000000":
                await lose_the_response(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        faults.add("PATCH", of_the_last_part, 6)
        key = await repo.put(content_of(5_500_000))
        assert [each async for each in served.keys()] == [key]

    async def test_a_repository_that_is_unavailable_after_the_last_part(self, repo, served, monkeypatch):
        calls = []

        async def put(source):
            calls.append(source)
            if len(calls) < 3:
                raise RepositoryUnavailableError("the bucket is unavailable")
            return await DiskRepository.put(served, source)

        monkeypatch.setattr(served, "put", put)
        key = await repo.put(content_of(5_500_000))
        assert await served.get(key, check=True) == content_of(5_500_000)

    async def test_a_server_that_has_dropped_the_upload(self, repo, faults):
        faults.add("PATCH", status(404))
        with pytest.raises(RepositoryUnavailableError, match=r"has dropped an upload, .*put it again"):
            await repo.put(content_of(5_500_000))

    async def test_a_file_that_is_truncated_meanwhile(self, repo, faults, served, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(content_of(5_500_000))

        async def truncate(app, scope, receive, send):
            os.truncate(path, 100)
            await app(scope, receive, send)

        faults.add("PATCH", truncate)
        with pytest.raises(OSError, match="changed while it was being read"):
            await repo.put(path)
        assert (await served.info()).objects == 0

    async def test_another_key(self, repo, faults):
        headers = {"content-location": "/path/other", "upload-offset": "1"}
        faults.add("PATCH", status(204, "", **headers))
        with pytest.raises(RepositoryError, match="under another key: 'other'"):
            await repo.put(content_of(5_500_000))


class TestErrors:
    @pytest.mark.parametrize(
        ("fault", "kind", "message"),
        [
            (status(503, "back soon"), RepositoryUnavailableError, "http.* is unavailable: HTTP 503 back soon"),
            (status(401), AccessDeniedError, r"the token is wrong \(HTTP 401 not now\)"),
            (status(403), AccessDeniedError, r"the server does not permit this request \(HTTP 403 not now\)"),
            (status(413, "too large"), RepositoryError, "does not support this request: HTTP 413 too large"),
            (status(308, location="https://b/c?t=secret"), RepositoryError, "redirects to https://b/c: use that URL"),
            (status(404), RepositoryError, "there is no objrepo server at .*write zip:http"),
            (status(200), RepositoryError, "there is no objrepo server at"),
            (status(403, **{"objrepo-error": "ReadOnlyError"}), ReadOnlyError, "is read-only"),
            (status(503, **{"objrepo-error": "RepositoryBusyError"}), RepositoryBusyError, "is busy"),
            (status(503, **{"objrepo-error": "NotInitialisedError"}), NotInitialisedError, r"initialise\(\)"),
            (status(400, "\x1b[31m" + "long" * 100), RepositoryError, r"HTTP 400 \?\[31m(long)*l?o?n?g?$"),
        ],
    )  # fmt: skip
    async def test_responses_are_errors_of_one_line(self, hasty, faults, fault, kind, message):
        faults.add("PUT", fault)
        with pytest.raises(RepositoryError, match=message) as caught:
            await hasty.put(b"content")
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))

    async def test_another_web_server(self):
        with serving({"/": b"<html>", "/?about": b"{}", "/list/?about": b"[1]"}) as (url, _):
            for path in ("", "/", "/list", "/nothing"):
                async with HTTPRepository(url + path, retry_timeout=0) as repo:
                    for use in (repo.is_initialised, repo.initialise, lambda repo=repo: repo.get("0" * 64)):
                        with pytest.raises(RepositoryError, match=f"no objrepo server at {url}"):
                            await use()

    async def test_another_protocol(self):
        with serving({"/?about": b'{"objrepo": 2}'}) as (url, _):
            async with HTTPRepository(url) as repo:
                with pytest.raises(RepositoryError, match="another protocol than this client: update the older"):
                    await repo.key_format()

    async def test_damaged_content_raises(self, repo, faults):
        for size in (1000, 9_000_000):
            key = await repo.put(content_of(size))
            faults.add("GET", flip_a_received_byte)
            with pytest.raises(CorruptObjectError, match=f"object '{key}' is damaged"):
                await repo.get(key)

    @pytest.mark.parametrize("size", [1000, 3_000_000, 9_000_000])
    async def test_an_object_that_is_damaged_on_the_server(self, repo, served, folder, size):
        """The server breaks off the response; the repeated request gets an answer that is not repeated."""
        key = await repo.put(content_of(size))
        flip(loose_file(folder, key), size // 2)
        with pytest.raises(CorruptObjectError, match=f"object '{key}' is damaged"):
            await repo.get(key)
        report = await repo.verify()
        assert [each.key for each in report.damaged] == [key]

    async def test_a_server_that_ignores_ranges(self, hasty, faults):
        key = await hasty.put(content_of(9_000_000))
        faults.add("GET", ignore_the_range)
        with pytest.raises(RepositoryError, match="that supports range requests"):
            await hasty.get(key)
        async with hasty.open(await hasty.put(content_of(1000))) as stream:
            faults.add("GET", ignore_the_range)
            assert await stream.read() == content_of(1000)

    async def test_an_error_that_does_not_end(self, hasty, faults):
        async def respond(app, scope, receive, send):
            await send({"type": "http.response.start", "status": 413, "headers": []})
            for _ in range(2000):
                await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})

        faults.add("PUT", respond)
        with pytest.raises(RepositoryError, match=r"sent more than the 67108864 bytes"):
            await hasty.put(b"content")

    async def test_an_upload_that_is_too_large(self, repo):
        """The server responds before it has received it."""
        with pytest.raises(RepositoryError, match=r"HTTP 413 .*30000001 bytes, and the limit is 30000000"):
            await repo.put(content_of(30_000_001))

    async def test_a_large_upload_without_permission(self, url):
        async with HTTPRepository(url, token="wrong", retry_timeout=10) as repo:
            with pytest.raises(AccessDeniedError, match="the token is wrong"):
                await repo.put(content_of(29_000_000))

    async def test_a_missing_extra_is_named_on_first_use(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "httpx", None)
        async with HTTPRepository("http://host") as repo:
            with pytest.raises(RepositoryError, match=r"httpx, by which http://host is opened.*'objrepo\[http\]'"):
                await repo.has("0" * 64)

    async def test_nothing_listens(self):
        async with HTTPRepository(f"http://127.0.0.1:{free_ports()[0]}/", retry_timeout=0.3) as repo:
            with pytest.raises(RepositoryUnavailableError, match=r"^http://127.0.0.1:\d+ is unavailable: .*refused"):
                await repo.get("0" * 64)

    async def test_a_user_is_told_that_requests_are_repeated(self, caplog):
        async with HTTPRepository(f"http://127.0.0.1:{free_ports()[0]}", retry_timeout=2) as repo:
            with pytest.raises(RepositoryUnavailableError):
                await repo.has("0" * 64)
        (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
        assert re.fullmatch(r"http://\S+ is unavailable: .*refused; trying again for 1\.\d seconds", warning.message)

    async def test_a_server_that_is_killed_and_restarted(self, folder, served):
        content = content_of(20_000_000)
        key = await served.put(content)
        port = free_ports()[0]
        with objrepo_serve(folder, port) as process:
            repo = HTTPRepository(f"http://127.0.0.1:{port}", token=TOKEN, retry_timeout=60)
            async with repo, repo.open(key) as stream:
                assert await stream.read(1_000_000) == content[:1_000_000]
                process.kill()
                process.wait()
                async with HTTPRepository(f"http://127.0.0.1:{port}", retry_timeout=0) as hasty:
                    with pytest.raises(RepositoryUnavailableError):
                        await hasty.has(key)
                with objrepo_serve(folder, port):
                    assert await stream.read() == content[1_000_000:]
                    assert await repo.has(await repo.put(b"content"))


@contextmanager
def objrepo_serve(folder, port):
    command = [*OBJREPO, "serve", "--repo", str(folder), "--port", str(port)]
    environment = {**os.environ, "OBJREPO_TOKEN": TOKEN}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


class TestTokens:
    async def test_a_token_from_the_environment(self, url, monkeypatch):
        for options, variable in (({}, "OBJREPO_TOKEN"), ({"token_variable": "OTHER"}, "OTHER")):
            async with HTTPRepository(url, retry_timeout=0, **options) as repo:
                with pytest.raises(AccessDeniedError, match=f"the server requires a token, set {variable}"):
                    await repo.put(b"content")
            monkeypatch.setenv(variable, "wrong")
            async with HTTPRepository(url, retry_timeout=0, **options) as repo:
                with pytest.raises(AccessDeniedError, match=f"the token in {variable} is wrong"):
                    await repo.put(b"content")
            monkeypatch.setenv(variable, f"{TOKEN}\n")
            async with pickle.loads(pickle.dumps(repo)) as copied:
                assert await copied.has(await copied.put(b"content"))
            assert TOKEN.encode() not in pickle.dumps(repo)
            monkeypatch.delenv(variable)

    async def test_a_token_is_never_shown(self, url, faults, caplog):
        caplog.set_level(logging.DEBUG)
        async with HTTPRepository(url, token=TOKEN, retry_timeout=0) as repo:
            assert await repo.has(await repo.put(b"content"))
            assert await deepcopy(repo).__aenter__()
            assert TOKEN not in f"{repo!r} {repo} {repo.backend} {repo.backend._options!r} {repo.statistics()}"
            with pytest.raises(TypeError, match="set OBJREPO_TOKEN for the workers instead") as caught:
                pickle.dumps(repo)
            assert TOKEN not in str(caught.value)
            faults.add("GET", status(503))
            with pytest.raises(RepositoryUnavailableError) as caught:
                await repo.get("0" * 64)
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
        assert TOKEN not in caplog.text
        assert "HTTP Request: PUT" in caplog.text, "httpx logs requests"

    @pytest.mark.parametrize("token", ["two words", "line\nbreak", "caf\u00e9", ""])
    def test_an_invalid_token_raises_value_error_without_it(self, token):
        with pytest.raises(ValueError, match="printable ASCII") as caught:
            HTTPRepository("http://host", token=token)
        assert not token or token not in str(caught.value)


class TestCancellation:
    async def test_a_server_that_does_not_respond(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            async with HTTPRepository(address, timeout=1, retry_timeout=60) as repo:
                for use in (repo.is_initialised, lambda: repo.get("0" * 64), lambda: repo.put(b"content")):
                    with anyio.move_on_after(0.1) as scope:
                        await use()
                    assert scope.cancelled_caught, "it ends with the running request, and is not repeated"

    async def test_an_upload_ends_within_its_body(self, repo, faults, served):
        async def read_slowly(app, scope, receive, send):
            started.set()
            while (await receive())["type"] != "http.disconnect":
                await anyio.sleep(0.2)

        started = threading.Event()
        faults.add("PUT", read_slowly)

        async def put():
            await repo.put(bytes(25_000_000))

        async with anyio.create_task_group() as group:
            group.start_soon(put)
            await anyio.to_thread.run_sync(started.wait)
            group.cancel_scope.cancel()
        assert (await served.info()).objects == 0


class TestManyObjects:
    async def test_small_objects_share_requests(self, repo, faults, tmp_path, monkeypatch):
        monkeypatch.setattr("objrepo.http.repository._OBJECTS_PER_REQUEST", 100)
        (tmp_path / "small").write_bytes(b"from a file")
        contents = [*(b"%d" % number for number in range(250)), content_of(70_000), b"", b"1"]
        keys = await repo.put_many([*contents, tmp_path / "small"])
        assert sorted(faults.requests) == sorted([("PUT", sha256(content_of(70_000))), *[("POST", "")] * 3])
        assert keys == [sha256(content) for content in [*contents, b"from a file"]]
        for content in (b"249", content_of(70_000), b"", b"from a file"):
            assert await repo.get(sha256(content)) == content

    async def test_the_objects_of_a_batch_share_requests(self, repo, faults):
        async with repo.batch() as batch:
            keys = [await batch.put(b"%d" % number) for number in range(50)]
        assert faults.requests == [("POST", "")]
        assert all(await repo.has_many(keys))

    async def test_a_form_that_arrives_damaged_is_repeated(self, repo, faults, served):
        async def flip_the_last_content(app, scope, receive, send):
            async def damaged():
                message = await receive()
                return {**message, "body": message["body"].replace(b"two", b"twp")}

            await app(scope, damaged, send)

        faults.add("POST", flip_the_last_content)
        keys = await repo.put_many([b"one", b"two"])
        assert sorted([key async for key in served.keys()]) == sorted(keys)
        assert faults.requests == [("POST", "")] * 2

    async def test_a_form_that_is_refused_raises_for_each_object(self, hasty, faults, served):
        faults.add("POST", status(403))
        with pytest.raises(AccessDeniedError):
            await hasty.put_many([b"one", b"two"])
        faults.add("POST", status(201, '{"objects": [{"key": "a"}, {"key": "b"}]}'))
        with pytest.raises(RepositoryError, match="stored 2 objects under other keys"):
            await hasty.put_many([b"one", b"two"])
        assert (await served.info()).objects == 0

    async def test_a_source_that_fails_does_not_affect_the_others(self, repo, tmp_path):
        with pytest.raises(FileNotFoundError):
            await repo.put_many([b"one", tmp_path / "missing", b"two"])
        assert await repo.has(sha256(b"one"))


async def test_listings_have_pages(repo, faults, monkeypatch):
    monkeypatch.setattr("objrepo.http.repository._LISTED_KEYS", 7)
    monkeypatch.setattr("objrepo.http.repository.LIST_PAGE_SIZE", 3)
    for count in (0, 3, 7, 15):
        keys = await repo.put_many(b"%d" % number for number in range(count))
        assert [key async for key in repo.keys()] == sorted(keys)
    assert [query.partition("&")[0] for _, query in faults.requests].count("?limit=7") == 1 + 1 + 1 + 3


async def test_many_keys_take_several_requests(repo, faults, monkeypatch):
    monkeypatch.setattr("objrepo.http.repository._KEYS_PER_REQUEST", 4)
    keys = await repo.put_many(b"%d" % number for number in range(10))
    faults.requests.clear()
    assert await repo.has_many([*keys, "0" * 64, *keys]) == [True] * 10 + [False] + [True] * 10
    assert faults.requests == [("POST", "?has")] * 3
    with pytest.raises(ObjectNotFoundError) as caught:
        await repo.delete_many([*keys, "0" * 64])
    assert caught.value.keys == ("0" * 64,)
    assert all(await repo.has_many(keys)), "none was deleted"
    await repo.delete_many(keys)
    assert not any(await repo.has_many(keys))


def test_without_an_event_loop_and_in_a_forked_process(url_of_a_process):
    script = """
import os, sys
from objrepo import HTTPRepository
from objrepo.offload import Inline
from objrepo.sync import SyncRepository

repo = SyncRepository(HTTPRepository(sys.argv[1], offload=Inline()))
content = bytes(9_000_000)
key = repo.put_object_from_filelike(__import__("io").BytesIO(content))
assert repo.get_object_content(key) == content
child = os.fork()
if not child:
    with repo.open(key) as file:
        assert file.read() == content
    assert repo.has_object(key)
    os._exit(0)
assert repo.get_object_content(key) == content
assert os.waitpid(child, 0)[1] == 0
repo.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, url_of_a_process], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def url_of_a_process(folder, monkeypatch):
    """The URL of `objrepo serve` in its own process; this one has the token in its environment."""
    monkeypatch.setenv("OBJREPO_TOKEN", TOKEN)
    subprocess.run([*OBJREPO, "init", "--repo", str(folder)], check=True, capture_output=True)
    port = free_ports()[0]
    with objrepo_serve(folder, port):
        wait_for_server(url := f"http://127.0.0.1:{port}")
        yield url


def wait_for_server(url):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the server does not start")


def test_commands_copy_between_a_server_and_a_bucket(url_of_a_process, run_objrepo, workdir):
    (workdir / "photo").write_bytes(content_of(5_000_000))
    (workdir / "text").write_bytes(b"a text")
    assert run_objrepo("put", "photo", "text", "--repo", url_of_a_process)[0] == 0
    with s3_server() as bucket:
        target = f"s3://bucket/copies?endpoint={bucket.url}"
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        assert run_objrepo("copy", url_of_a_process, target, env=keys)[0] == 0
        code, listed, _ = run_objrepo("ls", "--repo", target, env=keys)
        assert (code, listed) == (0, run_objrepo("ls", "--repo", url_of_a_process)[1])
        assert len(listed.split()) == 2
        for key in listed.decode().split():
            assert run_objrepo("rm", key, "--repo", url_of_a_process)[0] == 0
        assert run_objrepo("copy", target, url_of_a_process, env=keys)[0] == 0
    assert run_objrepo("ls", "--repo", url_of_a_process)[1] == listed
    assert run_objrepo("verify", "--repo", url_of_a_process)[0] == 0
    code, _, said = run_objrepo("maintain", "--repo", url_of_a_process)
    assert (code, "run `objrepo maintain` on the server" in said) == (1, True)
