"""`AzureRepository`, and what Azure Blob Storage does in its own way.

Azure deletes the parts of uploads that were never completed by itself, after a week.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from objrepo.bucket.client import one_line
from objrepo.bucket.options import (
    COMMON_OPTIONS,
    BucketOptions,
    ErrorCodes,
    FromText,
    check_endpoint,
    client_options,
    import_extra,
    parse_bool,
)
from objrepo.bucket.repository import BucketRepository
from objrepo.errors import AccessDeniedError, RepositoryUnavailableError
from objrepo.offload import Offload

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_SCOPE: Final = "https://storage.azure.com/.default"

# The names that the command line of Azure reads, and those that obstore and others do.
_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_KEYS: Final = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
_TOKENS: Final = ("AZURE_STORAGE_SAS_TOKEN",)
_CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"


class AzureRepository(BucketRepository):
    """Keeps objects in a container of Azure Blob Storage. It needs the extra ``azure``.

    What :class:`~objrepo.S3Repository` says of names, packs, errors, cancellation and processes is true of it too. It
    was tested with Azurite, not with the service itself, and not with a hierarchical namespace (Data Lake).

    Credentials are those that were given. Else they are read from the environment, if it has some for this account:
    ``AZURE_STORAGE_CONNECTION_STRING``, or ``AZURE_STORAGE_ACCOUNT_KEY`` or ``AZURE_STORAGE_SAS_TOKEN`` along with
    ``AZURE_STORAGE_ACCOUNT_NAME``. Else azure-identity finds them: a service principal of the environment, a workload
    or managed identity of the machine, or the user who has signed in by ``az login``.

    :param container: the name of an existing container.
    :param prefix: the folder in it, unless the repository is the whole container.
    :param account: the name of the storage account; unless given, that of the environment.
    :param endpoint: the URL of the service, such as that of another cloud or of Azurite; unless given,
        ``https://ACCOUNT.blob.core.windows.net``.
    :param account_key: a key of the account.
    :param sas_token: a shared access signature.
    :param connection_string: account, endpoint and credentials in one text, as the portal shows it.
    :param anonymous: whether to send requests without credentials, for a public container.
    :param timeout: how many seconds one request may take, which carries at most 8 MiB.
    :param retry_timeout: how many seconds a request is repeated. An operation of one request takes at most
        ``retry_timeout + 2 * timeout`` seconds.
    :param concurrency: how many requests run at the same time for one call, and how many calls do.
    :param index: the folder of the local copy of the index of packs, ``UUID.index``, which processes share and which
        can be deleted at any time; the user's cache folder unless given.
    :param offload: where the blocking methods run; ``concurrency`` worker threads of its own unless given.
    :param check: whether ``open``, ``stream`` and ``send_object`` compare whole objects with the key, unless called
        with ``check=False``; ``get`` always does.
    :raises ValueError: if a parameter is invalid, or the account is unknown.
    """

    def __init__(
        self,
        container: str,
        prefix: str = "",
        *,
        account: str | None = None,
        endpoint: str | None = None,
        account_key: str | None = None,
        sas_token: str | None = None,
        connection_string: str | None = None,
        anonymous: bool = False,
        timeout: float = 30.0,
        retry_timeout: float = 60.0,
        concurrency: int = 32,
        index: str | None = None,
        offload: Offload | None = None,
        check: bool = False,
    ) -> None:
        options = AzureOptions(
            bucket=container,
            prefix=prefix,
            account=account,
            endpoint=endpoint,
            account_key=account_key,
            sas_token=sas_token,
            connection_string=connection_string,
            anonymous=anonymous,
            timeout=timeout,
            retry_timeout=retry_timeout,
            concurrency=concurrency,
            index=index,
        )
        super().__init__(options, offload, check=check)


@dataclass(frozen=True, kw_only=True)
class AzureOptions(BucketOptions):
    """The parameters of :class:`~objrepo.AzureRepository`."""

    scheme: ClassVar[str] = "az"
    extra: ClassVar[str] = "azure"
    bucket_name: ClassVar[re.Pattern[str]] = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
    bucket_rule: ClassVar[str] = "3 to 63 lower-case letters, digits and single hyphens"
    from_text: ClassVar[FromText] = {"account": str, "endpoint": str, "anonymous": parse_bool, **COMMON_OPTIONS}
    secrets: ClassVar[Sequence[str]] = ("account_key", "sas_token", "connection_string")
    secret_hint: ClassVar[str] = "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY instead, or an identity"
    codes: ClassVar[ErrorCodes] = ErrorCodes(
        bucket="container",
        no_bucket=frozenset({"ContainerNotFound"}),
        exists=frozenset({"BlobAlreadyExists"}),
        denied={
            "AuthenticationFailed": "the account key or the shared access signature is wrong or has expired, or the "
            "clock of this machine is wrong",
            "KeyBasedAuthenticationNotPermitted": "the account permits no account key: use an identity",
            "PublicAccessNotPermitted": "the account permits no anonymous requests",
            "BlobImmutableDueToPolicy": "a policy of the container protects its objects",
        },
        expired=frozenset({"InvalidAuthenticationInfo"}),
        # An upload of the same object that ended first has removed the parts of this one.
        temporary=frozenset({"InvalidBlockList"}),
    )

    account: str | None = None
    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    connection_string: str | None = field(default=None, repr=False)
    anonymous: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.account_key, self.sas_token, self.connection_string, self.anonymous or None)
        if given.count(None) < len(given) - 1:
            raise ValueError("pass only one of account_key, sas_token, connection_string and anonymous")
        if self.connection_string is not None and not (self.account is None and self.endpoint is None):
            raise ValueError("pass no account and no endpoint with a connection_string, which contains them")
        if self.endpoint is not None:
            check_endpoint(self.endpoint)
        named = _account_of(self.endpoint)
        if named is not None and self.account not in (None, named):
            raise ValueError(f"the endpoint {self.endpoint} is that of the account {named}, and not of {self.account}")
        known: dict[str, str] = {}
        if self.connection_string is not None:
            known = _parse(self.connection_string)
        elif given.count(None) == len(given) or self.endpoint is None or not (self.account or named):
            known = _environment()
        account = self.account or named or known.get("account")
        if account is None:
            raise ValueError(
                f"the storage account of az://{self.bucket} is unknown: pass account, or set AZURE_STORAGE_ACCOUNT_NAME"
            )
        if _ACCOUNT.fullmatch(account) is None:
            raise ValueError(f"invalid storage account {account!r}: use 3 to 24 lower-case letters and digits")
        if self.endpoint is None:
            usual = f"https://{account}.blob.core.windows.net"
            endpoint = known.get("endpoint", usual) if account == known.get("account") else usual
            object.__setattr__(self, "endpoint", endpoint)
        object.__setattr__(self, "account", account)

    def connect(self, retries: int = 0) -> Any:
        # A provider, even of a key: obstore would combine what is given with what it finds in the environment.
        provider = {} if self.anonymous else {"credential_provider": self._provider()}
        return import_extra("obstore.store", self.extra).AzureStore(
            self.bucket,
            prefix=self.prefix or None,
            account_name=self.account,
            endpoint=self.endpoint,
            use_emulator=False,
            skip_signature=self.anonymous,
            **provider,
            **client_options(self.timeout, self.endpoint, retries),
        )

    def _provider(self) -> Callable[[], dict[str, Any]]:
        """Return a function that obstore calls for credentials."""
        found: dict[str, str | None] = {"account_key": self.account_key, "sas_token": self.sas_token}
        if self.connection_string is not None:
            found = {**_parse(self.connection_string)}
        if not any(found.values()):
            environment = _environment()
            if environment.get("account", self.account) == self.account:
                found = {**environment}
        if key := found.get("account_key"):
            if not _is_base64(key):
                raise AccessDeniedError(f"access to {self.url} is denied: the account key is not base64")
            return lambda: {"access_key": key, "expires_at": None}
        if token := found.get("sas_token"):
            fields = token.removeprefix("?")
            if not all("=" in each for each in fields.split("&")):
                raise AccessDeniedError(
                    f"access to {self.url} is denied: the shared access signature is incomplete: it must be "
                    "NAME=VALUE&NAME=VALUE…"
                )
            return lambda: {"sas_token": fields, "expires_at": None}
        return _identity(self.url)


def _identity(url: str) -> Callable[[], dict[str, Any]]:
    """Return a function that returns a token of the identity that azure-identity finds."""
    identity = import_extra("azure.identity", "azure")
    errors = import_extra("azure.core.exceptions", "azure")
    credential = identity.DefaultAzureCredential()

    def provide() -> dict[str, Any]:
        try:
            token = credential.get_token(_SCOPE)
        except errors.ClientAuthenticationError:  # its message has a paragraph for each way that was tried
            raise AccessDeniedError(
                f"no credentials for {url}: set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, sign in by "
                "`az login`, or pass anonymous=True for a public container"
            ) from None
        except errors.AzureError as error:
            raise RepositoryUnavailableError(f"the credentials for {url} are unavailable: {one_line(error)}") from None
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    return provide


def _is_base64(key: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(key, validate=True)) == key.encode()  # which obstore requires
    except ValueError:
        return False


def _environment() -> dict[str, str]:
    """Return what the environment says of account, endpoint and credentials."""
    text = os.environ.get(_CONNECTION_STRING)
    if text:
        try:
            return _parse(text)
        except ValueError as error:
            raise ValueError(f"{error}; it is read from {_CONNECTION_STRING}") from None
    named = {"account": _ACCOUNTS, "account_key": _KEYS, "sas_token": _TOKENS}
    found = {name: next(filter(None, map(os.environ.get, names)), None) for name, names in named.items()}
    return {name: value for name, value in found.items() if value is not None}


def _parse(connection_string: str) -> dict[str, str]:
    """Return account, endpoint and credentials.

    :raises ValueError: if the text lacks one of them; it does not say what the text is.
    """
    parts = {
        name.strip().lower(): value
        for name, _, value in (part.partition("=") for part in connection_string.strip().split(";"))
    }
    endpoint = parts.get("blobendpoint", "").rstrip("/")
    account = parts.get("accountname") or _account_of(endpoint)
    if not account or not (parts.get("accountkey") or parts.get("sharedaccesssignature")):
        raise ValueError(
            "invalid connection string: it must have AccountName or BlobEndpoint, and AccountKey or "
            "SharedAccessSignature"
        )
    if not endpoint:
        scheme, suffix = parts.get("defaultendpointsprotocol", "https"), parts.get("endpointsuffix")
        endpoint = f"{scheme}://{account}.blob.{suffix or 'core.windows.net'}"
    check_endpoint(endpoint, "BlobEndpoint")
    found = {"account": account, "endpoint": endpoint}
    if parts.get("accountkey"):
        return {**found, "account_key": parts["accountkey"]}
    return {**found, "sas_token": parts["sharedaccesssignature"]}


def _account_of(endpoint: str | None) -> str | None:
    """Return the account that the host name of an endpoint begins with, None if it does not."""
    host = urlsplit(endpoint or "").hostname or ""
    account, _, rest = host.partition(".")
    return account if rest.startswith("blob.") else None
