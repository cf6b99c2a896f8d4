"""`S3Repository`: objects in a bucket."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import operator
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Final, cast

from objrepo.backend import Backend
from objrepo.batch import BatchBackend
from objrepo.errors import CorruptObjectError, NotInitialisedError, ObjectNotFoundError, RepositoryError
from objrepo.hashed_source import hash_source, unchanged_chunks
from objrepo.integrity import check_digest
from objrepo.keys import is_key, valid_keys
from objrepo.offload import BlockingPool, Offload, Threads, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader
from objrepo.range_reader import PART_BYTES, Buffer, RangeRequestFile
from objrepo.reports import Leftover, MaintenanceReport, MaintenanceStep, RepositoryInfo
from objrepo.repository import Repository
from objrepo.s3.client import PAGE_NAMES, BucketClient, Listing, MissingError
from objrepo.s3.multipart import Upload, abort_uploads, list_uploads
from objrepo.s3.options import S3Options
from objrepo.sources import read_up_to
from objrepo.streams import CHUNK_BYTES, OpenedObject, RangeHandle

_log: Final = logging.getLogger("objrepo")

_MARKER: Final = "objrepo.json"  # listed after all objects, whose names begin with hexadecimal digits
_FORMAT: Final = 1
_MAX_SINGLE_REQUEST_BYTES: Final = PART_BYTES // 2
_MIN_KEYS_FOR_LISTING: Final = 8
_DAY: Final = 24 * 60 * 60.0


class S3Repository(Repository["S3Backend"]):
    """Keeps objects in a bucket of Amazon S3 or of another service with its protocol, such as Ceph, Garage or R2.

    The name of an object is the SHA-256 of its content, which is computed before the object is sent; an existing object
    is not sent again. ``get`` compares the content with the key; ``open`` and ``stream`` fetch ranges, and read ahead
    while they are read sequentially. Objects never change, so several machines may write at the same time.

    It needs the extra ``s3``. A request is repeated for ``retry_timeout`` seconds while it is not answered, and then
    raises :class:`~objrepo.RepositoryUnavailableError`; a request that the credentials do not permit raises
    :class:`~objrepo.AccessDeniedError`. A cancelled operation ends with the request that it is waiting for. No error
    and no ``repr`` contains a secret. It can be pickled unless a secret was given. A process that was forked from one
    that used it cannot use it.

    :param bucket: the name of an existing bucket.
    :param prefix: the folder in it, unless the repository is the whole bucket.
    :param endpoint: the URL of the service; unless given, that of ``AWS_ENDPOINT_URL``, or else Amazon's.
    :param region: the region, which Amazon requires.
    :param access_key_id: the access key; unless given, botocore finds one in the environment, the shared configuration
        files, or the role of the machine.
    :param secret_access_key: the secret of the access key.
    :param session_token: the token of temporary credentials.
    :param profile: a profile of the shared configuration files.
    :param anonymous: whether to send unsigned requests, for a public bucket.
    :param virtual_hosted_style: whether the bucket is part of the host name, and not of the path.
    :param timeout: how many seconds one request may take, which carries at most 8 MiB.
    :param retry_timeout: how many seconds a request is repeated. An operation of one request takes at most
        ``retry_timeout + 2 * timeout`` seconds.
    :param concurrency: how many requests run at the same time for one call, and how many calls do.
    :param offload: where the blocking methods run; ``concurrency`` worker threads of its own unless given.
    :param check: whether ``open``, ``stream`` and ``send_object`` compare whole objects with the key, unless called
        with ``check=False``; ``get`` always does.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        profile: str | None = None,
        anonymous: bool = False,
        virtual_hosted_style: bool = False,
        timeout: float = 30.0,
        retry_timeout: float = 60.0,
        concurrency: int = 32,
        offload: Offload | None = None,
        check: bool = False,
    ) -> None:
        options = S3Options(
            bucket=bucket,
            prefix=prefix,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            profile=profile,
            anonymous=anonymous,
            virtual_hosted_style=virtual_hosted_style,
            timeout=timeout,
            retry_timeout=retry_timeout,
            concurrency=concurrency,
        )
        super().__init__(S3Backend(options), Threads(concurrency) if offload is None else offload, check=check)

    def __str__(self) -> str:
        return f"S3Repository {self.backend.location}"

    async def maintain(
        self, dry_run: bool = False, live: bool = True, *, uploads_older_than: float = _DAY
    ) -> MaintenanceReport:
        """Abort multipart uploads that were never completed, whose parts use space but appear in no listing.

        Only uploads of this repository's objects are aborted. Cancellation ends it between two requests; uploads that
        were aborted until then stay aborted.

        :param dry_run: whether to count them only.
        :param live: whether others may be writing; if not, all are aborted, else only old ones.
        :param uploads_older_than: the age in seconds from which an upload is old.
        :return: the number of uploads.
        :raises NotInitialisedError: if the repository does not exist.
        :raises AccessDeniedError: if the credentials do not permit listing or aborting uploads.
        :raises RepositoryUnavailableError: if the service does not answer within ``retry_timeout``.
        """
        return await super().maintain(dry_run, live, uploads_older_than=uploads_older_than)


class S3Backend(Backend):
    """See :class:`S3Repository`."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._bucket = BucketClient(options)
        self.pool = self._threads = BlockingPool(options.concurrency)
        self._marker: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[type[S3Backend], tuple[S3Options]]:
        return type(self), (self._options,)

    @property
    def location(self) -> str:
        return self._options.url

    # -- the repository as a whole ------------------------------------------------------------------------------

    def initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"an S3 repository has no options, got {', '.join(options)}")
        if self._read_marker() is not None:
            return
        other = next((name for name, _ in self._bucket.list().next_page() if _key(name) is None), None)
        if other is not None:
            raise ValueError(f"{self.location} contains other files, such as {other!r}: use another prefix")
        marker = {"objrepo": _FORMAT, "uuid": str(uuid.uuid4()), "key_format": "sha256"}
        self._bucket.create(_MARKER, json.dumps(marker).encode())
        self._require_marker()

    def is_initialised(self) -> bool:
        try:
            return self._read_marker() is not None
        except NotInitialisedError:
            return False

    def uuid(self) -> str | None:
        marker = self._read_marker() if self.is_initialised() else None
        return None if marker is None else str(marker["uuid"])

    def key_format(self) -> str:
        return str(self._require_marker()["key_format"])

    def info(self, detailed: bool) -> RepositoryInfo:
        marker = self._require_marker()
        objects = total = 0
        listing = self._bucket.list()
        while not listing.ended:
            if cancel_requested():
                raise WorkCancelled
            sizes = [size for name, size in listing.next_page() if _key(name) is not None]
            objects += len(sizes)
            total += sum(sizes)
        return RepositoryInfo(
            location=self.location,
            uuid=marker["uuid"],
            key_format=marker["key_format"],
            objects=objects,
            size=total if detailed else None,
        )

    def maintain(self, *, dry_run: bool, live: bool, uploads_older_than: float = _DAY) -> MaintenanceReport:
        self._require_marker()
        uploads = self._unfinished_uploads(uploads_older_than if live else 0.0)
        if uploads and not dry_run:
            abort_uploads(self._options, uploads)
        return MaintenanceReport(dry_run, (MaintenanceStep("abort_uploads", len(uploads), 0),))

    def leftovers(self) -> tuple[Leftover, ...]:
        try:
            uploads = self._unfinished_uploads(_DAY)
        except RepositoryError as error:  # the report of verified objects is returned nevertheless
            _log.warning("the unfinished uploads of %s cannot be listed: %s", self, error)
            return ()
        return tuple(Leftover("unfinished upload", name, 0) for name, _ in uploads)

    def erase(self) -> None:
        self._marker = None
        if self._read_marker() is None:
            return
        uploads = self._unfinished_uploads(0)  # first, so that nothing is deleted where listing them is denied
        listing = self._bucket.list()
        while not listing.ended:
            self._bucket.delete([name for name, _ in listing.next_page() if _key(name) is not None])
        abort_uploads(self._options, uploads)
        self._bucket.delete([_MARKER])
        self._marker = None

    def close(self) -> None:
        super().close()
        self._bucket.close()
        self._marker = None

    def _unfinished_uploads(self, older_than: float) -> list[Upload]:
        """Return the uploads of this repository's objects, but not those of other programs in the same bucket."""
        return [upload for upload in list_uploads(self._options, older_than) if _key(upload.name) is not None]

    def _require_marker(self) -> dict[str, Any]:
        marker = self._read_marker()
        if marker is None:
            raise NotInitialisedError(f"there is no repository at {self.location} yet: call initialise() first")
        return marker

    def _read_marker(self) -> dict[str, Any] | None:
        """Return the content of the marker, None if there is none; it is requested on first use.

        Threads that need it at the same time request it each: none of them waits for the retries of another.
        """
        if self._marker is None:
            try:
                marker = json.loads(self._bucket.get(_MARKER)[0].content)
            except MissingError:
                return None
            except ValueError:
                marker = None
            if not isinstance(marker, dict) or marker.get("objrepo") != _FORMAT or "uuid" not in marker:
                raise RepositoryError(
                    f"{_MARKER} in {self.location} does not have the format {_FORMAT}: use a release that supports it"
                )
            if marker.get("key_format") != "sha256":
                raise RepositoryError(f"{self.location} has an unknown key format: use a release that supports it")
            self._marker = marker
        return self._marker

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, reader: BinaryReader) -> str:
        self._require_marker()
        content = read_up_to(reader, _MAX_SINGLE_REQUEST_BYTES)
        if len(content) < _MAX_SINGLE_REQUEST_BYTES:
            key = hashlib.sha256(content).hexdigest()
            self._bucket.create(_name(key), content)
            return key
        with hash_source(content, reader) as (hasher, file):
            return self._upload(hasher.hexdigest(), file)

    def batch(self) -> BatchBackend:
        return BatchBackend(self)

    def _upload(self, key: str, file: BinaryIO) -> str:
        """Store a large object, unless it exists."""
        name = _name(key)
        size = file.seek(0, 2)
        if self._bucket.size(name) is None:
            # An iterator and not the file: obstore aborts the upload when an iterator raises, but not when a file does.
            self._bucket.upload(name, lambda: unchanged_chunks(key, file), size)
        return key

    def delete(self, keys: Sequence[str]) -> None:
        self.require(keys)
        self._bucket.delete([_name(key) for key in keys])

    # -- looking up and listing -----------------------------------------------------------------------------------

    def has(self, keys: Sequence[object]) -> list[bool]:
        self._require_marker()
        present = self._present(sorted(set(valid_keys(keys, "sha256"))))
        return [isinstance(key, str) and key in present for key in keys]

    def _present(self, keys: list[str]) -> set[str]:
        """Return which of some sorted keys exist, with as few requests as possible.

        A listing of a thousand names with each request decides all keys in its range. Keys are hashes and therefore
        equally distributed, so that the first pages show how many requests the rest will take. Where one request for
        each key is cheaper, and for a few keys, each key is requested.
        """
        position = 0
        present: set[str] = set()
        if len(keys) >= _MIN_KEYS_FOR_LISTING:
            listing = self._bucket.list(after=_name(keys[0])[:-1], page_size=PAGE_NAMES // 2)
            seen = 0
            end = keys[0]
            while position < len(keys) and seen * _distance(end, keys[-1]) <= (
                PAGE_NAMES * (len(keys) - position) * _distance(keys[0], end)
            ):
                if cancel_requested():
                    raise WorkCancelled
                names = [name for name, _ in listing.next_page()]
                present.update(key for name in names if (key := _key(name)) is not None)
                seen += len(names)
                end = "g" if listing.ended else _key(names[-1]) or "g"  # after all keys
                position = bisect_right(keys, end)
        undecided = keys[position:]
        sizes = self._threads.map(self._bucket.size, map(_name, undecided))
        found = {key for key, size in zip(undecided, sizes, strict=True) if size is not None}
        return found | present.intersection(keys)

    def size(self, key: str) -> int:
        size = self._bucket.size(_name(key)) if is_key(key, self.key_format()) else None
        if size is None:
            raise ObjectNotFoundError([key], self)
        return size

    def list_keys(self, cursor: Listing | None) -> tuple[list[str], Listing | None]:
        self._require_marker()
        listing = self._bucket.list() if cursor is None else cursor
        keys = [key for name, _ in listing.next_page() if (key := _key(name)) is not None]
        return keys, None if listing.ended else listing

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        with self._missing(key):
            (content, size), first = self._bucket.get(_name(key))
            if first is None:
                return check_digest(key, "sha256", content)
            starts = range(PART_BYTES, size, PART_BYTES)
            rest = (partial(self._buffer, key, start, min(start + PART_BYTES, size)) for start in starts)
            reads: Iterable[Callable[[], Buffer]] = chain([first], rest)
            hasher = hashlib.sha256()
            whole = io.BytesIO()  # returns what was written to it without a copy
            for part in self._threads.map(operator.call, reads):
                hasher.update(part)
                whole.write(part)
        if hasher.hexdigest() != key:
            raise CorruptObjectError(key, f"its content hashes to {hasher.hexdigest()}")
        return whole.getvalue()

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        wanted = CHUNK_BYTES if length is None else min(max(length, 1), CHUNK_BYTES)
        with self._missing(key):
            head, whole = self._bucket.get_range(_name(key), offset, offset + wanted)
        offset = min(offset, whole)
        size = whole - offset if length is None else min(length, whole - offset)
        if len(head) >= size:
            return OpenedObject(key, size, bytes(head)[:size], None)
        file = RangeRequestFile(f"{self.location} {key}", whole, partial(self._buffer, key), self._threads)
        return OpenedObject(key, size, bytes(head), RangeHandle(key, cast("BinaryIO", file), offset, size))

    def _buffer(self, key: str, start: int, end: int) -> Buffer:
        with self._missing(key):
            content = self._bucket.get_range(_name(key), start, end).content
        if len(content) != end - start:
            raise CorruptObjectError(key, f"its bytes end after {start + len(content)}, not {end}")
        return content

    @contextmanager
    def _missing(self, key: str) -> Iterator[None]:
        """Raise :class:`ObjectNotFoundError` if the object does not exist; for a malformed key without a request."""
        if not is_key(key, self.key_format()):
            raise ObjectNotFoundError([key], self)
        try:
            yield
        except MissingError:
            raise ObjectNotFoundError([key], self) from None


def _name(key: str) -> str:
    return f"{key[:2]}/{key[2:]}"


def _key(name: str) -> str | None:
    """Return the key of an object by its name, None if it is not an object of a repository."""
    key = name.replace("/", "", 1)
    return key if is_key(key, "sha256") and _name(key) == name else None


def _distance(key: str, other: str) -> int:
    """Return how many keys lie between two keys, in units of the first 64 bits."""
    return max(int(other[:16], 16) - int(key[:16], 16), 0) if other < "g" and key < "g" else 0
