"""An async-first object repository: put bytes in, get a key, read them back."""

from __future__ import annotations

from objrepo.disk import DiskRepository
from objrepo.errors import (
    CorruptObjectError,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryClosedError,
    RepositoryError,
)
from objrepo.memory import MemoryRepository
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.sandbox import SandboxRepository

__version__ = "0.1.0"

__all__ = (
    "AsyncRepository",
    "CorruptObjectError",
    "DiskRepository",
    "MemoryRepository",
    "NotInitialisedError",
    "ObjectNotFoundError",
    "ObjectStream",
    "RepositoryBusyError",
    "RepositoryClosedError",
    "RepositoryError",
    "SandboxRepository",
)
