"""`S3Repository`, and what Amazon S3 and the services with its protocol do in their own way.

botocore finds credentials, and sends the requests that obstore does not have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from objrepo.bucket.cancellable import call_abandonable
from objrepo.bucket.client import elsewhere_error, one_line, translate_error
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
from objrepo.errors import AccessDeniedError, RepositoryError, RepositoryUnavailableError
from objrepo.offload import Offload
from objrepo.retry import retry

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_MAX_AGE: Final = timedelta(minutes=5)
"""How long obstore keeps credentials before it calls botocore again, which renews those that are about to expire."""


class S3Repository(BucketRepository):
    """Keeps objects in a bucket of Amazon S3 or of another service with its protocol, such as Ceph, Garage or R2.

    The name of an object is the SHA-256 of its content, which is computed before the object is sent; an existing object
    is not sent again. ``get`` compares the content with the key; ``open`` and ``stream`` fetch ranges, and read ahead
    while they are read sequentially. Several machines may write, delete and maintain at the same time.

    Small objects that are stored together go into packs, each of which is one object of the bucket. Each machine keeps
    a copy of their index, by which ``get`` and ``open`` may for an hour return an object that another machine deleted.

    It needs the extra ``s3``. A request is repeated for ``retry_timeout`` seconds while it is not answered, and then
    raises :class:`~objrepo.RepositoryUnavailableError`; a request that the credentials do not permit raises
    :class:`~objrepo.AccessDeniedError`. A cancelled operation ends within a second. No error and no ``repr`` contains a
    secret. It can be pickled unless a secret was given. A process that was forked from one that used it cannot use it.

    :param bucket: the name of an existing bucket.
    :param prefix: the folder in it, unless the repository is the whole bucket.
    :param endpoint: the URL of the service; unless given, that of ``AWS_ENDPOINT_URL``, or else Amazon's.
    :param region: the region, which Amazon requires.
    :param access_key_id: the access key; unless given, botocore finds one in the environment, the shared configuration
        files, or the role of the machine.
    :param secret_access_key: the secret of the access key.
    :param session_token: the token of temporary credentials.
    :param profile: a profile of the shared configuration files.
    :param anonymous: whether to send unsigned requests, for a public bucket.
    :param virtual_hosted_style: whether the bucket is part of the host name, and not of the path.
    :param timeout: how many seconds one request may take, which carries at most 8 MiB.
    :param retry_timeout: how many seconds a request is repeated. An operation of one request takes at most
        ``retry_timeout + 2 * timeout`` seconds.
    :param concurrency: how many requests run at the same time for one call, and how many calls do.
    :param index: the folder of the local copy of the index of packs, ``UUID.index``, which processes share and which
        can be deleted at any time; the user's cache folder unless given.
    :param offload: where the blocking methods run; ``concurrency`` worker threads of its own unless given.
    :param check: whether ``open``, ``stream`` and ``send_object`` compare whole objects with the key, unless called
        with ``check=False``; ``get`` always does.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        profile: str | None = None,
        anonymous: bool = False,
        virtual_hosted_style: bool = False,
        timeout: float = 30.0,
        retry_timeout: float = 60.0,
        concurrency: int = 32,
        index: str | None = None,
        offload: Offload | None = None,
        check: bool = False,
    ) -> None:
        options = S3Options(
            bucket=bucket,
            prefix=prefix,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            profile=profile,
            anonymous=anonymous,
            virtual_hosted_style=virtual_hosted_style,
            timeout=timeout,
            retry_timeout=retry_timeout,
            concurrency=concurrency,
            index=index,
        )
        super().__init__(options, offload, check=check)


@dataclass(frozen=True, kw_only=True)
class S3Options(BucketOptions):
    """The parameters of :class:`~objrepo.S3Repository`."""

    scheme: ClassVar[str] = "s3"
    extra: ClassVar[str] = "s3"
    bucket_name: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
    bucket_rule: ClassVar[str] = "3 or more letters, digits, dots and hyphens"
    from_text: ClassVar[FromText] = {
        "endpoint": str,
        "region": str,
        "profile": str,
        "anonymous": parse_bool,
        "virtual_hosted_style": parse_bool,
        **COMMON_OPTIONS,
    }
    secrets: ClassVar[Sequence[str]] = ("access_key_id", "secret_access_key", "session_token")
    secret_hint: ClassVar[str] = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, or name a profile"
    codes: ClassVar[ErrorCodes] = ErrorCodes(
        no_bucket=frozenset({"NoSuchBucket"}),
        denied={
            "SignatureDoesNotMatch": "the secret key is wrong",
            "InvalidAccessKeyId": "the access key does not exist",
            "ExpiredToken": "the credentials have expired",
            "RequestTimeTooSkewed": "the clock of this machine is wrong",
            "AccessDenied": "the credentials do not permit this request",
        },
        expired=frozenset({"ExpiredToken", "TokenRefreshRequired"}),
        elsewhere=frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}),
        temporary=frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}),
    )

    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    anonymous: bool = False
    virtual_hosted_style: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint is not None:
            check_endpoint(self.endpoint)
        elif name := next(filter(os.environ.get, _ENDPOINTS), None):
            check_endpoint(os.environ[name], name)
            object.__setattr__(self, "endpoint", os.environ[name])
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("pass both access_key_id and secret_access_key, or neither")
        if sum((self.access_key_id is not None, self.profile is not None, self.anonymous)) > 1:
            raise ValueError("pass only one of access_key_id, profile and anonymous")

    @property
    def bucket_endpoint(self) -> str | None:
        """The endpoint of requests to the bucket: its host name starts with the bucket's if that is the style."""
        if self.endpoint is None or not self.virtual_hosted_style:
            return self.endpoint
        scheme, _, host = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"

    def connect(self, retries: int = 0) -> Any:
        return import_extra("obstore.store", self.extra).S3Store(
            self.bucket,
            prefix=self.prefix or None,
            virtual_hosted_style_request=self.virtual_hosted_style,
            **({} if self.endpoint is None else {"endpoint": self.bucket_endpoint}),
            **_credentials(self),
            **client_options(self.timeout, self.endpoint, retries),
        )

    def find_region(self) -> str:
        errors = import_extra("botocore.exceptions", "s3")
        client = _botocore_client(self)
        try:
            answer = call_abandonable(lambda: client.head_bucket(Bucket=self.bucket))
        except errors.ClientError as error:
            answer = error.response
        except (errors.BotoCoreError, RecursionError):
            return ""
        finally:
            client.close()
        region = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        return region if re.fullmatch(r"[\w-]+", region) else ""

    def _list_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        markers: dict[str, str] = {}
        with _requests(self) as send:
            while True:
                page = send("list_multipart_uploads", Prefix=prefix, **markers)
                yield from ((item["Key"], item["UploadId"], item["Initiated"]) for item in page.get("Uploads", ()))
                if not page.get("IsTruncated"):
                    return
                markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def abort_uploads(self, uploads: Sequence[Upload]) -> None:
        with _requests(self) as send:
            for name, upload_id in uploads:
                send("abort_multipart_upload", Key=f"{self.folder}{name}", UploadId=upload_id)


def _credentials(options: S3Options) -> dict[str, Any]:
    """Return the options of an obstore store that set credentials and region.

    :raises AccessDeniedError: if no credentials are found.
    """
    if options.anonymous:
        return {"skip_signature": True, "region": options.region or "us-east-1"}
    if options.access_key_id is not None:
        keys = {"access_key_id": options.access_key_id, "secret_access_key": options.secret_access_key}
        token = {} if options.session_token is None else {"session_token": options.session_token}
        return {"region": options.region or "us-east-1", **keys, **token}
    session = _session(options)
    try:
        found = session.get_credentials()
    except import_extra("botocore.exceptions", "s3").BotoCoreError as error:
        raise AccessDeniedError(f"no credentials for {options.url}: {one_line(error)}") from None
    if found is None:
        raise AccessDeniedError(
            f"no credentials for {options.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, "
            "or pass anonymous=True for a public bucket"
        )

    def provide() -> dict[str, Any]:
        keys = found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _MAX_AGE,
        }

    region = options.region or session.get_config_variable("region") or "us-east-1"
    return {"region": region, "credential_provider": provide}


def _botocore_client(options: S3Options) -> Any:
    """Return a botocore client, for requests that obstore does not have. It sends each request once."""
    config = import_extra("botocore.config", "s3").Config(
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        retries={"total_max_attempts": 1},
        signature_version=import_extra("botocore", "s3").UNSIGNED if options.anonymous else "s3v4",
        s3={"addressing_style": "virtual" if options.virtual_hosted_style else "path"},
    )
    session = _session(options)
    return session.create_client(
        "s3",
        region_name=options.region or session.get_config_variable("region") or "us-east-1",
        endpoint_url=options.endpoint,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
        config=config,
    )


def _session(options: S3Options) -> Any:
    session = import_extra("botocore.session", "s3").Session(profile=options.profile)
    try:
        session.get_scoped_config()
    except import_extra("botocore.exceptions", "s3").BotoCoreError as error:
        raise AccessDeniedError(f"no credentials for {options.url}: {error}") from error
    return session


@contextmanager
def _requests(options: S3Options) -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a function that sends a request by botocore, with the retries and errors of the other requests."""
    errors = import_extra("botocore.exceptions", "s3")
    parser_error = import_extra("botocore.parsers", "s3").ResponseParserError  # the body was cut short
    client = _botocore_client(options)

    def send_once(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(client, operation)(Bucket=options.bucket, **parameters)
        except errors.ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "NoSuchUpload":
                return {}
            if code in options.codes.elsewhere:
                raise elsewhere_error(options.url, options.find_region()) from None
            raise translate_error(options.url, options.codes, code, status, str(error)) from None
        except RecursionError:  # botocore asks where the bucket is, and is redirected again
            raise elsewhere_error(options.url, "") from None
        except (errors.HTTPClientError, errors.ConnectionError, parser_error) as error:
            raise RepositoryUnavailableError(f"{options.url} is unavailable: {error}") from None
        except (errors.NoCredentialsError, errors.CredentialRetrievalError) as error:
            raise AccessDeniedError(f"no credentials for {options.url}: {one_line(error)}") from None
        except errors.BotoCoreError as error:
            raise RepositoryError(f"{options.url} does not support this request: {error}") from None
        return answer

    def send(operation: str, **parameters: Any) -> Any:
        return retry(lambda: call_abandonable(lambda: send_once(operation, parameters)), options.retry_timeout)

    try:
        yield send
    finally:
        client.close()
