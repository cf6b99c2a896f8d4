"""A web door: objects over HTTP, as an application of its own or mounted in a larger one.

It needs the extra ``asgi``.
"""

from __future__ import annotations

from objrepo.asgi.app import ObjectApp

__all__ = ("ObjectApp",)
