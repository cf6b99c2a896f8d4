"""Objects over HTTP: an ASGI application, to be run by a server or mounted in another application.

It needs the extra ``asgi``.
"""

from __future__ import annotations

from objrepo.asgi.app import ObjectApp

__all__ = ("ObjectApp",)
