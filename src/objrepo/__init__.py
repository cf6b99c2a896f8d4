"""An async-first object repository: put bytes in, get a key, read them back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objrepo.archive import ArchiveRepository
    from objrepo.disk import DiskRepository
    from objrepo.errors import (
        AccessDeniedError,
        CorruptObjectError,
        NotInitialisedError,
        ObjectNotFoundError,
        ReadOnlyError,
        RepositoryBusyError,
        RepositoryClosedError,
        RepositoryError,
        RepositoryUnavailableError,
    )
    from objrepo.exporting import export
    from objrepo.memory import MemoryRepository
    from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter
    from objrepo.s3 import S3Repository
    from objrepo.sandbox import SandboxRepository
    from objrepo.tiered import TieredRepository
    from objrepo.transfer import copy
    from objrepo.url import open_repository

__version__ = "0.1.0"

__all__ = (
    "AccessDeniedError",
    "ArchiveRepository",
    "AsyncRepository",
    "CorruptObjectError",
    "DiskRepository",
    "MemoryRepository",
    "NotInitialisedError",
    "ObjectNotFoundError",
    "ObjectStream",
    "ObjectWriter",
    "ReadOnlyError",
    "RepositoryBusyError",
    "RepositoryClosedError",
    "RepositoryError",
    "RepositoryUnavailableError",
    "S3Repository",
    "SandboxRepository",
    "TieredRepository",
    "copy",
    "export",
    "open_repository",
)

_ROOMS = {
    "ArchiveRepository": "archive",
    "AsyncRepository": "protocol",
    "DiskRepository": "disk",
    "MemoryRepository": "memory",
    "ObjectStream": "protocol",
    "ObjectWriter": "protocol",
    "S3Repository": "s3",
    "SandboxRepository": "sandbox",
    "TieredRepository": "tiered",
    "copy": "transfer",
    "export": "exporting",
    "open_repository": "url",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a program pays for the backend that it has, not for all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
