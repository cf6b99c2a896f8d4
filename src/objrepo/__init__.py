"""An async-first object repository: it stores bytes under a key and returns them."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than that of this package
if TYPE_CHECKING:
    from typing import Any

    from objrepo.archive import ArchiveRepository
    from objrepo.bucket import AzureRepository, GCSRepository, S3Repository
    from objrepo.cache import CachedRepository
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
    from objrepo.http import HTTPRepository
    from objrepo.memory import MemoryRepository
    from objrepo.protocol import AsyncRepository, ObjectStream, ObjectWriter
    from objrepo.sandbox import SandboxRepository
    from objrepo.transfer import copy
    from objrepo.url import open_repository

__version__ = "0.2.0"

__all__ = (
    "AccessDeniedError",
    "ArchiveRepository",
    "AsyncRepository",
    "AzureRepository",
    "CachedRepository",
    "CorruptObjectError",
    "DiskRepository",
    "GCSRepository",
    "HTTPRepository",
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
    "copy",
    "export",
    "open_repository",
)

_LAZY_EXPORTS = {
    "ArchiveRepository": "archive",
    "AsyncRepository": "protocol",
    "AzureRepository": "bucket",
    "DiskRepository": "disk",
    "GCSRepository": "bucket",
    "HTTPRepository": "http",
    "MemoryRepository": "memory",
    "ObjectStream": "protocol",
    "ObjectWriter": "protocol",
    "S3Repository": "bucket",
    "SandboxRepository": "sandbox",
    "CachedRepository": "cache",
    "copy": "transfer",
    "export": "exporting",
    "open_repository": "url",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a program imports only the backends that it uses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY_EXPORTS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
