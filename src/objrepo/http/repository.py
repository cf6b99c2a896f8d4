"""`HTTPRepository`: objects on a web server of objrepo."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, compress
from typing import Any, BinaryIO, Final, NamedTuple, cast

from objrepo.backend import LIST_PAGE_SIZE, Backend
from objrepo.batch import BatchBackend
from objrepo.errors import (
    AccessDeniedError,
    CorruptObjectError,
    ObjectNotFoundError,
    RepositoryError,
    RepositoryUnavailableError,
)
from objrepo.hashed_source import hash_source, unchanged_chunks
from objrepo.http.client import Chunks, Client, Response
from objrepo.http.options import HTTPOptions
from objrepo.integrity import check_digest
from objrepo.keys import is_key, valid_keys
from objrepo.offload import BlockingPool, Offload, Threads, WorkCancelled, cancel_requested
from objrepo.protocol import BinaryReader, Source
from objrepo.range_reader import PART_BYTES, RangeRequestFile
from objrepo.reports import MaintenanceReport, RepositoryInfo, count_of
from objrepo.repository import Repository
from objrepo.sources import ChainedReader, read_up_to
from objrepo.streams import BATCH_BYTES, CHUNK_BYTES, MAX_BATCHED_OBJECT_BYTES, OpenedObject, RangeHandle

_PROTOCOL: Final = 1
_MAX_SMALL_BYTES: Final = 4 * 1024 * 1024
_KEYS_PER_REQUEST: Final = 10_000
_OBJECTS_PER_REQUEST: Final = 1000
_LISTED_KEYS: Final = 100_000
_RESUMABLE_BYTES: Final = 256 * 1024 * 1024
_STORED_BYTES_PER_SECOND: Final = 20e6
_TUS: Final = {"tus-resumable": "1.0.0"}
_CONTENT_RANGE: Final = re.compile(r"bytes (?:\*|(\d+)-\d+)/(\d+)")


class HTTPRepository(Repository["HTTPBackend"]):
    """The repository that a web server of objrepo serves: ``objrepo serve``, or an :class:`~objrepo.asgi.ObjectApp`.

    ``put`` computes the hash of an object before it sends the object; the server compares it with what it receives, and
    the returned key is compared once more. A large object that exists is not sent again. ``get`` compares the content
    with the key; ``open`` and ``stream`` fetch ranges, and read ahead while they are read sequentially.

    It needs the extra ``http``. A request is repeated for ``retry_timeout`` seconds while it is not answered, and then
    raises :class:`~objrepo.RepositoryUnavailableError`; a request that the server does not permit raises
    :class:`~objrepo.AccessDeniedError`. A cancelled operation ends with the part of a body that is being sent or
    received. The repository is created, maintained and erased on the server: these methods raise
    :class:`~objrepo.AccessDeniedError`. No error, log or ``repr`` contains the token. It can be pickled unless a token
    was given.

    :param url: ``https://HOST/PATH`` or ``http://HOST:PORT/PATH``. Without TLS, others on the network can read the
        token and the objects.
    :param token: the token of the server; unless given, that of the environment variable, if it is set.
    :param token_variable: the name of the environment variable.
    :param timeout: how many seconds the server may take to accept a connection, and to send or receive more of a body.
    :param retry_timeout: how many seconds a request is repeated.
    :param concurrency: how many requests run at the same time for one call, and how many calls do.
    :param offload: where the blocking methods run; ``concurrency`` worker threads of its own unless given.
    :param check: whether ``open``, ``stream`` and ``send_object`` compare whole objects with the key, unless called
        with ``check=False``; ``get`` always does.
    :raises ValueError: if the URL or an option is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_variable: str = "OBJREPO_TOKEN",
        timeout: float = 30.0,
        retry_timeout: float = 60.0,
        concurrency: int = 16,
        offload: Offload | None = None,
        check: bool = False,
    ) -> None:
        options = HTTPOptions(
            url=url,
            token=token,
            token_variable=token_variable,
            timeout=timeout,
            retry_timeout=retry_timeout,
            concurrency=concurrency,
        )
        super().__init__(HTTPBackend(options), Threads(concurrency) if offload is None else offload, check=check)


class _Range(NamedTuple):
    """The content of a range of an object, and the size of the whole object."""

    content: bytes
    size: int


class HTTPBackend(Backend):
    """See :class:`HTTPRepository`."""

    def __init__(self, options: HTTPOptions) -> None:
        self._options = options
        self._client = Client(options)
        self.pool: BlockingPool | None = BlockingPool(options.concurrency)
        self._threads = self.pool
        self._described: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[type[HTTPBackend], tuple[HTTPOptions]]:
        return type(self), (self._options,)

    @property
    def location(self) -> str:
        return self._options.url

    # -- the repository as a whole ------------------------------------------------------------------------------

    def initialise(self, **options: Any) -> None:
        if options:
            raise TypeError(f"an HTTP repository has no options, got {', '.join(options)}")
        if self._describe() is None:
            raise AccessDeniedError(f"{self} has no repository, and clients cannot create one: create it on the server")

    def is_initialised(self) -> bool:
        return self._describe() is not None

    def uuid(self) -> str | None:
        described = self._describe()
        return None if described is None else cast("str | None", described["uuid"])

    def key_format(self) -> str:
        described = self._describe()
        if described is None:
            raise self._client.not_initialised()
        return str(described["key_format"])

    def info(self, detailed: bool) -> RepositoryInfo:
        self.key_format()
        names = ("uuid", "key_format", "objects", "size")
        state = self._json(self._client.send("GET", "?info=detailed" if detailed else "?info"), *names)
        return RepositoryInfo(location=self.location, **{name: state[name] for name in names})

    def maintain(self, *, dry_run: bool, live: bool) -> MaintenanceReport:
        self.key_format()
        raise AccessDeniedError(f"clients cannot maintain {self}: run `objrepo maintain` on the server")

    def erase(self) -> None:
        raise AccessDeniedError(f"clients cannot erase {self}: erase the repository on the server")

    def close(self) -> None:
        super().close()
        self._client.close()
        self._described = None

    def _describe(self) -> dict[str, Any] | None:
        """Return the server's description of its repository, None if that does not exist; it is requested once."""
        if self._described is None:
            described = self._json(self._client.send("GET", "?about"), "objrepo")
            if described["objrepo"] != _PROTOCOL:
                raise RepositoryError(f"the server at {self} has another protocol than this client: update the older")
            if not described.get("initialised"):
                return None
            self._described = described
        return self._described

    def _json(self, response: Response, *names: str) -> dict[str, Any]:
        """Return the JSON object in a response, which must have some members."""
        try:
            value = json.loads(response.content)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not value.keys() >= set(names):
            raise self._client.refused()
        return value

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, reader: BinaryReader) -> str:
        key_format = self.key_format()
        content = read_up_to(reader, _MAX_SMALL_BYTES)
        if len(content) < _MAX_SMALL_BYTES:
            return self._store(key_format, hashlib.sha256(content), len(content), lambda: [content])
        with hash_source(content, reader) as (hasher, file):
            sha256: str = hasher.hexdigest()
            size = file.seek(0, 2)
            if key_format == "sha256" and self._has_intact(sha256, size):
                return sha256
            if key_format == "sha256" and size >= _RESUMABLE_BYTES:
                return self._store_in_parts(sha256, file, size)
            return self._store(key_format, hasher, size, lambda: unchanged_chunks(sha256, file))

    def _store_in_parts(self, sha256: str, file: BinaryIO, size: int) -> str:
        """Send a large object by tus: after an interruption, only its last part is sent again."""
        response = self._client.send("POST", "uploads", (201,), headers=_TUS | {"upload-length": str(size)})
        upload = f"uploads/{response.headers['location'].rpartition('/')[2]}"
        patience = (
            self._options.timeout + size / _STORED_BYTES_PER_SECOND
        )  # as the server stores it after the last part
        while "content-location" not in response.headers:
            if cancel_requested():
                raise WorkCancelled
            offset = file.seek(int(response.headers["upload-offset"]))
            part = file.read(PART_BYTES)
            if not part and offset < size:
                raise OSError(f"the content of object {sha256} changed while it was being read: store it again")
            headers = {
                "upload-offset": str(offset),
                "upload-checksum": f"sha256 {base64.b64encode(hashlib.sha256(part).digest()).decode()}",
                "content-length": str(len(part)),
                "content-type": "application/offset+octet-stream",
            }
            chunks = partial(list[bytes], [part])
            response = self._client.send(
                "PATCH", upload, (204, 404, 409), headers=_TUS | headers, chunks=chunks, timeout=patience
            )
            if response.status == 409:  # an answer was lost, or the last one came too late
                response = self._client.send("HEAD", upload, (200, 404), headers=_TUS, timeout=patience)
            if response.status == 404:
                raise RepositoryUnavailableError(f"{self} has dropped an upload, as after a restart: put it again")
        key = response.headers["content-location"].rpartition("/")[2]
        if key != sha256:
            raise RepositoryError(f"{self} stored {sha256} under another key: {ascii(key)[:80]}")
        return key

    def _store(self, key_format: str, hasher: Any, size: int, chunks: Chunks) -> str:
        """Send an object with its hash, which the server compares with what it receives."""
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        if key_format == "sha256":
            response = self._client.send("PUT", hasher.hexdigest(), (200, 201), headers=headers, chunks=chunks)
        else:
            headers["content-digest"] = _content_digest(hasher.digest())
            repeatable = key_format != "uuid4"  # where each upload is another object
            response = self._client.send("POST", expected=(201,), headers=headers, chunks=chunks, repeatable=repeatable)
        key = self._json(response).get("key")
        if not is_key(key, key_format) or (key_format == "sha256" and key != hasher.hexdigest()):
            raise RepositoryError(f"{self} stored {hasher.hexdigest()} under another key: {ascii(key)[:80]}")
        return str(key)

    def put_batch(self, sources: Sequence[Source]) -> list[Any]:
        """Store objects; see :meth:`Backend.put_batch`. Small ones share requests, where these can be repeated."""
        key_format = self.key_format()
        if key_format == "uuid4" or len(sources) == 1:
            return super().put_batch(sources)
        small: dict[str, bytes] = {}

        def put(reader: BinaryReader) -> str:
            content = read_up_to(reader, MAX_BATCHED_OBJECT_BYTES + 1)
            if len(content) > MAX_BATCHED_OBJECT_BYTES:
                return self.put(ChainedReader(content, reader))
            key = hashlib.new(key_format, content).hexdigest()
            small[key] = content
            return key

        outcomes = list(self._threads.map(partial(self._try_to_put, put=put), sources))
        failed: dict[str, Exception] = {}
        for group in _groups(small):
            try:
                self._store_group(group, small)
            except RepositoryError as error:
                failed.update(dict.fromkeys(group, error))
        return [failed.get(outcome, outcome) if isinstance(outcome, str) else outcome for outcome in outcomes]

    def _store_group(self, keys: list[str], contents: dict[str, bytes]) -> None:
        """Store objects by one request."""
        boundary = secrets.token_hex(16)
        parts = [_part(boundary, contents[key]) for key in keys]
        body = b"".join([*chain.from_iterable(parts), f"--{boundary}--\r\n".encode()])
        headers = {
            "content-length": str(len(body)),
            "content-type": f"multipart/form-data; boundary={boundary}",
        }
        response = self._client.send("POST", expected=(201,), headers=headers, chunks=lambda: [body])
        objects = self._json(response, "objects")["objects"]
        if [each["key"] for each in objects] != keys:
            raise RepositoryError(f"{self} stored {count_of(len(keys), 'object')} under other keys than their hashes")

    def batch(self) -> BatchBackend | None:
        return None if self.key_format() == "uuid4" else BatchBackend(self)

    def delete(self, keys: Sequence[str]) -> None:
        pages = _pages(keys)
        if len(pages) > 1:
            self.require(keys)  # the server deletes all or none of one request
        for page in pages:
            missing = self._delete_page(page)
            if missing:
                raise ObjectNotFoundError(missing, self)

    def _delete_page(self, keys: Sequence[str]) -> list[str]:
        """Delete objects; return the missing ones if none was deleted for them."""
        attempts = 0

        def content() -> list[bytes]:
            nonlocal attempts
            attempts += 1
            return [_as_json(keys)]

        response = self._client.send("POST", "?delete", (204, 404), headers=_JSON, chunks=content)
        missing = list(self._json(response, "missing")["missing"]) if response.status == 404 else []
        # If all of them are missing at a later attempt, an earlier one has deleted them, and its answer was lost.
        return [] if attempts > 1 and len(missing) == len(keys) else missing

    # -- looking up and listing -----------------------------------------------------------------------------------

    def has(self, keys: Sequence[object]) -> list[bool]:
        well_formed = sorted(set(valid_keys(keys, self.key_format())))
        if len(well_formed) == 1:
            present = {key for key in well_formed if self._size(key) is not None}
        else:
            present = set[str]().union(*self._threads.map(self._present, _pages(well_formed)))
        return [isinstance(key, str) and key in present for key in keys]

    def _present(self, keys: Sequence[str]) -> set[str]:
        response = self._client.send("POST", "?has", headers=_JSON, chunks=lambda: [_as_json(keys)])
        return set(compress(keys, self._json(response, "has")["has"]))

    def size(self, key: str) -> int:
        size = self._size(key) if is_key(key, self.key_format()) else None
        if size is None:
            raise ObjectNotFoundError([key], self)
        return size

    def _size(self, key: str) -> int | None:
        response = self._client.send("HEAD", key)
        return int(response.headers["content-length"]) if response.status == 200 else None

    def _has_intact(self, key: str, size: int) -> bool:
        """Return whether an object exists with a size, and the server has not found it to be damaged."""
        response = self._client.send("HEAD", key)
        return not response.error and int(response.headers["content-length"]) == size

    def list_keys(self, cursor: tuple[list[str], str | None] | None) -> tuple[list[str], Any]:
        """Return some keys; see :meth:`Backend.list_keys`. The server sorts all keys for each request: few are sent."""
        self.key_format()
        keys, after = cursor or ([], "")
        if not keys:
            answer = self._json(self._client.send("GET", f"?limit={_LISTED_KEYS}&after={after}"), "keys", "next")
            keys = answer["keys"]
            after = keys[-1] if answer["next"] else None
        rest = keys[LIST_PAGE_SIZE:]
        return keys[:LIST_PAGE_SIZE], None if not rest and after is None else (rest, after)

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        content, size = self._range(key, 0, PART_BYTES)
        if len(content) < size:
            starts = range(PART_BYTES, size, PART_BYTES)
            whole = io.BytesIO()
            whole.write(content)
            for part in self._threads.map(lambda start: self._part(key, start, min(start + PART_BYTES, size)), starts):
                whole.write(part)
            content = whole.getvalue()
        return check_digest(key, self.key_format(), content)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> OpenedObject:
        wanted = CHUNK_BYTES if length is None else min(max(length, 1), CHUNK_BYTES)
        head, whole = self._range(key, offset, offset + wanted)
        offset = min(offset, whole)
        size = whole - offset if length is None else min(length, whole - offset)
        if len(head) >= size:
            return OpenedObject(key, size, head[:size], None)
        file = RangeRequestFile(f"{self.location}/{key}", whole, partial(self._part, key), self._threads)
        return OpenedObject(key, size, head, RangeHandle(key, cast("BinaryIO", file), offset, size))

    def _part(self, key: str, start: int, end: int) -> bytes:
        content = self._range(key, start, end).content
        if len(content) != end - start:
            raise CorruptObjectError(key, f"its bytes end after {start + len(content)}, not {end}")
        return content

    def _range(self, key: str, start: int, end: int) -> _Range:
        """Return the bytes of an object from ``start`` to ``end``, or to its own end."""
        if not is_key(key, self.key_format()):
            raise ObjectNotFoundError([key], self)
        headers = {"range": f"bytes={start}-{end - 1}"}
        response = self._client.send("GET", key, (200, 206, 416), headers=headers, max_bytes=end - start)
        if response.error:
            raise ObjectNotFoundError([key], self)
        if response.status == 200 and start == 0:
            return _Range(response.content, len(response.content))
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or (response.status == 206 and found[1] != str(start)):
            raise RepositoryError(f"{self} sent another range of object {key} than was requested: check its proxies")
        return _Range(b"" if response.status == 416 else response.content, int(found[2]))


_JSON: Final = {"content-type": "application/json"}


def _as_json(keys: Sequence[str]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def _pages(keys: Sequence[str]) -> list[Sequence[str]]:
    """Return keys in lists that fit into one request each."""
    return [keys[start : start + _KEYS_PER_REQUEST] for start in range(0, len(keys), _KEYS_PER_REQUEST)]


def _content_digest(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def _groups(contents: Mapping[str, bytes]) -> Iterator[list[str]]:
    """Yield the keys of objects that fit into one request each."""
    group: list[str] = []
    size = 0
    for key, content in contents.items():
        group.append(key)
        size += len(content)
        if size >= BATCH_BYTES or len(group) == _OBJECTS_PER_REQUEST:
            yield group
            group, size = [], 0
    if group:
        yield group


def _part(boundary: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the part of a form that has a content."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="object"; filename="object"\r\n'
        f"Content-Digest: {_content_digest(hashlib.sha256(content).digest())}\r\n\r\n"
    )
    return head.encode(), content, b"\r\n"
