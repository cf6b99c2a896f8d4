"""Uploads in parts that were never completed: an object store keeps their parts, and charges for them, until told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from objrepo.errors import AccessDeniedError, RepositoryUnavailableError
from objrepo.s3.credentials import client, imported
from objrepo.s3.options import S3Options

__all__ = ("Upload", "abort_uploads", "list_uploads")


class Upload(NamedTuple):
    """An upload that has begun and not ended.

    :ivar name: of the object that it was to be, within the bucket.
    :ivar upload: its identifier.
    """

    name: str
    upload: str


def list_uploads(options: S3Options, older_than: float) -> list[Upload]:
    """Return the uploads under the prefix that began more than some seconds ago."""
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    prefix = f"{options.prefix}/" if options.prefix else ""
    with _client(options) as s3:
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=options.bucket, Prefix=prefix)
        return [
            Upload(item["Key"], item["UploadId"])
            for page in pages
            for item in page.get("Uploads", ())
            if item["Initiated"] <= before
        ]


def abort_uploads(options: S3Options, uploads: list[Upload]) -> None:
    """Have the object store forget uploads, with the parts that it has of them."""
    missing = imported("botocore.exceptions").ClientError
    with _client(options) as s3:
        for name, upload in uploads:
            try:
                s3.abort_multipart_upload(Bucket=options.bucket, Key=name, UploadId=upload)
            except missing as error:
                if error.response["Error"]["Code"] != "NoSuchUpload":  # it has ended meanwhile
                    raise


@contextmanager
def _client(options: S3Options) -> Iterator[Any]:
    errors = imported("botocore.exceptions")
    s3 = client(options)
    try:
        yield s3
    except errors.ClientError as error:
        code = error.response["Error"]["Code"]
        raise AccessDeniedError(f"{options.url} does not let its uploads be looked at: {code}") from None
    except errors.BotoCoreError as error:
        raise RepositoryUnavailableError(f"{options.url} is not to be had: {error}") from None
    finally:
        s3.close()
