"""Objects in a bucket of a cloud, or of a service with the same protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from objrepo.bucket.azure import AzureOptions, AzureRepository
from objrepo.bucket.gcs import GCSOptions, GCSRepository
from objrepo.bucket.options import BucketOptions
from objrepo.bucket.repository import BucketRepository
from objrepo.bucket.s3 import S3Options, S3Repository

__all__ = ("STORES", "AzureRepository", "BucketRepository", "GCSRepository", "S3Repository")

STORES: Final[Mapping[str, tuple[type[BucketOptions], type[BucketRepository]]]] = {
    "s3": (S3Options, S3Repository),
    "az": (AzureOptions, AzureRepository),
    "gs": (GCSOptions, GCSRepository),
}
"""The stores, by the schemes of their URLs."""
