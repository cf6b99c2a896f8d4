"""A repository in front of another one: what was read once is read from near by from then on."""

from __future__ import annotations

from objrepo.cache.repository import CachedRepository

__all__ = ("CachedRepository",)
