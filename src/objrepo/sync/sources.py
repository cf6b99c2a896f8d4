"""What callers without an event loop may pass: sources and keys that need none."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection, Iterable
from typing import NoReturn

from objrepo.protocol import SyncSource
from objrepo.sources import is_async_source, plain_source, require_many


def sync_source(source: SyncSource) -> SyncSource:
    """Return a source.

    :raises TypeError: if reading it needs an event loop, or it is no source.
    """
    if type(source) is not bytes and is_async_source(plain_source(source, is_sync=True)):
        _refuse(source)
    return source


def sync_sources(sources: Iterable[SyncSource]) -> Iterable[SyncSource]:
    """Return the sources of ``put_many``. Those of a collection are checked before any is stored.

    :raises TypeError: if reading them or one of them needs an event loop, or one is no source.
    """
    require_many(sources)
    if isinstance(sources, AsyncIterable):
        _refuse(sources)
    if not isinstance(sources, Collection):
        return map(sync_source, sources)
    for source in sources:
        sync_source(source)
    return sources


def sync_keys(keys: Iterable[str] | None) -> Iterable[str] | None:
    """Return keys.

    :raises TypeError: if they need an event loop.
    """
    if isinstance(keys, AsyncIterable):
        raise TypeError(
            f"a sync repository cannot read async keys ({type(keys).__name__}): pass an iterable of str, such as "
            "repo.keys(), or use the async repository"
        )
    return keys


def _refuse(source: object) -> NoReturn:
    raise TypeError(
        f"a sync repository cannot read an async source ({type(source).__name__}): pass bytes, a path, a binary file "
        "or an iterable of bytes, or use the async repository"
    )
