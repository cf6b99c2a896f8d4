"""What all tests share."""

from __future__ import annotations

import pytest

from objrepo.testing.fixtures import LOOPS


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    """Every async test runs on asyncio, on asyncio with uvloop, and on trio."""
    return request.param
