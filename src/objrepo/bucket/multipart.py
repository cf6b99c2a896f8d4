"""Unfinished multipart uploads: the object store keeps, and charges for, their parts until they are aborted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from objrepo.bucket.client import translate_error
from objrepo.bucket.credentials import botocore_client, import_extra
from objrepo.bucket.options import S3Options
from objrepo.errors import AccessDeniedError, RepositoryError, RepositoryUnavailableError
from objrepo.retry import retry


class Upload(NamedTuple):
    """An upload that has begun and not ended.

    :ivar name: the name of its object, below the prefix.
    :ivar upload_id: its identifier.
    """

    name: str
    upload_id: str


def list_uploads(options: S3Options, older_than: float) -> list[Upload]:
    """Return all uploads under the prefix, also those of other programs, that began ``older_than`` seconds ago."""
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    prefix = f"{options.prefix}/" if options.prefix else ""
    uploads: list[Upload] = []
    markers: dict[str, str] = {}
    with _requests(options) as send:
        while True:
            page = send("list_multipart_uploads", Prefix=prefix, **markers)
            uploads += (
                Upload(item["Key"].removeprefix(prefix), item["UploadId"])
                for item in page.get("Uploads", ())
                if item["Initiated"] <= before
            )
            if not page.get("IsTruncated"):
                return uploads
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_uploads(options: S3Options, uploads: list[Upload]) -> None:
    """Have the object store delete uploads with their parts; those that have ended are ignored."""
    prefix = f"{options.prefix}/" if options.prefix else ""
    with _requests(options) as send:
        for name, upload_id in uploads:
            send("abort_multipart_upload", Key=f"{prefix}{name}", UploadId=upload_id)


@contextmanager
def _requests(options: S3Options) -> Iterator[Callable[..., dict[str, Any]]]:
    """Give a function that sends a request by botocore, with the retries and errors of the other requests."""
    errors = import_extra("botocore.exceptions")
    client = botocore_client(options)

    def send_once(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(client, operation)(Bucket=options.bucket, **parameters)
        except errors.ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "NoSuchUpload":
                return {}
            raise translate_error(options.url, code, status, str(error)) from None
        except (errors.HTTPClientError, errors.ConnectionError) as error:
            raise RepositoryUnavailableError(f"{options.url} is unavailable: {error}") from None
        except (errors.NoCredentialsError, errors.CredentialRetrievalError) as error:
            raise AccessDeniedError(f"access to {options.url} is denied: {error}") from None
        except errors.BotoCoreError as error:
            raise RepositoryError(f"{options.url} does not support this request: {error}") from None
        return answer

    def send(operation: str, **parameters: Any) -> Any:
        return retry(lambda: send_once(operation, parameters), options.retry_timeout)

    try:
        yield send
    finally:
        client.close()
