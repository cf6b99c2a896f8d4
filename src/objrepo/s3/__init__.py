"""Objects in a bucket of Amazon S3, or of a service that implements its protocol."""

from __future__ import annotations

from objrepo.s3.repository import S3Repository

__all__ = ("S3Repository",)
