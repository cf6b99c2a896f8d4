"""Faults of every request of some operations, in any store."""

from __future__ import annotations

from objrepo.bucket import backend
from objrepo.testing.fixtures import content_of
from s3_proxy import Fault, proxy_to

FAULTS = {
    "slow down": Fault(answer=503, code="ServerBusy"),
    "lost answer": Fault(answer=500, code="InternalError", performed=True),
    "closed connection": Fault(drop=True),
}


async def check_that_faults_are_survived(endpoint, fault, make, monkeypatch):
    """Have each request of some operations fail, and compare what is there afterwards with what was acknowledged.

    :param endpoint: the URL of the server.
    :param make: makes a repository by the URL of a server and the prefix.
    """
    monkeypatch.setattr("objrepo.retry.FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backend, "_MAX_SINGLE_REQUEST_BYTES", 1000)  # larger objects are uploaded in parts
    number, reached = 0, True
    with proxy_to(endpoint) as proxy:
        while reached:
            number += 1
            proxy.requests.clear()
            proxy.faults = lambda method, target: fault if len(proxy.requests) == number else None  # noqa: B023
            async with make(proxy.url, f"faults/{number}") as repo:
                await repo.initialise()
                large, small = await repo.put(content_of(3000)), await repo.put(b"small")
                keys = await repo.put_many([b"one", b"two", b"three"])
                await repo.delete_many([small, keys[0]])
                reached = len(proxy.requests) >= number
            async with make(endpoint, f"faults/{number}") as other:
                assert await other.has_many([large, small, *keys]) == [True, False, False, True, True]
                assert await other.get(large) == content_of(3000)
    assert number > 15
