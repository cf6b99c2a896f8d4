"""`CachedRepository`: a repository that keeps copies of the objects of another repository."""

from __future__ import annotations

from objrepo.cache.repository import CachedRepository

__all__ = ("CachedRepository",)
