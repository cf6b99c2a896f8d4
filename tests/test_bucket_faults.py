"""Faults between a program and its bucket end in the right result, or in one clear error within the stated time."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from itertools import count

import anyio
import pytest

from objrepo import (
    AccessDeniedError,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryError,
    RepositoryUnavailableError,
    S3Repository,
)
from objrepo.bucket import backend, client, log, loose
from objrepo.bucket.s3 import S3Options
from s3_proxy import Fault, proxy_to
from s3_server import s3_server

SECRETS = {"access_key_id": "ACCESSOFMINE", "secret_access_key": "secret-of-mine", "session_token": "token-of-mine"}
TIMEOUT = 2.0


@pytest.fixture
def anyio_backend():
    """Network faults do not depend on the event loop; the contract is tested on all."""
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Repeat requests at once, and have small objects be large ones, which are sent and received in parts."""
    monkeypatch.setattr("objrepo.retry.FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backend, "_MAX_SINGLE_REQUEST_BYTES", 1000)
    monkeypatch.setattr(backend, "MAX_BATCHED_OBJECT_BYTES", 100)
    monkeypatch.setattr(S3Options, "list_uploads", lambda *_: [])  # by botocore, which starts slowly
    for module in (backend, client, log, loose):
        monkeypatch.setattr(module, "PART_BYTES", 2000)


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(server):
    with proxy_to(server.url) as proxy:
        yield proxy


@pytest.fixture
def retry_timeout():
    """Long enough for a repetition on a slow machine."""
    return 10.0


@pytest.fixture
def options(proxy, tmp_path, retry_timeout):
    return {
        "bucket": "bucket",
        "endpoint": proxy.url,
        "timeout": TIMEOUT,
        "retry_timeout": retry_timeout,
        "index": str(tmp_path / "index"),
        **SECRETS,
    }


@pytest.fixture
def form():
    """The format of the repository."""
    return 2


@pytest.fixture
async def world(server, proxy, options, form, tmp_path):
    server.ignores_conditions = form == 1
    async with (
        S3Repository(**options) as repo,
        S3Repository(**{**options, "endpoint": server.url, "index": str(tmp_path / "other")}) as other,
    ):
        await repo.initialise()
        server.ignores_conditions = False
        yield await World(repo, other, proxy).filled()


class World:
    """A repository behind the proxy, the same one on another machine without it, and what must be in it.

    :ivar objects: what was acknowledged.
    :ivar unknown: the keys of which a put or a deletion was not acknowledged.
    :ivar deleted: the keys whose deletion was acknowledged.
    """

    def __init__(self, repo, other, proxy):
        self.repo = repo
        self.other = other
        self.proxy = proxy
        self.objects = {}
        self.unknown = set()
        self.deleted = set()
        self.number = 0

    async def filled(self):
        contents = [self.content(), self.content(), self.content()]
        self.packed = await self.other.put_many(contents)
        self.objects |= zip(self.packed, contents, strict=True)
        self.loose = await self.stored(self.content())
        self.large = await self.stored(self.content(5000))
        self.loose_ones = [await self.stored(self.content()) for _ in range(6)]
        contents = [self.content() for _ in range(4)]
        self.packed_ones = await self.other.put_many(contents)
        self.objects |= zip(self.packed_ones, contents, strict=True)
        return self

    def content(self, size=20):
        self.number += 1
        return b"%0*d" % (size, self.number)

    async def stored(self, content):
        key = await self.other.put(content)
        self.objects[key] = content
        return key

    async def put(self, contents, put):
        """Put contents by a function, and note what is acknowledged."""
        keys = [hashlib.sha256(content).hexdigest() for content in contents]
        self.unknown |= set(keys)
        assert await put() == keys
        self.unknown -= set(keys)
        self.objects |= zip(keys, contents, strict=True)

    async def delete(self, key):
        del self.objects[key]
        self.unknown.add(key)
        await self.repo.delete(key)
        self.unknown.remove(key)
        self.deleted.add(key)

    def compare(self, listed):
        assert len(listed) == len(set(listed))
        assert self.objects.keys() <= set(listed) <= self.objects.keys() | self.unknown

    async def check(self):
        """Compare everything with what was acknowledged, on the other machine."""
        for key, content in self.objects.items():
            assert await self.other.get(key) == content
        self.compare([key async for key in self.other.keys()])
        assert not any(await self.other.has_many(self.deleted))
        assert (await self.other.verify()).ok


async def put(world):
    content = world.content()
    await world.put([content], lambda: as_list(world.repo.put(content)))


async def as_list(awaitable):
    return [await awaitable]


async def put_again(world):
    assert await world.repo.put(world.objects[world.packed[0]]) == world.packed[0]


async def put_large(world):
    content = world.content(5000)
    await world.put([content], lambda: as_list(world.repo.put(content)))


async def put_many(world):
    contents = [world.content(), world.content(), world.content(300)]
    await world.put(contents, lambda: world.repo.put_many(contents))


async def get(world):
    for key in (world.packed[0], world.loose, world.large):
        assert await world.repo.get(key) == world.objects[key]


async def get_missing(world):
    with pytest.raises(ObjectNotFoundError):
        await world.repo.get("0" * 64)


async def open_range(world):
    for key in (world.packed[0], world.large):
        async with world.repo.open(key, offset=3, length=12) as stream:
            assert await stream.read() == world.objects[key][3:15]


async def stream(world):
    keys = [world.packed[2], world.loose, world.packed[0], world.large]
    async with world.repo.stream(keys) as objects:
        found = {key: await each.read() async for key, each in objects}
    assert found == {key: world.objects[key] for key in keys}


async def has(world):
    assert [await world.repo.has(key) for key in (world.packed[0], world.loose, "0" * 64)] == [True, True, False]


async def has_many(world):
    keys = [*world.objects, *(f"{number:064x}" for number in range(9))]
    assert await world.repo.has_many(keys) == [key in world.objects for key in keys]


async def delete(world):
    await world.delete(world.loose_ones.pop())


async def delete_packed(world):
    await world.delete(world.packed_ones.pop())


async def keys(world):
    world.compare([key async for key in world.repo.keys()])


async def verify(world):
    report = await world.repo.verify()
    assert report.ok
    assert len(world.objects) <= report.objects <= len(world.objects) + len(world.unknown)


async def maintain(world):
    await world.repo.maintain()


OPERATIONS = (
    put,
    put_again,
    put_large,
    put_many,
    get,
    get_missing,
    open_range,
    stream,
    has,
    has_many,
    delete,
    delete_packed,
    keys,
    verify,
    maintain,
)

TEMPORARY = {
    "slow down": Fault(answer=503, headers={"Retry-After": "1"}),
    "lost answer": Fault(answer=500, code="InternalError", performed=True),
    "closed connection": Fault(drop=True),
    "cut body": Fault(cut=1),
    "wrong length": Fault(shorten=1),
    "sent twice": Fault(twice=True),
    "late copy": Fault(copy=True),
}


async def survive_at_each_request(world, server, proxy, fault, operations):
    for operation in operations:
        for position in count():
            numbers = count()
            proxy.requests.clear()
            proxy.faults = lambda *_, n=numbers, p=position: fault if next(n) == p else None
            try:
                await operation(world)
            except Exception as error:
                error.add_note(f"{operation.__name__}, request {position}: {proxy.requests}")
                raise
            if len(proxy.requests) <= position:
                break
            proxy.deliver()
            server.objects.pop("lease", None)  # which would end by itself: the copy may be that of its beginning
    await world.check()


@pytest.mark.parametrize("fault", TEMPORARY)
async def test_a_fault_of_any_one_request_is_survived(world, server, proxy, fault):
    await survive_at_each_request(world, server, proxy, TEMPORARY[fault], OPERATIONS)


@pytest.mark.parametrize("form", [1])
@pytest.mark.parametrize("fault", ["lost answer", "sent twice", "wrong length"])
async def test_the_same_in_format_1(world, server, proxy, fault):
    operations = (put, put_again, put_large, put_many, get, has_many, delete, keys)
    await survive_at_each_request(world, server, proxy, TEMPORARY[fault], operations)


@pytest.mark.parametrize("fault", [Fault(hang=0.5), Fault(late=0.5), Fault(trickle=0.1)], ids=["hangs", "late", "slow"])
async def test_a_request_that_takes_longer_than_its_timeout_is_repeated(world, server, proxy, options, tmp_path, fault):
    async with S3Repository(**{**options, "timeout": 0.3, "index": str(tmp_path / "hasty")}) as world.repo:
        await world.repo.has("0" * 64)
        for operation in (put, put_large, put_many, get, stream, delete, keys):
            proxy.requests.clear()
            proxy.fail(fault)
            await operation(world)
            assert proxy.requests[0] in proxy.requests[1:] or (fault.trickle and proxy.requests[0][0] != "GET")
    await world.check()


@pytest.mark.parametrize("status", [408, 429, 502, 504])
async def test_other_statuses_that_are_temporary(world, proxy, status):
    proxy.fail(Fault(answer=status, code="Busy"), Fault(answer=status, code="Busy"))
    await put(world)
    assert proxy.requests[-1][0] == "PUT"


PERMANENT = {name: TEMPORARY[name] for name in ("slow down", "lost answer", "closed connection")}


@pytest.mark.parametrize("retry_timeout", [0.15])
@pytest.mark.parametrize("fault", PERMANENT)
async def test_a_fault_that_stays_is_one_error_in_time(world, proxy, fault, retry_timeout):
    for operation in OPERATIONS:
        proxy.faults = lambda *_: PERMANENT[fault]
        began = time.monotonic()
        with pytest.raises(
            RepositoryUnavailableError, match=r"^s3://bucket at http://127.0.0.1:\d+ is unavailable: ."
        ) as caught:
            await operation(world)
        assert time.monotonic() - began < retry_timeout + 2 * TIMEOUT + 5, "the stated time, on a machine that is slow"
        assert isinstance(caught.value, ConnectionError)
        check_error(caught.value)
        proxy.fail()
        await operation(world)


def check_error(error):
    assert "\n" not in str(error)
    assert len(str(error)) < 300
    for secret in SECRETS.values():
        assert secret not in str(error) + repr(error.__cause__)
    assert error.__cause__ is None


@dataclass
class Refusal:
    """An answer that repeating does not change, and the error for it."""

    fault: Fault
    kind: type[Exception]
    message: str


LOCATION = r"s3://bucket at http://127.0.0.1:\d+"
DENIED = rf"^access to {LOCATION} is denied: "
REFUSALS = {
    "credentials": Refusal(
        Fault(answer=400, code="ExpiredToken"),
        AccessDeniedError,
        rf"{DENIED}the credentials have expired \(ExpiredToken\)$",
    ),
    "clock": Refusal(
        Fault(answer=403, code="RequestTimeTooSkewed"),
        AccessDeniedError,
        rf"{DENIED}the clock of this machine is wrong \(RequestTimeTooSkewed\)$",
    ),
    "secret": Refusal(
        Fault(
            answer=403,
            code="SignatureDoesNotMatch",
            body=f"<AWSAccessKeyId>{SECRETS['access_key_id']}</AWSAccessKeyId>",
        ),
        AccessDeniedError,
        rf"{DENIED}the secret key is wrong \(SignatureDoesNotMatch\)$",
    ),
    "permission": Refusal(
        Fault(answer=403, code="AccessDenied"),
        AccessDeniedError,
        rf"{DENIED}the credentials do not permit this request \(AccessDenied\)$",
    ),
    "region in the body": Refusal(
        Fault(answer=400, code="AuthorizationHeaderMalformed", body="<Region>eu-central-1</Region>"),
        RepositoryError,
        f"^{LOCATION} is in another region: use region=eu-central-1$",
    ),
    "bucket": Refusal(
        Fault(answer=404, code="NoSuchBucket"),
        NotInitialisedError,
        f"^there is no bucket for {LOCATION}: create it",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_one_error_at_once(world, proxy, refusal):
    fault, kind, message = vars(REFUSALS[refusal]).values()
    for operation in OPERATIONS:
        proxy.requests.clear()
        proxy.faults = lambda *_: fault
        with pytest.raises(kind, match=message) as caught:
            await operation(world)
        assert type(caught.value) is kind
        check_error(caught.value)
        per_key = 2 * len(world.objects)  # `has_many` asks for each at the same time, and each again with GET
        assert len(proxy.requests) <= (per_key if operation is has_many else 4), proxy.requests
        proxy.fail()
    await world.check()


@pytest.mark.parametrize("operation", [put_many, get, delete])
@pytest.mark.parametrize(
    ("headers", "advice"),
    [
        ({"x-amz-bucket-region": "eu-west-1"}, "is in another region: use region=eu-west-1$"),
        (
            {"x-amz-bucket-region": "eu west"},
            "is in another region, or at another endpoint: use region=… or endpoint=…$",
        ),
        ({}, "is in another region, or at another endpoint: use region=… or endpoint=…$"),
    ],
)
async def test_a_redirect_to_another_region_names_it(world, proxy, operation, headers, advice):
    proxy.faults = lambda *_: Fault(answer=301, code="PermanentRedirect", headers=headers)
    with pytest.raises(RepositoryError, match=advice) as caught:
        await operation(world)
    check_error(caught.value)
    proxy.fail()
    await world.check()


async def test_a_redirected_list_of_uploads_names_the_region(world, proxy, monkeypatch):
    monkeypatch.undo()
    for headers, advice in (
        ({"x-amz-bucket-region": "eu-west-1"}, "use region=eu-west-1$"),
        ({}, "at another endpoint"),
    ):
        proxy.faults = lambda *_, headers=headers: Fault(answer=301, code="PermanentRedirect", headers=headers)
        with pytest.raises(RepositoryError, match=advice) as caught:
            await world.repo.maintain()
        check_error(caught.value)


async def test_a_redirect_with_an_address_is_not_followed_by_a_write(world, proxy):
    proxy.faults = lambda method, _: Fault(answer=307, headers={"Location": proxy.url}) if method == "PUT" else None
    with pytest.raises(RepositoryError, match="is in another region, or at another endpoint"):
        await put_many(world)
    await world.check()


class TestCredentials:
    """Credentials that a program prints, as one that is named by `credential_process`."""

    @pytest.fixture
    def issue(self, tmp_path, monkeypatch, server):
        """Have other credentials be valid, and the program print the same or others."""
        path = tmp_path / "credentials.json"
        (tmp_path / "config").write_text(f"[profile work]\ncredential_process = cat {path}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

        def issue(valid, printed=None):
            keys = {"Version": 1, "AccessKeyId": printed or valid, "SecretAccessKey": "secret", "SessionToken": "token"}
            path.write_text(json.dumps({**keys, "Expiration": "2999-01-01T00:00:00Z"}))
            server.answer = lambda *request: (
                None if f"Credential={valid}/" in request[-1]["authorization"] else (400, "ExpiredToken")
            )
            return path

        return issue

    @pytest.fixture
    async def repo(self, issue, options):
        issue("FIRST")
        others = {name: value for name, value in options.items() if name not in SECRETS}
        async with S3Repository(**others, profile="work") as repo:
            await repo.initialise()
            yield repo

    async def test_that_expire_are_renewed(self, repo, issue, proxy):
        keys = [await repo.put(b"content"), *(await repo.put_many([b"one", b"two"]))]
        issue("SECOND")
        proxy.requests.clear()
        async with anyio.create_task_group() as group:
            for key in keys * 4:
                group.start_soon(repo.get, key)
        refused = len(proxy.requests) - 12
        assert 1 <= refused <= 12, "each of the requests at the same time is repeated once"
        for number, operation in enumerate((repo.delete, repo.size, repo.has, repo.get)):
            issue(f"ANOTHER{number}")
            await operation(keys[number % 3 if number else 2])
        issue("LAST")
        large = b"large" * 1000
        assert await repo.get(await repo.put(large)) == large
        assert (await repo.verify()).ok

    async def test_that_stay_expired_are_an_error(self, repo, issue, proxy):
        issue("SECOND", printed="FIRST")
        proxy.requests.clear()
        with pytest.raises(AccessDeniedError, match=rf"{DENIED}the credentials have expired") as caught:
            await repo.put(b"content")
        check_error(caught.value)
        assert len(proxy.requests) == 2

    async def test_a_program_that_fails_is_an_error(self, repo, issue):
        issue("SECOND").unlink()
        with pytest.raises(AccessDeniedError, match=f"^no credentials for {LOCATION}: Error when retrieving") as caught:
            await repo.put(b"content")
        check_error(caught.value)


class TestLateCopies:
    """A request that a proxy or the network repeats arrives after a later one."""

    LOOSE = b"a loose object"

    @staticmethod
    def copy(proxy, method, part=""):
        proxy.faults = lambda asked, target: Fault(copy=True) if asked == method and part in target else None

    async def test_a_late_put_brings_no_object_back(self, world, proxy, options, tmp_path):
        self.copy(proxy, "PUT")
        key, packed = await world.repo.put(self.LOOSE), await world.repo.put_many([b"one", b"two"])
        proxy.faults = lambda *_: None
        await world.other.delete_many([key, *packed])
        assert len(proxy.deliver()) == 3
        async with S3Repository(**{**options, "index": str(tmp_path / "fresh")}) as fresh:
            for repo in (world.repo, world.other, fresh):
                assert not any(await repo.has_many([key, *packed]))
        await world.other.maintain()
        await world.check()

    async def test_a_late_delete_removes_no_object_that_was_stored_again(self, world, proxy, options, tmp_path):
        key = await world.stored(self.LOOSE)
        self.copy(proxy, "POST", "?delete")
        await world.repo.delete(key)
        await world.other.maintain(live=False)
        assert await world.repo.put(self.LOOSE) == key
        assert [status for *_, status in proxy.deliver()] == [200]
        async with S3Repository(**{**options, "index": str(tmp_path / "fresh")}) as fresh:
            assert await fresh.get(key) == self.LOOSE
        await world.check()

    async def test_log_entries_and_packs_that_come_back_change_nothing(self, world, proxy, server, options, tmp_path):
        self.copy(proxy, "PUT")
        await put_many(world)
        await delete_packed(world)
        await put_many(world)
        await world.repo.maintain(live=False)
        await world.other.maintain(live=False)
        assert "log/0000000000000002" not in server.objects
        statuses = [status for *_, status in proxy.deliver()]
        assert statuses.count(200) > 3, "entries that were removed are there again"
        async with S3Repository(**{**options, "index": str(tmp_path / "fresh")}) as fresh:
            for repo in (world.repo, fresh):
                assert sorted([key async for key in repo.keys()]) == sorted(world.objects)
        server.objects.pop("lease", None)
        await world.repo.put(b"and on")
        world.unknown.add(hashlib.sha256(b"and on").hexdigest())
        await world.other.maintain(live=False)
        await world.check()

    @pytest.mark.parametrize("form", [1])
    async def test_in_format_1_they_undo_what_was_done_since(self, world, proxy):
        self.copy(proxy, "PUT")
        key = await world.repo.put(self.LOOSE)
        self.copy(proxy, "POST", "?delete")
        await world.repo.delete(key)
        put, delete = proxy.copies
        proxy.copies = [put]
        proxy.deliver()
        assert await world.repo.has(key)
        proxy.copies = [delete]
        proxy.deliver()
        assert not await world.repo.has(key)


@pytest.mark.parametrize(("part", "number"), [("/bucket/", 3), ("/log/", 2)])
async def test_answers_that_arrive_in_another_order(world, proxy, part, number):
    """Those of several writers are held back, and released from the last to the first."""
    for _ in range(3):
        held = []

        def hold(method, target, held=held):
            if method != "PUT" or part not in target or len(held) == number:
                return None
            held.append(threading.Event())
            return Fault(hold=held[-1])

        proxy.faults = hold
        async with anyio.create_task_group() as group:
            for operation in (put, put_many, put_many):
                group.start_soon(operation, world)
            with anyio.fail_after(TIMEOUT):
                while len(held) < number:
                    await anyio.sleep(0.005)
            for event in reversed(held):
                event.set()
                await anyio.sleep(0.02)
    proxy.fail()
    await world.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null"])
async def test_a_lease_that_is_damaged_is_taken_over(world, server, content):
    server.objects["lease"] = content
    await world.repo.maintain()
    assert server.objects["lease"] == b"{}"


async def test_a_late_copy_of_a_lease_delays_maintenance_by_minutes(world, server, proxy):
    proxy.faults = lambda method, target: Fault(copy=True) if (method, target) == ("PUT", "/bucket/lease") else None
    await world.repo.maintain()
    server.objects["lease"] = proxy.copies[1].body
    with pytest.raises(RepositoryBusyError, match=r"try again in (299|300) seconds"):
        await world.repo.maintain()
    await world.check()
