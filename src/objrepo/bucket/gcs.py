"""`GCSRepository`, and what Google Cloud Storage does in its own way.

obstore speaks its XML API, whose paths and bodies are those of S3; conditions and credentials are Google's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import quote
from xml.etree import ElementTree

from objrepo.bucket.cancellable import call_abandonable
from objrepo.bucket.client import one_line, translate_error
from objrepo.bucket.options import (
    COMMON_OPTIONS,
    BucketOptions,
    ErrorCodes,
    FromText,
    Upload,
    check_endpoint,
    client_options,
    import_extra,
    parse_bool,
)
from objrepo.bucket.repository import BucketRepository
from objrepo.errors import AccessDeniedError, RepositoryUnavailableError
from objrepo.offload import Offload
from objrepo.retry import retry

_ENDPOINT: Final = "https://storage.googleapis.com"
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"  # which Google's own libraries read
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"


class GCSRepository(BucketRepository):
    """Keeps objects in a bucket of Google Cloud Storage. It needs the extra ``gcs``.

    What :class:`~objrepo.S3Repository` says of names, packs, errors, cancellation and processes is true of it too. It
    was tested with a server that implements the XML API, not with the service itself.

    google-auth finds the credentials (Application Default Credentials): the file that
    ``GOOGLE_APPLICATION_CREDENTIALS`` names, the user who has signed in by ``gcloud auth application-default login``,
    or the service account of the machine.

    :param bucket: the name of an existing bucket.
    :param prefix: the folder in it, unless the repository is the whole bucket.
    :param endpoint: the URL of the service; unless given, that of ``STORAGE_EMULATOR_HOST``, or else Google's.
    :param anonymous: whether to send requests without credentials, for a public bucket.
    :param timeout: how many seconds one request may take, which carries at most 8 MiB.
    :param retry_timeout: how many seconds a request is repeated. An operation of one request takes at most
        ``retry_timeout + 2 * timeout`` seconds.
    :param concurrency: how many requests run at the same time for one call, and how many calls do.
    :param index: the folder of the local copy of the index of packs, ``UUID.index``, which processes share and which
        can be deleted at any time; the user's cache folder unless given.
    :param offload: where the blocking methods run; ``concurrency`` worker threads of its own unless given.
    :param check: whether ``open``, ``stream`` and ``send_object`` compare whole objects with the key, unless called
        with ``check=False``; ``get`` always does.
    :raises ValueError: if a parameter is invalid.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        anonymous: bool = False,
        timeout: float = 30.0,
        retry_timeout: float = 60.0,
        concurrency: int = 32,
        index: str | None = None,
        offload: Offload | None = None,
        check: bool = False,
    ) -> None:
        options = GCSOptions(
            bucket=bucket,
            prefix=prefix,
            endpoint=endpoint,
            anonymous=anonymous,
            timeout=timeout,
            retry_timeout=retry_timeout,
            concurrency=concurrency,
            index=index,
        )
        super().__init__(options, offload, check=check)


@dataclass(frozen=True, kw_only=True)
class GCSOptions(BucketOptions):
    """The parameters of :class:`~objrepo.GCSRepository`."""

    scheme: ClassVar[str] = "gs"
    extra: ClassVar[str] = "gcs"
    bucket_name: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
    bucket_rule: ClassVar[str] = "3 or more lower-case letters, digits, dots, hyphens and underscores"
    from_text: ClassVar[FromText] = {"endpoint": str, "anonymous": parse_bool, **COMMON_OPTIONS}
    codes: ClassVar[ErrorCodes] = ErrorCodes(
        no_bucket=frozenset({"NoSuchBucket"}),
        denied={"AuthenticationRequired": "the credentials are wrong or have expired"},
        expired=frozenset({"AuthenticationRequired"}),
        temporary=frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}),
    )

    anonymous: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint is None and (emulator := os.environ.get(_EMULATOR)):
            check_endpoint(emulator, _EMULATOR)
            object.__setattr__(self, "endpoint", emulator)
        elif self.endpoint is not None:
            check_endpoint(self.endpoint)

    def connect(self, retries: int = 0) -> Any:
        credentials = None if self.anonymous else _credentials(self)
        return import_extra("obstore.store", self.extra).GCSStore(
            self.bucket,
            prefix=self.prefix or None,
            base_url=self.endpoint or _ENDPOINT,
            skip_signature=self.anonymous,  # of requests that read
            credential_provider=partial(_token, self, credentials),
            **client_options(self.timeout, self.endpoint, retries),
        )

    def _list_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        markers: dict[str, str] = {}
        with _requests(self) as send:
            while True:
                page = send("GET", "", {"uploads": "", "prefix": prefix, **markers})
                for item in _elements(page, "Upload"):
                    yield item["Key"], item["UploadId"], datetime.fromisoformat(item["Initiated"])
                answer = _children(page)
                if answer.get("IsTruncated") != "true":
                    return
                markers = {"key-marker": answer["NextKeyMarker"], "upload-id-marker": answer["NextUploadIdMarker"]}

    def abort_uploads(self, uploads: Sequence[Upload]) -> None:
        with _requests(self) as send:
            for name, upload_id in uploads:
                send("DELETE", f"{self.folder}{name}", {"uploadId": upload_id})


def _credentials(options: GCSOptions) -> Any:
    """Return the credentials that google-auth finds; no request is sent yet.

    :raises AccessDeniedError: if it finds none.
    """
    auth = import_extra("google.auth", "gcs")
    try:
        return auth.default(scopes=[_SCOPE])[0]
    except auth.exceptions.DefaultCredentialsError:  # its message is a paragraph
        raise AccessDeniedError(
            f"no credentials for {options.url}: name a file in GOOGLE_APPLICATION_CREDENTIALS, sign in by "
            "`gcloud auth application-default login`, or pass anonymous=True for a public bucket"
        ) from None


def _token(options: GCSOptions, credentials: Any) -> dict[str, Any]:
    """Return a new token, for obstore.

    :param credentials: None for anonymous requests, which obstore sends without a token if they read.
    :raises AccessDeniedError: if the credentials are refused.
    :raises RepositoryUnavailableError: if the service that issues tokens does not answer.
    """
    if credentials is None:
        raise AccessDeniedError(f"access to {options.url} is denied: anonymous requests cannot write")
    errors = import_extra("google.auth.exceptions", "gcs")
    request = import_extra("google.auth.transport.requests", "gcs").Request()
    try:
        credentials.refresh(partial(request, timeout=options.timeout))
    except errors.TransportError as error:
        raise RepositoryUnavailableError(f"the credentials for {options.url} are unavailable: {_line(error)}") from None
    except errors.GoogleAuthError as error:
        raise AccessDeniedError(f"the credentials for {options.url} are refused: {_line(error)}") from None
    return {"token": credentials.token, "expires_at": credentials.expiry and credentials.expiry.replace(tzinfo=UTC)}


def _line(error: Exception) -> str:
    return one_line(error.args[0] if error.args else error)


@contextmanager
def _requests(options: GCSOptions) -> Iterator[Callable[[str, str, dict[str, str]], ElementTree.Element]]:
    """Give a function that sends a request that obstore does not have, with the retries and errors of the others."""
    requests = import_extra("requests", "gcs")
    headers = {}
    if not options.anonymous:
        credentials = _credentials(options)
        token = retry(lambda: call_abandonable(lambda: _token(options, credentials)), options.retry_timeout)
        headers["Authorization"] = f"Bearer {token['token']}"

    def send_once(method: str, name: str, query: dict[str, str]) -> ElementTree.Element:
        url = f"{(options.endpoint or _ENDPOINT).rstrip('/')}/{options.bucket}/{quote(name)}".rstrip("/")
        try:
            answer = session.request(method, url, params=query, headers=headers, timeout=options.timeout)
        except requests.RequestException as error:
            raise RepositoryUnavailableError(f"{options.url} is unavailable: {type(error).__name__}") from None
        content = _parsed(answer.content)
        code = _children(content).get("Code", "")
        if not answer.ok and code != "NoSuchUpload":
            raise translate_error(options.url, options.codes, code, answer.status_code, answer.reason)
        return content

    def send(method: str, name: str, query: dict[str, str]) -> ElementTree.Element:
        return retry(lambda: call_abandonable(lambda: send_once(method, name, query)), options.retry_timeout)

    with requests.Session() as session:
        yield send


def _parsed(content: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return ElementTree.Element("Empty")


def _elements(parent: ElementTree.Element, name: str) -> Iterator[dict[str, str]]:
    return (_children(each) for each in parent if each.tag.rpartition("}")[2] == name)


def _children(parent: ElementTree.Element) -> dict[str, str]:
    return {each.tag.rpartition("}")[2]: each.text or "" for each in parent}
