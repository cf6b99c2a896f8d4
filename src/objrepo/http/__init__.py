"""Repositories on a web server that runs `ObjectApp`, such as by ``objrepo serve``. It needs the extra ``http``."""

from __future__ import annotations

from objrepo.http.repository import HTTPRepository

__all__ = ("HTTPRepository",)
