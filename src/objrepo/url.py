"""`open_repository`: a repository by its URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import unquote

from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository

__all__ = ("open_repository",)

Opener = Callable[[str, Offload | None], AsyncRepository]
"""Makes a repository of what comes after the scheme."""

GROUP: Final = "objrepo.backends"
"""The entry points by which other packages add schemes: each names an :data:`Opener`."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # of two letters at least: C: is a drive
_ARCHIVES: Final = (".aiida", ".zip")


def open_repository(url: str | os.PathLike[str], offload: Offload | None = None) -> AsyncRepository:
    """Return the repository that a URL names; nothing is opened before it is entered.

    :param url: a path or ``disk:PATH``; ``zip:PATH``, or a path that ends in ``.aiida`` or ``.zip``; ``sandbox:`` or
        ``sandbox:PATH``; ``memory:``. Other packages may add schemes, by entry points of the group
        ``objrepo.backends``. What follows a scheme may be percent-encoded.
    :param offload: where its work is done; worker threads unless given.
    :raises ValueError: if the scheme is unknown, or what follows it is not as it should be.
    """
    if isinstance(url, os.PathLike):
        return _by_path(os.fspath(url), offload)
    found = _SCHEME.fullmatch(url)
    if found is None:
        return _by_path(url, offload)
    scheme, rest = found[1].lower(), found[2]
    if scheme in _SCHEMES:
        return _SCHEMES[scheme](unquote(rest), offload)
    for entry_point in entry_points(group=GROUP, name=scheme):
        opener: Opener = entry_point.load()
        return opener(rest, offload)
    others = sorted(entry_point.name for entry_point in entry_points(group=GROUP))
    raise ValueError(
        f"unknown scheme {scheme!r} in {url!r}: write a path, or one of "
        + ", ".join(f"{name}:" for name in [*_SCHEMES, *others])
    )


def _by_path(path: str, offload: Offload | None) -> AsyncRepository:
    return (_zip if path.endswith(_ARCHIVES) else _disk)(path, offload)


def _disk(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.disk import DiskRepository

    if not path:
        raise ValueError("a repository on disk needs a path: write disk:PATH")
    return DiskRepository(path, offload)


def _zip(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.archive import ArchiveRepository

    if not path:
        raise ValueError("an archive needs a path: write zip:PATH")
    return ArchiveRepository(path, offload)


def _sandbox(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.sandbox import SandboxRepository

    return SandboxRepository(path or None, offload)


def _memory(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.memory import MemoryRepository

    if rest:
        raise ValueError(f"nothing follows memory:, got {rest!r}")
    return MemoryRepository(offload)


_SCHEMES: Final[dict[str, Opener]] = {"disk": _disk, "zip": _zip, "sandbox": _sandbox, "memory": _memory}
