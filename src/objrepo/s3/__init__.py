"""A repository in a bucket of an object store that others run: one object of theirs for each of ours."""

from __future__ import annotations

from objrepo.s3.repository import S3Repository

__all__ = ("S3Repository",)
