"""Pages of keys."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

from objrepo.protocol import AsyncRepository

__all__ = ("page_of_keys",)


async def page_of_keys(repository: AsyncRepository, after: str, limit: int) -> tuple[list[str], bool]:
    """Return the first keys, in their order, after a given one, and whether there are more.

    A repository lists its keys in any order, so all of them are looked at; a page of them is held in memory.
    """
    first: list[str] = []
    async with aclosing(cast("Any", repository.keys())) as keys:
        async for key in keys:
            if key > after:
                first.append(key)
                if len(first) > 4 * limit + 1000:
                    first = sorted(first)[: limit + 1]
    first.sort()
    return first[:limit], len(first) > limit
