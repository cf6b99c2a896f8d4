"""Repositories for programs without an event loop; they also have the names of AiiDA's ``repository.backend``."""

from __future__ import annotations

from objrepo.sync.aiida_abc import AbstractRepositoryBackend
from objrepo.sync.aiida_backends import DiskObjectStoreRepositoryBackend, SandboxFolder, SandboxRepositoryBackend
from objrepo.sync.repository import SyncRepository, open_repository
from objrepo.sync.transfer import copy, export
from objrepo.sync.writer import SyncWriter

__all__ = (
    "AbstractRepositoryBackend",
    "DiskObjectStoreRepositoryBackend",
    "SandboxFolder",
    "SandboxRepositoryBackend",
    "SyncRepository",
    "SyncWriter",
    "copy",
    "export",
    "open_repository",
)
