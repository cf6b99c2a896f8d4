"""The contract of a repository, kept by one in Azurite, and what Azure does in its own way."""

from __future__ import annotations

import itertools
import os
import pickle
import threading

import pytest

from engines import azurite
from engines.survival import FAULTS, check_that_faults_are_survived
from gcs_server import gcs_server, require_token, service_account
from helpers import PAGES_THAT_NEED_A_CLOUD, code_blocks, run_code_block
from objrepo import AccessDeniedError, ArchiveRepository, AzureRepository, NotInitialisedError, export, open_repository
from objrepo.bucket.azure import AzureOptions
from objrepo.bucket.client import BucketClient
from objrepo.testing import RepositoryContract
from objrepo.testing.fixtures import content_of

CONTAINER = "objects"
SECRET = azurite.KEY[:20]
LOOPS = [("asyncio", {}), ("trio", {})]
_numbers = itertools.count()


@pytest.fixture(params=LOOPS, ids=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    assert not azurite.missing_programs(), (
        "Azurite is not installed: `nox -s engines` installs it if it is permitted to"
    )
    with azurite.running(tmp_path_factory.mktemp("azurite") / "node") as endpoint:
        azurite.make_container(endpoint, CONTAINER)
        yield endpoint


@pytest.fixture
def prefix():
    """A folder in the container that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def container(endpoint, prefix):
    """Make repositories over one folder of the container."""

    def make(**options):
        given = {"account": azurite.ACCOUNT, "endpoint": endpoint, "timeout": 10, "retry_timeout": 10}
        if not {"anonymous", "sas_token", "account_key"} & options.keys():
            given["account_key"] = azurite.KEY
        return AzureRepository(options.pop("container", CONTAINER), prefix, **{**given, **options})

    return make


@pytest.fixture
async def repo(container):
    async with container() as repo:
        await repo.initialise()
        yield repo


class TestAzure(RepositoryContract):
    @pytest.fixture(params=LOOPS, ids=["asyncio", "trio"])
    def anyio_backend(self, request):
        return request.param

    @pytest.fixture
    def repository(self, container):
        return container()


@pytest.fixture
def client(endpoint, prefix):
    options = AzureOptions(
        bucket=CONTAINER, prefix=prefix, account=azurite.ACCOUNT, endpoint=endpoint, account_key=azurite.KEY
    )
    return BucketClient(options)


class TestRequests:
    """What the code above them relies on."""

    def test_an_object_is_created_once(self, client):
        assert client.create("lease", b"one")
        assert not client.create("lease", b"two")
        assert not client.create_first("lease", b"two")
        assert client.create_first("lease", b"one"), "as after a lost answer"
        assert client.read("lease")[0] == b"one"

    def test_ranges(self, client):
        client.put("name", b"0123456789")
        client.put("empty", b"")
        assert [bytes(client.get_range("name", start, 8).content) for start in (0, 5, 7)] == [b"01234567", b"567", b"7"]
        for name, size in (("name", 10), ("empty", 0)):
            assert client.get_range(name, size, size + 2) == (b"", size)  # Azurite does not refuse one byte

    def test_a_listing_begins_after_a_name(self, client):
        for number in range(10):
            client.put(f"log/{number}", b"")
        names = [f"log/{number}" for number in range(10)]
        assert [each.name for each in client.list_all("log")] == names
        assert [each.name for each in client.list_all("log", "log/3")] == names[4:]
        listing = client.list(after="log/1", page_size=3)
        assert [each.name for each in [*listing.next_page(), *listing.next_page()]] == names[2:8]

    def test_objects_that_do_not_exist_are_deleted_along_with_others(self, client):
        names = [f"name-{number:03}" for number in range(300)]  # more than Azure deletes by one request
        for name in (names[0], names[150], names[299]):
            client.put(name, b"")
        client.delete(names)
        assert client.list().next_page() == []
        client.delete(names[:1])

    def test_two_uploads_of_one_object_at_once(self, client):
        """The parts of the second are removed when the first ends: it is repeated."""
        content = content_of(20_000_000)
        others = []

        def chunks():
            yield content[:9_000_000]
            if not others:
                others.append(
                    threading.Thread(target=client.upload, args=("name", lambda: iter([content]), len(content)))
                )
                others[0].start()
                others[0].join()
            yield content[9_000_000:]

        client.upload("name", chunks, len(content))
        assert others
        parts = [
            client.get_range("name", start, start + 4_000_000).content for start in range(0, len(content), 4_000_000)
        ]
        assert b"".join(map(bytes, parts)) == content


class TestErrors:
    async def test_a_container_that_does_not_exist(self, container):
        async with container(container="nothing") as repo:
            assert not await repo.is_initialised()
            with pytest.raises(NotInitialisedError, match="there is no container for az://nothing/"):
                await repo.initialise()

    async def test_wrong_credentials(self, container):
        wrong = f"{SECRET}{azurite.KEY[40:80]}{azurite.KEY[20:40]}{azurite.KEY[80:]}"
        signature = f"sv=2021-08-06&ss=b&srt=sco&sp=rl&se=2099-01-01&sig={SECRET}"
        for given in ({"account_key": wrong}, {"sas_token": signature}, {"account_key": f"{SECRET}?"}):
            async with container(**given) as repo:
                with pytest.raises(
                    AccessDeniedError, match=r"access to az://objects/test/\d+ at http://.* is denied"
                ) as caught:
                    await repo.get("0" * 64)
                assert SECRET not in f"{caught.value!r} {repo!r} {repo.backend._options!r}"
                assert "\n" not in str(caught.value)
                with pytest.raises(TypeError, match="AZURE_STORAGE_ACCOUNT_KEY"):
                    pickle.dumps(repo)

    async def test_a_private_container_is_not_read_without_credentials(self, repo, container):
        async with container(anonymous=True) as other:
            with pytest.raises(AccessDeniedError):
                await other.uuid()


class TestCredentials:
    """Where credentials are read from when they are not given."""

    @pytest.fixture
    def url(self, repo, endpoint, prefix, monkeypatch):
        for name in [name for name in os.environ if name.startswith("AZURE_")]:
            monkeypatch.delenv(name)
        return f"az://{CONTAINER}/{prefix}?account={azurite.ACCOUNT}&endpoint={endpoint}"

    async def uuid_of(self, url):
        async with open_repository(url) as repo:
            return await repo.uuid()

    async def test_a_key_of_the_environment(self, repo, url, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.KEY)
        assert await self.uuid_of(url) == await repo.uuid()

    async def test_a_connection_string_of_the_environment(self, repo, url, endpoint, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string(endpoint))
        assert await self.uuid_of(url.partition("?")[0]) == await repo.uuid()

    async def test_a_shared_access_signature_of_the_environment(self, repo, url, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azurite.shared_access_signature("rl"))
        assert await self.uuid_of(url) == await repo.uuid()
        async with open_repository(url) as other:
            with pytest.raises(AccessDeniedError):
                await other.put(b"content")

    async def test_the_permissions_of_a_signature_that_writes(self, repo, url, monkeypatch):
        """Azurite does not permit deletions by a signature of an account."""
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azurite.shared_access_signature("rcwl"))
        async with open_repository(url) as other:
            keys = await other.put_many([b"one", b"two", b"three"])
            large = await other.put(content_of(9_000_000))
            assert await repo.has_many([*keys, large]) == [True] * 4

    async def test_what_is_given_precedes_the_environment(self, repo, container, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "other")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        async with container() as other:
            assert await other.uuid() == await repo.uuid()


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_any_one_request_is_survived(endpoint, prefix, fault, monkeypatch):
    def make(url, folder):
        return AzureRepository(
            CONTAINER,
            f"{prefix}/{folder}",
            account=azurite.ACCOUNT,
            account_key=azurite.KEY,
            endpoint=f"{url.removesuffix(f'/{azurite.ACCOUNT}')}/{azurite.ACCOUNT}",
        )

    await check_that_faults_are_survived(endpoint, fault, make, monkeypatch)


async def test_maintenance(repo, container, tmp_path):
    keys = await repo.put_many(b"%d" % number * 100 for number in range(1000))
    large = await repo.put(content_of(30_000_000))
    await repo.delete_many(keys[::2])
    assert (await repo.maintain(live=False)).steps
    async with container(index=str(tmp_path)) as other:
        assert await other.has_many([*keys, large]) == [False, True] * 500 + [True]
        assert await other.get(large) == content_of(30_000_000)
        assert (await other.verify()).ok
        assert (await other.repair(live=False)).dry_run is False


@pytest.fixture(scope="module")
def clouds(endpoint, tmp_path_factory):
    """Set the environment of a reader, who has both clouds."""
    azurite.make_container(endpoint, "photos")
    account = tmp_path_factory.mktemp("gcs") / "account.json"
    with gcs_server("photos") as server, pytest.MonkeyPatch.context() as environment:
        server.answer = require_token
        account.write_text(service_account(server.url))
        environment.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string(endpoint))
        environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        environment.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield


@pytest.mark.parametrize(("language", "code"), list(code_blocks(PAGES_THAT_NEED_A_CLOUD)))
def test_every_block_of_code(language, code, clouds, project, forked_commands):
    run_code_block(language, code, project, forked_commands)


async def test_an_archive_in_a_container(repo, endpoint, client, prefix, tmp_path, monkeypatch):
    keys = await repo.put_many(b"%d" % number for number in range(100))
    await export(repo, tmp_path / "export.zip")
    content = (tmp_path / "export.zip").read_bytes()
    client.put("export.zip", content)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.KEY)
    async with ArchiveRepository(
        f"az://{CONTAINER}/{prefix}/export.zip?account={azurite.ACCOUNT}&endpoint={endpoint}"
    ) as archive:
        assert sorted([key async for key in archive.keys()]) == sorted(keys)
        assert (await archive.verify()).ok
