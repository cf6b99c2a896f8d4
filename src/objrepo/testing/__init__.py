"""The contract of a repository as tests. A backend passes it, or it is no backend.

Subclass :class:`RepositoryContract` and give it the fixture ``repository``: an empty repository of your kind that has
been neither entered nor initialised. Every test then runs on asyncio, on asyncio with uvloop where that is
installed, and on trio. pytest, trio and anyio's own pytest plugin are all that it needs::

    class TestMyRepository(RepositoryContract):
        @pytest.fixture
        def repository(self, tmp_path):
            return MyRepository(tmp_path / "repository")
"""

from __future__ import annotations

import pytest

# Before they are imported: so that a failed assertion shows the values.
pytest.register_assert_rewrite(*(f"{__name__}.{each}_contract" for each in ("admin", "read", "put", "cancellation")))

from objrepo.testing.admin_contract import AdminContract  # noqa: E402
from objrepo.testing.cancellation_contract import CancellationContract  # noqa: E402
from objrepo.testing.fixtures import ContractFixtures  # noqa: E402
from objrepo.testing.put_contract import PutContract  # noqa: E402
from objrepo.testing.read_contract import ReadContract  # noqa: E402

__all__ = ("RepositoryContract",)


class RepositoryContract(PutContract, ReadContract, AdminContract, CancellationContract, ContractFixtures):
    """Every promise of :class:`~objrepo.AsyncRepository`, as a class of tests to subclass."""
