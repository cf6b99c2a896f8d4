"""Repositories for programs without an event loop, with the interface of AiiDA's ``aiida.repository.backend``."""

from __future__ import annotations

from objrepo.sync.aiida_abc import AbstractRepositoryBackend
from objrepo.sync.aiida_backends import DiskObjectStoreRepositoryBackend, SandboxFolder, SandboxRepositoryBackend
from objrepo.sync.repository import SyncRepository

__all__ = (
    "AbstractRepositoryBackend",
    "DiskObjectStoreRepositoryBackend",
    "SandboxFolder",
    "SandboxRepositoryBackend",
    "SyncRepository",
)
