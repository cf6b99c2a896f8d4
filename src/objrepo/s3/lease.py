"""The lease of a bucket's maintainer. It saves work that two would do twice; no object depends on it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

from objrepo.errors import RepositoryBusyError, RepositoryError
from objrepo.s3.client import BucketClient, MissingError

LEASE: Final = "lease"
RELEASED: Final = b"{}"

_SECONDS: Final = 300.0


class Lease:
    """A lease that is held.

    :ivar began: when it began, by the clock of the store.
    """

    def __init__(self, bucket: BucketClient, location: str) -> None:
        self._bucket = bucket
        self._location = location
        self._holder = str(uuid.uuid4())
        self._until = 0.0
        try:
            content, e_tag, _ = bucket.read(LEASE)
        except MissingError:
            bucket.create(LEASE, RELEASED)
            content, e_tag, _ = bucket.read(LEASE)
        until = json.loads(content).get("until", 0)
        if until > time.time():
            raise RepositoryBusyError(
                f"another process maintains {location}: try again, or wait {until - time.time():.0f} s if it was killed"
            )
        self._replace(e_tag)
        self.began: datetime = bucket.read(LEASE)[2]

    def renew(self) -> None:
        """Extend it, if that is due.

        :raises RepositoryBusyError: if another process has taken it over.
        """
        if time.time() > self._until - _SECONDS / 2:
            self._replace(self._e_tag())

    def release(self) -> None:
        """Let others have it, unless one has it already. It ends by itself if that fails."""
        with suppress(RepositoryError):
            self._bucket.replace(LEASE, json.dumps({"was": self._holder}).encode(), self._e_tag())

    def _e_tag(self) -> str:
        content, e_tag, _ = self._bucket.read(LEASE)
        if json.loads(content).get("holder") != self._holder:
            raise RepositoryBusyError(f"another process has begun to maintain {self._location}")
        return e_tag

    def _replace(self, e_tag: str) -> None:
        until = time.time() + _SECONDS
        content = json.dumps({"holder": self._holder, "until": until}).encode()
        if not self._bucket.replace(LEASE, content, e_tag):
            raise RepositoryBusyError(f"another process has begun to maintain {self._location}")
        self._until = until


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
