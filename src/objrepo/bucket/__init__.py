"""Objects in a bucket of Amazon S3, or of a service that implements its protocol."""

from __future__ import annotations

from objrepo.bucket.backend import S3Repository

__all__ = ("S3Repository",)
