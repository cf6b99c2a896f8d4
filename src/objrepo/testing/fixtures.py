"""What the tests of the contract are given: the loops, the repository, contents and bad keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any, Final

import pytest

from objrepo.protocol import AsyncRepository

__all__ = ("BAD_KEYS", "LOOPS", "NOT_STRINGS", "SIZES", "ContractFixtures", "content_of")

LOOPS: Final = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    *([pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")] if find_spec("uvloop") else []),
    pytest.param(("trio", {}), id="trio"),
]

SIZES: Final = (0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 3 * 1024 * 1024 + 7)
"""Empty, tiny, small, what one hop carries, one byte more, and several hops."""

BAD_KEYS: Final = (
    "", ".", "..", "/", "aa/etc/hostname", "/etc/hostname", "../../../../etc/hostname", "C:\\Windows\\win.ini",
    "a" * 64 + "\0", "a" * 64 + "\n", " " + "a" * 64, "A" * 64, "a" * 63 + "\N{ARABIC-INDIC DIGIT ONE}",
    "a" * 63, "a" * 65, "a" * 10_000, "'; DROP TABLE db_object; --", "%2e%2e", "\ud800",
    "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaa\n", "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA",
)  # fmt: skip
"""What can be the key of no object in any repository."""

NOT_STRINGS: Final[tuple[Any, ...]] = (b"a" * 64, None, 7, ["a"], ("a",))


def content_of(size: int, seed: int = 0) -> bytes:
    """Return bytes that look random, the same ones each time."""
    block = bytes((seed + i * i) % 251 for i in range(1021))
    return (block * (size // len(block) + 1))[:size]


class ContractFixtures:
    """The fixtures of the contract; a subclass gives ``repository``."""

    @pytest.fixture(params=LOOPS)
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """The loop that the test runs on, as anyio's plugin wants to be told."""
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
        """A key of the repository's format whose object is not there."""
        key = await repo.put(b"soon gone")
        await repo.delete(key)
        return key
