"""`open_repository`: repositories by URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import parse_qsl, unquote

from objrepo.offload import Offload
from objrepo.protocol import AsyncRepository

__all__ = ("open_repository",)

BackendFactory = Callable[[str, Offload | None], AsyncRepository]
"""Creates a repository from the part of a URL after the scheme and colon."""

ENTRY_POINT_GROUP: Final = "objrepo.backends"
"""The entry points of other packages that add schemes: the name is the scheme, the object a :data:`BackendFactory`."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # two letters at least: C: is a drive
_CREDENTIALS: Final = re.compile("//[^/]*@")
_SIZE: Final = re.compile(r"(\d+)([KMGT]?)")
_ARCHIVE_SUFFIXES: Final = (".aiida", ".zip")


def open_repository(url: str | os.PathLike[str], offload: Offload | None = None) -> AsyncRepository:
    """Return the repository at a URL. It is not opened before it is entered.

    :param url: a path, or a URL whose part after the scheme may be percent-encoded:

        - ``PATH``, ``disk:PATH``, or ``disk:PATH?durable=no`` as with ``durable=False``; ``%3F`` stands for a ``?`` in
          the path of a URL;
        - ``s3://BUCKET/PREFIX?OPTION=VALUE&…`` with the options ``endpoint``, ``region``, ``profile``, ``anonymous``,
          ``virtual_hosted_style``, ``timeout``, ``retry_timeout``, ``concurrency`` and ``index`` of
          :class:`~objrepo.S3Repository`. Secrets are never part of a URL: they are read from the environment or from
          the shared configuration files;
        - ``az://CONTAINER/PREFIX?OPTION=VALUE&…`` with the options ``account``, ``endpoint``, ``anonymous``,
          ``timeout``, ``retry_timeout``, ``concurrency`` and ``index`` of :class:`~objrepo.AzureRepository`, and
          ``gs://BUCKET/PREFIX?OPTION=VALUE&…`` with these but ``account`` of :class:`~objrepo.GCSRepository`; secrets
          as with ``s3:``;
        - ``https://HOST/PATH?OPTION=VALUE&…`` or ``http://…`` of a web server of objrepo, with the options
          ``token_variable``, ``timeout``, ``retry_timeout`` and ``concurrency`` of :class:`~objrepo.HTTPRepository`;
        - ``zip:`` followed by a path or by an ``https:``, ``http:``, ``s3:``, ``az:`` or ``gs:`` URL; ``zip:`` may be
          omitted if the path ends in ``.aiida`` or ``.zip``;
        - ``cached:?cache=URL&origin=URL&max_bytes=SIZE``: in the inner URLs ``&`` and ``%`` are percent-encoded; a size
          is a number of bytes, or a number with the suffix ``K``, ``M``, ``G`` or ``T`` for powers of 1024;
        - ``sandbox:`` or ``sandbox:PATH``;
        - ``memory:``;
        - ``checked:`` followed by a path or any other of these URLs: reads of whole objects compare the content with
          the key, as with ``check=True``.

        Other packages add schemes by entry points of the group ``objrepo.backends``.
    :param offload: where blocking calls run; worker threads unless given.
    :return: the repository, neither entered nor initialised.
    :raises TypeError: if ``url`` is neither a ``str`` nor a path.
    :raises ValueError: if the scheme is unknown, or the rest of the URL is invalid.
    """
    if isinstance(url, os.PathLike):
        return _by_path(os.fspath(url), offload)
    if not isinstance(url, str):
        raise TypeError(f"a repository is named by a path or a URL, not by {url!r}")
    found = _SCHEME.fullmatch(url)
    if found is None:
        return _by_path(url, offload)
    scheme, rest = found[1].lower(), found[2]
    if scheme in ("s3", "az", "gs", "http", "https") and rest.partition("?")[0].endswith(_ARCHIVE_SUFFIXES):
        return _zip(url, offload)
    if scheme in _SCHEMES:
        return _SCHEMES[scheme](rest, offload)
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        factory: BackendFactory = entry_point.load()
        return factory(rest, offload)
    others = sorted(entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP))
    raise ValueError(
        f"unknown scheme {scheme!r} in {_redacted(url)!r}: write a path, or one of "
        + ", ".join(f"{name}:" for name in [*_SCHEMES, *others])
    )


def _by_path(path: str, offload: Offload | None) -> AsyncRepository:
    return (_zip if path.endswith(_ARCHIVE_SUFFIXES) else _disk)(path, offload)


def _disk(path: str, offload: Offload | None, durable: bool = True) -> AsyncRepository:
    from objrepo.disk import DiskRepository

    if not path:
        raise ValueError("the path of a repository on disk is missing: write disk:PATH")
    return DiskRepository(path, offload, durable=durable)


def _disk_url(rest: str, offload: Offload | None) -> AsyncRepository:
    path, mark, options = rest.partition("?")
    if mark and options not in ("durable=no", "durable=yes"):
        raise ValueError(f"unknown options {options!r} of disk: write disk:PATH?durable=no, or %3F for a ? in the path")
    return _disk(_decoded(path), offload, options != "durable=no")


def _zip(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.archive import ArchiveRepository

    if not path:
        raise ValueError("the path of an archive is missing: write zip:PATH")
    return ArchiveRepository(path, offload)


def _zip_url(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.archive import is_remote

    return _zip(rest if is_remote(rest) else _decoded(rest), offload)


def _bucket(scheme: str, rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.bucket import STORES

    options_type, repository_type = STORES[scheme]
    if not rest.startswith("//"):
        raise ValueError(
            f"invalid {options_type.codes.bucket} {_redacted(rest)!r}: write "
            f"{scheme}://{options_type.codes.bucket.upper()}/PREFIX"
        )
    options = asdict(options_type.from_url(f"{scheme}:{rest}"))
    factory: Callable[..., AsyncRepository] = repository_type
    return factory(options.pop("bucket"), **options, offload=offload)


def _http(scheme: str, rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.http import HTTPRepository
    from objrepo.http.options import HTTPOptions

    return HTTPRepository(**asdict(HTTPOptions.from_url(f"{scheme}:{rest}")), offload=offload)


def _cached(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.cache import CachedRepository

    try:
        given = dict(parse_qsl(rest.removeprefix("?"), strict_parsing=True))
    except ValueError:
        given = {}
    if set(given) != {"cache", "origin", "max_bytes"}:
        raise ValueError("invalid options of a cache: write cached:?cache=URL&origin=URL&max_bytes=SIZE")
    size = _SIZE.fullmatch(given["max_bytes"])
    if size is None:
        raise ValueError(
            f"invalid max_bytes {given['max_bytes']!r}: write a number of bytes, or one such as 500M or 20G"
        )
    max_bytes = int(size[1]) * 1024 ** " KMGT".index(size[2] or " ")
    cache, origin = (open_repository(given[name], offload) for name in ("cache", "origin"))
    return CachedRepository(cache, origin, max_bytes=max_bytes)


def _sandbox(path: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.sandbox import SandboxRepository

    return SandboxRepository(_decoded(path) or None, offload)


def _memory(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.memory import MemoryRepository

    if rest:
        raise ValueError(f"memory: takes no path, got {rest!r}")
    return MemoryRepository(offload)


def _checked(rest: str, offload: Offload | None) -> AsyncRepository:
    from objrepo.cache import CachedRepository
    from objrepo.repository import Repository

    repository = open_repository(rest, offload)
    if isinstance(repository, Repository):
        repository.check = True
    elif not isinstance(repository, CachedRepository):  # which always checks
        raise ValueError(
            f"{type(repository).__name__} has no default for check: open {_redacted(rest)!r} without checked:"
        )
    return repository


def _redacted(url: str) -> str:
    """Return a URL without the parts that could contain secrets."""
    return _CREDENTIALS.sub("//", url.partition("?")[0])


def _decoded(path: str) -> str:
    return unquote(path, errors="surrogateescape")


_SCHEMES: Final[dict[str, BackendFactory]] = {
    "disk": _disk_url,
    "zip": _zip_url,
    "s3": partial(_bucket, "s3"),
    "az": partial(_bucket, "az"),
    "gs": partial(_bucket, "gs"),
    "checked": _checked,
    "http": partial(_http, "http"),
    "https": partial(_http, "https"),
    "cached": _cached,
    "sandbox": _sandbox,
    "memory": _memory,
}
