"""The contract of a repository, as tests that every backend must pass.

Subclass :class:`RepositoryContract` and define the fixture ``repository``: an empty repository that has been neither
entered nor initialised. Every test runs on asyncio, on asyncio with uvloop if uvloop is installed, and on trio. The
tests need pytest, trio and anyio's pytest plugin::

    class TestMyRepository(RepositoryContract):
        @pytest.fixture
        def repository(self, tmp_path):
            return MyRepository(tmp_path / "repository")
"""

from __future__ import annotations

import pytest

# Before the imports, so that failed assertions show their values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{each}_contract" for each in ("admin", "read", "put", "batch", "cancellation"))
)

from objrepo.testing.admin_contract import AdminContract  # noqa: E402
from objrepo.testing.batch_contract import BatchContract  # noqa: E402
from objrepo.testing.cancellation_contract import CancellationContract  # noqa: E402
from objrepo.testing.fixtures import ContractFixtures  # noqa: E402
from objrepo.testing.put_contract import PutContract  # noqa: E402
from objrepo.testing.read_contract import ReadContract  # noqa: E402

__all__ = ("RepositoryContract",)


class RepositoryContract(
    PutContract, BatchContract, ReadContract, AdminContract, CancellationContract, ContractFixtures
):
    """Every promise of :class:`~objrepo.AsyncRepository`, as a class of tests to subclass."""
