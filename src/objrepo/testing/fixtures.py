"""Fixtures and values of the contract: event loops, the repository, contents, malformed keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from typing import Any, Final

import pytest

from objrepo.protocol import AsyncRepository

LOOPS: Final = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    *([pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")] if find_spec("uvloop") else []),
    pytest.param(("trio", {}), id="trio"),
]

SIZES: Final = (0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 3 * 1024 * 1024 + 7)
"""Empty, tiny, small, the largest that one call to a worker thread reads, one byte more, and several calls."""

BAD_KEYS: Final = (
    "", ".", "..", "/", "aa/etc/hostname", "/etc/hostname", "../../../../etc/hostname", "C:\\Windows\\win.ini",
    "a" * 64 + "\0", "a" * 64 + "\n", " " + "a" * 64, "A" * 64, "a" * 63 + "\N{ARABIC-INDIC DIGIT ONE}",
    "a" * 63, "a" * 65, "a" * 10_000, "'; DROP TABLE db_object; --", "%2e%2e", "\ud800",
    "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaa\n", "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA",
)  # fmt: skip
"""Keys that are malformed in every repository."""

NOT_STRINGS: Final[tuple[Any, ...]] = (b"a" * 64, None, 7, ["a"], ("a",))


async def _open(repo: AsyncRepository, key: str) -> None:
    async with repo.open(key):
        pytest.fail("the object does not exist")


async def _stream(repo: AsyncRepository, key: str) -> None:
    async with repo.stream([key]):
        pytest.fail("the object does not exist")


NEED_AN_OBJECT: Final[dict[str, Callable[[AsyncRepository, Any], Any]]] = {
    "get": lambda repo, key: repo.get(key),
    "size": lambda repo, key: repo.size(key),
    "hash": lambda repo, key: repo.hash(key),
    "open": _open,
    "stream": _stream,
    "delete": lambda repo, key: repo.delete(key),
    "delete_many": lambda repo, key: repo.delete_many([key]),
}
"""The methods that raise ``ObjectNotFoundError`` if the object does not exist."""


def content_of(size: int, seed: int = 0) -> bytes:
    """Return pseudo-random bytes that depend on size and seed only."""
    block = bytes((seed + i * i) % 251 for i in range(1021))
    return (block * (size // len(block) + 1))[:size]


class ContractFixtures:
    """Fixtures of the contract; a subclass defines ``repository``."""

    @pytest.fixture(params=LOOPS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """The event loop of the test, in the form that anyio's plugin expects."""
        return request.param

    @pytest.fixture
    def repository(self) -> AsyncRepository:
        """An empty repository, neither entered nor initialised."""
        raise NotImplementedError(f"{type(self).__name__} must have a fixture `repository`: see objrepo.testing")

    @pytest.fixture
    async def repo(self, repository: AsyncRepository) -> AsyncIterator[AsyncRepository]:
        """The repository, entered and initialised."""
        async with repository:
            await repository.initialise()
            yield repository

    @pytest.fixture
    async def absent(self, repo: AsyncRepository) -> str:
        """A key of the repository's format whose object does not exist."""
        key = await repo.put(b"deleted")
        await repo.delete(key)
        return key
