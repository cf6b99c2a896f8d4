"""`open_repository`: a repository by its URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import parse_qsl, unquote

from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository

__all__ = ("open_repository",)

Opener = Callable[[str, Offload | None], AsyncRepository]
"""Makes a repository of what comes after the scheme."""

GROUP: Final = "objrepo.backends"
"""The entry points by which other packages add schemes: each names an :data:`Opener`."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # of two letters at least: C: is a drive
_SIZE: Final = re.compile(r"(\d+)([KMGT]?)")
_ARCHIVES: Final = (".aiida", ".zip")


def open_repository(url: str | os.PathLike[str], offload: Offload | None = None) -> AsyncRepository:
    """Return the repository that a URL names; nothing is opened before it is entered.

    :param url: one of the following; what follows a scheme may be percent-encoded.

        - a path, or ``disk:PATH``;
        - ``s3://BUCKET/PREFIX?OPTION=VALUE&…`` with the options ``endpoint``, ``region``, ``profile``, ``anonymous``,
          ``virtual_hosted_style``, ``timeout``, ``retry_timeout`` and ``concurrency`` of
          :class:`~objrepo.S3Repository`. A URL holds no secrets: they come from the environment or the shared
          configuration files;
        - ``zip:`` before a path, or before an URL with ``https:``, ``http:`` or ``s3:``; all of these without ``zip:``
          if they end in ``.aiida`` or ``.zip``;
        - ``cached:?cache=URL&origin=URL&max_bytes=SIZE``, in which the URLs are percent-encoded where they have ``&``
          or ``%`` themselves, and a size is a number of bytes, or one with ``K``, ``M``, ``G`` or ``T`` after it, which
          stand for powers of 1024;
        - ``sandbox:``, ``sandbox:PATH``, ``memory:``.

        Other packages may add schemes, by entry points of the group ``objrepo.backends``.
    :param offload: where its work is done; worker threads unless given.
    :raises ValueError: if the scheme is unknown, or what follows it is not as it should be.
    """
    if isinstance(url, os.PathLike):
        return _by_path(os.fspath(url), offload)
    found = _SCHEME.fullmatch(url)
    if found is None:
        return _by_path(url, offload)
    scheme, rest = found[1].lower(), found[2]
    if scheme in ("s3", "http", "https") and rest.partition("?")[0].endswith(_ARCHIVES):
        return _zip(url, offload)
    if scheme in _SCHEMES:
        return _SCHEMES[scheme](rest, offload)
    for entry_point in entry_points(group=GROUP, name=scheme):
        opener: Opener = entry_point.load()
        return opener(rest, offload)
    if scheme in ("http", "https"):
        raise ValueError(f"of a web server only archives can be read: write zip:{scheme}:… if it is one")
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


def _zip_url(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.s3.remote_file import is_remote

    return _zip(rest if is_remote(rest) else _decoded(rest), offload)


def _s3(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.s3 import S3Repository
    from objrepo.s3.options import S3Options

    if not rest.startswith("//"):
        raise ValueError(f"a bucket is named as s3://BUCKET/PREFIX, not s3:{rest}")
    return S3Repository(**asdict(S3Options.from_url(f"s3:{rest}")), offload=offload)


def _cached(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.cache import CachedRepository

    try:
        given = dict(parse_qsl(rest.removeprefix("?"), strict_parsing=True))
    except ValueError:
        given = {}
    if set(given) != {"cache", "origin", "max_bytes"}:
        raise ValueError(f"write cached:?cache=URL&origin=URL&max_bytes=SIZE, not cached:{rest}")
    size = _SIZE.fullmatch(given["max_bytes"])
    if size is None:
        raise ValueError(f"{given['max_bytes']!r} is no size: write a number, or one like 500M or 20G")
    max_bytes = int(size[1]) * 1024 ** " KMGT".index(size[2] or " ")
    cache, origin = (open_repository(given[name], offload) for name in ("cache", "origin"))
    return CachedRepository(cache, origin, max_bytes=max_bytes)


def _sandbox(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.sandbox import SandboxRepository

    return SandboxRepository(_decoded(path) or None, offload)


def _memory(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.memory import MemoryRepository

    if rest:
        raise ValueError(f"nothing follows memory:, got {rest!r}")
    return MemoryRepository(offload)


def _decoded(path: str) -> str:
    return unquote(path, errors="surrogateescape")


_SCHEMES: Final[dict[str, Opener]] = {
    "disk": lambda rest, offload: _disk(_decoded(rest), offload),
    "zip": _zip_url,
    "s3": _s3,
    "cached": _cached,
    "sandbox": _sandbox,
    "memory": _memory,
}
