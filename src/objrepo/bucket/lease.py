"""The lease of a bucket's maintainer. It saves work that two would do twice; no object depends on it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

from objrepo.bucket.client import BucketClient, MissingError
from objrepo.errors import RepositoryBusyError, RepositoryError

LEASE: Final = "lease"
RELEASED: Final = b"{}"

_SECONDS: Final = 300.0


class Lease:
    """A lease that is held. One that has expired may be taken by two processes; the first one notices that.

    :ivar began: when it began, by the clock of the store.
    :raises RepositoryBusyError: if another process holds it.
    """

    def __init__(self, bucket: BucketClient, location: str) -> None:
        self._bucket = bucket
        self._location = location
        self._holder = str(uuid.uuid4())
        content = self._content()
        if not bucket.create_first(LEASE, content):
            try:
                until = _parse(bucket.read(LEASE)[0]).get("until", 0)
            except MissingError:
                until = 0
            if until > time.time():
                raise RepositoryBusyError(
                    f"another process maintains {location}: try again in {until - time.time():.0f} seconds"
                )
            bucket.put(LEASE, content)
        self.began: datetime = self._modified()

    def renew(self) -> None:
        """Extend it, if that is due.

        :raises RepositoryBusyError: if another process has taken it over.
        """
        if time.time() > self._until - _SECONDS / 2:
            self._modified()
            self._bucket.put(LEASE, self._content())

    def release(self) -> None:
        """Let others have it, unless one has it already. It ends by itself if that fails."""
        with suppress(RepositoryError):
            self._modified()
            self._bucket.put(LEASE, RELEASED)

    def _modified(self) -> datetime:
        content, modified = self._bucket.read(LEASE)
        if _parse(content).get("holder") != self._holder:
            raise RepositoryBusyError(f"another process has begun to maintain {self._location}")
        return modified

    def _content(self) -> bytes:
        self._until = time.time() + _SECONDS
        return json.dumps({"holder": self._holder, "until": self._until}).encode()


def _parse(content: bytes) -> dict[str, Any]:
    """Return what a lease says: nothing, if it is damaged."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def leased(bucket: BucketClient, location: str) -> Iterator[Lease]:
    """Hold the lease; it ends by itself some minutes after the process was killed.

    :raises RepositoryBusyError: if another process holds it.
    """
    lease = Lease(bucket, location)
    try:
        yield lease
    finally:
        lease.release()
