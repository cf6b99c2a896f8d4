"""Azure repositories: accounts, endpoints and credentials. `tests/engines` has them in Azurite."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import azure.identity
import pytest
from azure.core.exceptions import ServiceRequestError

from objrepo import (
    AccessDeniedError,
    AzureRepository,
    NotInitialisedError,
    RepositoryError,
    RepositoryUnavailableError,
    open_repository,
)
from s3_server import s3_server

KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
STRING = f"DefaultEndpointsProtocol=https;AccountName=mine;AccountKey={KEY};EndpointSuffix=core.example.net"
SIGNED = "BlobEndpoint=https://mine.blob.core.example.net/;SharedAccessSignature=sv=2025&sig=secret%3D"


@pytest.fixture
def anyio_backend():
    return "trio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)


def described(**given):
    options = AzureRepository("box", **given).backend._options
    return options.account, options.endpoint


class TestAccounts:
    def test_the_endpoint_follows_from_the_account(self):
        assert described(account="mine") == ("mine", "https://mine.blob.core.windows.net")

    def test_the_account_follows_from_the_endpoint(self):
        endpoint = "https://mine.blob.core.chinacloudapi.cn"
        assert described(endpoint=endpoint) == ("mine", endpoint)

    @pytest.mark.parametrize("text", [STRING, SIGNED])
    def test_both_follow_from_a_connection_string(self, text, monkeypatch):
        expected = ("mine", "https://mine.blob.core.example.net")
        assert described(connection_string=text) == expected
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert described() == described(account="mine") == expected
        assert described(account="other") == ("other", "https://other.blob.core.windows.net")

    @pytest.mark.parametrize("name", ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"])
    def test_the_account_of_the_environment(self, name, monkeypatch):
        monkeypatch.setenv(name, "mine")
        assert described() == ("mine", "https://mine.blob.core.windows.net")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "is unknown: pass account, or set AZURE_STORAGE_ACCOUNT_NAME"),
            ({"account": "Mine"}, "invalid storage account 'Mine'"),
            ({"account": "mine", "account_key": ""}, "account_key is empty"),
            ({"account": "mine", "endpoint": "https://other.blob.core.windows.net"}, "is that of the account other"),
            ({"account_key": KEY, "anonymous": True}, "pass only one of account_key"),
            ({"connection_string": STRING, "account": "mine"}, "pass no account and no endpoint"),
            ({"connection_string": f"AccountKey={KEY}"}, "invalid connection string: it must have AccountName"),
            ({"connection_string": "AccountName=mine"}, "invalid connection string: .*AccountKey or"),
        ],
    )
    def test_bad_parameters(self, given, message):
        with pytest.raises(ValueError, match=message) as caught:
            AzureRepository("box", **given)
        assert KEY not in str(caught.value)

    def test_a_connection_string_that_is_not_needed_is_not_read(self, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
        with pytest.raises(ValueError, match=r"AccountKey or .*; it is read from AZURE_STORAGE_CONNECTION_STRING"):
            described(account="mine")
        endpoint = "https://mine.blob.core.windows.net"
        assert described(endpoint=endpoint, account_key=KEY) == ("mine", endpoint)


async def test_a_redirect_does_not_ask_for_a_region(tmp_path):
    with s3_server() as server:
        server.answer = lambda *_: (301, "Moved")
        options = {"account": "mine", "endpoint": server.url, "anonymous": True, "retry_timeout": 0}
        async with AzureRepository("box", index=str(tmp_path), **options) as repo:
            with pytest.raises(RepositoryError, match=r"redirects to another endpoint: use endpoint=…$"):
                await repo.get("0" * 64)


class TestCredentials:
    """What is sent, to a server that answers as Azure does to a `GET`."""

    @pytest.fixture
    def sent(self):
        """The headers and the query of the last request."""
        sent = {}

        def answer(method, name, query, headers):
            sent.update(headers, query=query)
            return (404, "ContainerNotFound")

        with s3_server() as server:
            server.answer = answer
            sent["endpoint"] = server.url
            yield sent

    async def send(self, sent, **given):
        repo = AzureRepository("box", account="mine", endpoint=sent["endpoint"], retry_timeout=0, **given)
        async with repo:
            with pytest.raises(NotInitialisedError, match="there is no container for az://box"):
                await repo.uuid() or await repo.get("0" * 64)

    async def test_those_of_the_environment_are_for_its_account_only(self, sent, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        await self.send(sent)
        assert sent["authorization"].startswith("SharedKey mine:")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "other")
        monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: Identity())
        await self.send(sent)
        assert sent["authorization"] == "Bearer token-of-an-identity"

    async def test_what_is_given_precedes_the_environment(self, sent, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        await self.send(sent, sas_token="?sv=2025&sig=mine")
        assert "sig=mine" in sent["query"]
        assert "authorization" not in sent

    async def test_anonymous_requests_have_none(self, sent, monkeypatch):
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        await self.send(sent, anonymous=True)
        assert "authorization" not in sent

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (azure.identity.CredentialUnavailableError("a\nparagraph"), AccessDeniedError),
            (ServiceRequestError("no route to the host\nmore"), RepositoryUnavailableError),
        ],
    )
    async def test_an_identity_that_is_not_available(self, sent, monkeypatch, error, raised):
        monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: Identity(error))
        async with open_repository(f"az://box?account=mine&endpoint={sent['endpoint']}&retry_timeout=0") as repo:
            with pytest.raises(raised, match=r"^(no|the) credentials for az://box at .*") as caught:
                await repo.get("0" * 64)
        assert "\n" not in str(caught.value)

    async def test_a_key_that_is_not_base64(self, sent):
        async with AzureRepository("box", account="mine", account_key="secret!") as repo:
            with pytest.raises(AccessDeniedError, match="the account key is not base64") as caught:
                await repo.get("0" * 64)
        assert "secret!" not in str(caught.value)

    async def test_a_signature_that_is_not_one(self, sent):
        async with AzureRepository("box", account="mine", sas_token="sv=2025&secret") as repo:
            with pytest.raises(AccessDeniedError, match="the shared access signature is incomplete") as caught:
                await repo.get("0" * 64)
        assert "secret" not in str(caught.value)


class Identity:
    """What azure-identity finds on a machine of Azure."""

    def __init__(self, error=None):
        self.error = error

    def get_token(self, scope):
        assert scope == "https://storage.azure.com/.default"
        if self.error is not None:
            raise self.error
        return SimpleNamespace(token="token-of-an-identity", expires_on=(datetime.now(UTC) + timedelta(1)).timestamp())


@pytest.mark.parametrize("secret", [{"account_key": KEY}, {"sas_token": "sig=secret"}, {"connection_string": STRING}])
def test_a_secret_is_not_pickled_and_not_shown(secret):
    repo = AzureRepository("box", **({} if "connection_string" in secret else {"account": "mine"}), **secret)
    with pytest.raises(TypeError, match=r"cannot pickle az://box at .* set AZURE_STORAGE_ACCOUNT_NAME and AZURE_"):
        pickle.dumps(repo)
    shown = f"{repo!r} {repo} {repo.backend} {repo.backend._options!r}"
    assert KEY not in shown
    assert "sig=secret" not in shown


def test_a_pickle_holds_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", STRING)
    repo = AzureRepository("box")
    pickled = pickle.dumps(repo)
    assert KEY.encode() not in pickled
    assert str(pickle.loads(pickled)) == str(repo)
