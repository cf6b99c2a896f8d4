"""Objects in a bucket of a cloud, or of a service with the same protocol."""

from __future__ import annotations

from objrepo.bucket.repository import BucketRepository
from objrepo.bucket.s3 import S3Repository

__all__ = ("BucketRepository", "S3Repository")
