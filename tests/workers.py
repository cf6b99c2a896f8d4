"""Functions that tests call in other processes; it imports little, as each process imports it anew."""

from __future__ import annotations

import asyncio
import io

from objrepo import AsyncRepository

inherited = None
"""A repository that a process was given when it started."""


def start(repo):
    global inherited
    inherited = repo


def put_and_read(repo, key, content):
    """Put an object and read another one; return the key of the first and the content of the second."""
    if isinstance(repo, AsyncRepository):
        return asyncio.run(_put_and_read(repo, key, content))
    return repo.put_object_from_filelike(io.BytesIO(content)), repo.get_object_content(key)


def enter_put_and_read(repo, key, content):
    with repo:
        return put_and_read(repo, key, content)


def put_and_read_inherited(key, content):
    return put_and_read(inherited, key, content)


async def _put_and_read(repo, key, content):
    async with repo:
        return await repo.put(content), await repo.get(key)
