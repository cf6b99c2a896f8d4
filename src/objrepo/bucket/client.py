"""Requests to a bucket or a web server by obstore: retries, and errors of one line that contain no secret."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from objrepo.bucket.age import Moment
from objrepo.bucket.cancellable import CancellableObstore, call_abandonable, time_limit
from objrepo.bucket.options import BucketOptions, ErrorCodes, import_extra
from objrepo.errors import AccessDeniedError, NotInitialisedError, RepositoryError, RepositoryUnavailableError
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.range_reader import PART_BYTES, Buffer
from objrepo.retry import CANCEL_CHECK_INTERVAL, retry

T = TypeVar("T")

PAGE_NAMES: Final = 1000
"""How many names one request lists or deletes at the most; obstore makes smaller parts where a store needs that."""

_log: Final = logging.getLogger("objrepo")
_ALL_BYTES: Final = 2**40
_MAX_PARTS: Final = 9000
_ABORT_SECONDS: Final = 0.8
"""For how long a cancelled operation tries to remove the parts of an upload. `maintain` removes those that are left."""

_DAY: Final = 24 * 60 * 60.0  # more than the clocks of this machine and of the store differ by
_PART_RETRIES: Final = 1  # by obstore; when they fail too, the whole upload is repeated

_first_process: list[int] = []
"""The process that first sent a request: obstore's threads do not survive a fork."""


class MissingError(Exception):
    """There is no object of that name."""


class ShortAnswerError(Exception):
    """A body was shorter than its headers say: how many bytes, and how many it should have."""


class Listed(NamedTuple):
    """An object in a listing: its name, its size in bytes, and when it was stored, by the clock of the store."""

    name: str
    size: int
    modified: datetime


class Body(NamedTuple):
    """The content of an object, or a range of it, and the size of the whole object."""

    content: Buffer
    size: int


class Client:
    """Sends requests to one location through an obstore store.

    :param location: the name of the location in errors.
    :param connect: makes the store, on first use.
    :param retry_timeout: how many seconds a failed request is repeated.
    :param codes: the codes in the answers of the store.
    :param extra: installs obstore.
    :param find_region: returns the region of the bucket, empty if it is unknown.
    """

    def __init__(
        self,
        location: str,
        connect: Callable[[], Any],
        retry_timeout: float,
        codes: ErrorCodes,
        extra: str,
        find_region: Callable[[], str] = str,
    ) -> None:
        self._location = location
        self._connect = connect
        self._retry_timeout = retry_timeout
        self._codes = codes
        self._extra = extra
        self._find_region = find_region
        self._connecting = threading.Lock()
        self._connected: Any = None

    def send(self, request: Callable[[Any, Any], T]) -> T:
        """Send a request; repeat it while there is no answer or a temporary error, and there is time.

        Every write may be repeated: the name of an object is the hash of its content.

        :param request: called with the module obstore and the store.
        :raises MissingError: if the object does not exist.
        :raises RepositoryError: one of its subclasses.
        :raises WorkCancelled: if the caller is cancelled.
        """

        renewed = False

        def send_once() -> T:
            nonlocal renewed
            obstore, store = self._store()
            try:
                return request(obstore, store)
            except (FileNotFoundError, obstore.exceptions.BaseError) as error:
                if renewed or _code(error) not in self._codes.expired:
                    raise self._translate(error) from None
            except ShortAnswerError as error:
                received, size = error.args
                raise RepositoryUnavailableError(
                    f"{self._location} is unavailable: it sent {received} bytes instead of {size}"
                ) from None
            renewed = True
            self._disconnect(store)  # other credentials may be found than were used so far
            return send_once()

        return retry(send_once, self._retry_timeout)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._connecting:
            self._connected = None

    def _disconnect(self, store: Any) -> None:
        with self._connecting:
            if self._connected is store:
                self._connected = None

    def _translate(self, error: Exception) -> Exception:
        """Return the error of this package for one of obstore, whose messages have many lines."""
        code, status = _code(error), _status(error)
        if isinstance(error, FileNotFoundError) and code not in self._codes.no_bucket:
            return MissingError()
        if status is None and (refused := _PROVIDER_ERROR.search(str(error))) is not None:
            return _credential_error(self._location, refused[1], refused[2])
        if code in self._codes.elsewhere or status in _REDIRECTS or "redirect without LOCATION" in str(error):
            if not self._codes.elsewhere:
                return RepositoryError(f"{self._location} redirects to another endpoint: use endpoint=…")
            region = re.search(r"<Region>([\w-]+)</Region>", str(error))
            return elsewhere_error(self._location, region[1] if region else self._find_region())
        answered = status is not None or not _UNANSWERED.search(str(error))
        return translate_error(self._location, self._codes, code, status, _first_line(error), answered)

    def _store(self) -> tuple[Any, Any]:
        obstore = import_extra("obstore", self._extra)
        while not self._connecting.acquire(timeout=CANCEL_CHECK_INTERVAL):
            if cancel_requested():
                raise WorkCancelled
        try:
            _first_process.append(os.getpid())
            del _first_process[1:]
            if _first_process != [os.getpid()]:
                raise RepositoryError(
                    f"{self._location} cannot be used in a forked process: start it with multiprocessing's 'spawn'"
                )
            if self._connected is None:  # a service of the machine may be asked for credentials, and not answer
                self._connected = call_abandonable(self._connect)
            return CancellableObstore(obstore), self._connected
        finally:
            self._connecting.release()


class BucketClient:
    """Sends requests to the part of a bucket under a prefix.

    :raises RepositoryError: (each method) one of its subclasses, within the time that the options set.
    """

    def __init__(self, options: BucketOptions) -> None:
        self._options = options
        self._location = options.url
        self._codes = options.codes
        shared = (options.retry_timeout, options.codes, options.extra, options.find_region)
        self._client = Client(options.url, options.connect, *shared)
        self._uploading = Client(options.url, partial(options.connect, _PART_RETRIES), *shared)
        self._send = self._client.send
        self._conditional_writes = True

    def create(self, name: str, content: bytes) -> bool:
        """Store an object unless it exists; return whether it was stored.

        A store without conditional writes replaces an existing object.
        """
        return self._write(lambda obstore, store: self._create(obstore, store, name, content))

    def create_first(self, name: str, content: bytes) -> bool:
        """Store an object unless it exists; return whether this call has stored it.

        :param content: unlike that of any other call, so that a repeated request recognises what it has stored.
        :raises RepositoryError: if the store has no conditional writes.
        """
        if self._write(lambda obstore, store: self._put_new(obstore, store, name, content)):
            return True
        try:
            return self.read(name)[0] == content  # the answer to an earlier attempt may have been lost
        except MissingError:
            return False

    def supports_conditions(self, name: str, content: bytes) -> bool:
        """Return whether the store heeds conditions, by storing an object twice unless it exists."""
        try:
            for _ in range(2):
                if not self._write(lambda obstore, store: self._put_new(obstore, store, name, content)):
                    return True
        except (RepositoryUnavailableError, AccessDeniedError, NotInitialisedError):
            raise
        except RepositoryError as error:
            _log.info("%s has no conditional writes: %s", self._location, error)
        return False

    def read(self, name: str) -> tuple[bytes, datetime]:
        """Return the content of an object, and when it was stored, by the clock of the store.

        :raises MissingError: if the object does not exist.
        """
        return self._send(lambda obstore, store: _read(obstore, store, name))

    def put(self, name: str, content: bytes) -> None:
        """Store an object; an existing one is replaced."""
        self._write(lambda obstore, store: obstore.put(store, name, content, mode="overwrite"))

    def upload(self, name: str, chunks: Callable[[], Iterable[bytes | memoryview]], size: int) -> None:
        """Store a large object in parts; an existing one is replaced. A failed or cancelled upload is aborted.

        :param chunks: returns the content; called again when the upload is repeated.
        """
        part = max(PART_BYTES, -(-size // _MAX_PARTS))

        def upload(obstore: Any, store: Any) -> None:
            try:
                obstore.upload(store, name, chunks(), part)
            except FileNotFoundError as error:
                # There is no such upload: it was completed and the answer to that lost, or another process aborted it.
                if _code(error) in self._codes.no_bucket:
                    raise
                try:
                    obstore.head(store, name)  # the name depends on the content
                except FileNotFoundError:
                    raise RepositoryUnavailableError(f"{self._location} is unavailable: the upload was lost") from None

        try:
            self._uploading.send(upload)
        except WorkCancelled:
            # Another process that sends the same object notices, and repeats it.
            with suppress(WorkCancelled, RepositoryError), time_limit(_ABORT_SECONDS):
                self._options.abort_uploads(self._options.list_uploads(-_DAY, name))
            raise

    def get(self, name: str) -> tuple[Body, Callable[[], Buffer] | None]:
        """Return a whole object with one request, unless it is larger than ``PART_BYTES``.

        :return: the content and None; or no content and a function that returns the first ``PART_BYTES``, which are
            being received already.
        :raises MissingError: if the object does not exist.
        """
        result = self._send(lambda obstore, store: self._get(obstore, store, name))
        if isinstance(result, Body):
            return result, None
        received = [result]
        first = partial(self._send, lambda obstore, store: _first_part(obstore, store, name, received))
        return Body(b"", result.meta["size"]), first

    def get_range(self, name: str, start: int, end: int) -> Body:
        """Return the bytes of an object from ``start`` to ``end``, or to its own end.

        :raises MissingError: if the object does not exist.
        """
        return self._send(lambda obstore, store: get_range(obstore, store, name, start, end))

    def size(self, name: str) -> int | None:
        """Return the size of an object, None if it does not exist."""
        try:
            return int(self._send(lambda obstore, store: _head(obstore, store, name))["size"])
        except MissingError:
            return None

    def list(self, after: str = "", page_size: int = PAGE_NAMES, folder: str | None = None) -> Listing:
        """Return a listing of the names after another one, in order; it sends no request yet.

        :param folder: lists only the names in it.
        """
        return Listing(self._send, after, page_size, folder)

    def list_all(self, folder: str, after: str = "") -> Iterator[Listed]:
        """Yield the objects in a folder with names after another one, in order.

        :raises WorkCancelled: if the caller is cancelled between two requests.
        """
        listing = self.list(after, folder=folder)
        while not listing.ended:
            if cancel_requested():
                raise WorkCancelled
            yield from listing.next_page()

    def delete(self, names: Sequence[str], since: Moment | None = None) -> None:
        """Delete objects, ``PAGE_NAMES`` with each request; those that do not exist are ignored.

        :param since: when it was known that they may be deleted: no request is sent, and none is repeated, when that is
            not recent any longer.
        """

        def delete_page(obstore: Any, store: Any) -> None:
            if since is None or since.is_recent():
                obstore.delete(store, page)

        for start in range(0, len(names), PAGE_NAMES):
            page = names[start : start + PAGE_NAMES]
            try:
                self._send(delete_page)
            except MissingError:  # not S3, but other stores say so; obstore may have ended there
                for each in page if len(page) > 1 else ():
                    self.delete([each], since)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._client.close()
        self._uploading.close()

    def _write(self, request: Callable[[Any, Any], T]) -> T:
        try:
            return self._send(request)
        except MissingError:  # a web server that is not a store, or one whose code is not known
            raise RepositoryError(f"{self._location} does not support this request: HTTP 404") from None

    def _create(self, obstore: Any, store: Any, name: str, content: bytes) -> bool:
        if self._conditional_writes:
            try:
                return self._put_new(obstore, store, name, content)
            except obstore.exceptions.BaseError as error:
                if _status(error) != 501:
                    raise
                self._conditional_writes = False
                _log.info("%s has no conditional writes: objects that exist are written again", self._location)
        obstore.put(store, name, content, mode="overwrite")
        return True

    def _put_new(self, obstore: Any, store: Any, name: str, content: bytes) -> bool:
        """Store an object unless it exists; return whether the store says that it was stored."""
        try:
            obstore.put(store, name, content, mode="create")
        except obstore.exceptions.AlreadyExistsError as error:
            # obstore raises it for any 409 too. S3 answers 409 while another request deletes the same object, which
            # then does not exist. obstore's store in memory has no status.
            if _status(error) in (412, None) or _code(error) in self._codes.exists:
                return False
            raise
        return True

    def _get(self, obstore: Any, store: Any, name: str) -> Any:
        result = _open_range(obstore, store, name, 0, PART_BYTES)
        if isinstance(result, Body):
            return result
        size = result.meta["size"]
        return Body(_content(result).to_bytes(), size) if size <= PART_BYTES else result


class Listing:
    """The names in a bucket, page by page. A page has up to ``page_size`` names; the server may send fewer.

    :ivar ended: whether there are no more pages.
    """

    def __init__(
        self, send: Callable[[Callable[[Any, Any], Any]], Any], after: str, page_size: int, folder: str | None
    ) -> None:
        self._send = send
        self._after = after
        self._page_size = page_size
        self._folder = folder
        self._stream: Iterator[Any] | None = None
        self.ended: bool = False

    def next_page(self) -> list[Listed]:
        """Return the next objects; none only at the end."""
        page: list[Listed] = []
        while not page and not self.ended:
            listed = self._send(self._next)
            self.ended = len(listed) < self._page_size
            page = [each for each in listed if each.name > self._after]  # older Azurite begins at the first name
        if page:
            self._after = page[-1].name
        return page

    def _next(self, obstore: Any, store: Any) -> list[Listed]:
        stream = self._stream
        if stream is None:
            stream = self._stream = obstore.list(
                store, self._folder, offset=self._after or None, chunk_size=self._page_size
            )
        try:
            return [Listed(item["path"], item["size"], item["last_modified"]) for item in next(stream, ())]
        except BaseException:
            self._stream = None  # the next attempt starts after the last page
            raise


def get_range(obstore: Any, store: Any, name: str, start: int, end: int) -> Body:
    """Return the bytes of an object or a file from ``start`` to ``end``, or to its own end."""
    result = _open_range(obstore, store, name, start, end)
    return result if isinstance(result, Body) else Body(_content(result), result.meta["size"])


def _open_range(obstore: Any, store: Any, name: str, start: int, end: int) -> Any:
    """Request a range; return obstore's result, which receives the bytes, or an empty body beyond the object's end."""
    try:
        return obstore.get(store, name, options={"range": (start, end)})
    except obstore.exceptions.GenericError as error:
        if not _is_beyond_end(error):
            raise
    return Body(b"", int(_head(obstore, store, name)["size"]))


def _is_beyond_end(error: Exception) -> bool:
    return _status(error) == 416 or "StartTooLarge" in str(error)  # the latter is said by obstore's store in memory


def _content(result: Any) -> Any:
    """Receive the body of an answer.

    :raises ShortAnswerError: if it is not what its headers say.
    """
    content = result.bytes()
    start, end = result.range
    if len(content) != end - start:
        raise ShortAnswerError(len(content), end - start)
    return content


def _head(obstore: Any, store: Any, name: str) -> Any:
    """Return the size of an object, and when it was stored."""
    try:
        return obstore.head(store, name)
    except obstore.exceptions.BaseError as error:
        if _code(error) or _status(error) not in (301, 400, 403):
            raise
    return obstore.get(store, name).meta  # the answer to HEAD has no body, which says why it is an error


def _read(obstore: Any, store: Any, name: str) -> tuple[bytes, datetime]:
    try:
        result = obstore.get(store, name, options={"range": (0, _ALL_BYTES)})  # whose headers say its size
    except obstore.exceptions.GenericError as error:
        if not _is_beyond_end(error):
            raise
        result = obstore.get(store, name)  # it is empty
    return _content(result).to_bytes(), result.meta["last_modified"]


def _first_part(obstore: Any, store: Any, name: str, received: list[Any]) -> Buffer:
    """Return the first part of an object, from the request in ``received`` or, if that has failed, from a new one."""
    result = received.pop() if received else _open_range(obstore, store, name, 0, PART_BYTES)
    return result.content if isinstance(result, Body) else _content(result)


def translate_error(
    location: str, codes: ErrorCodes, code: str, status: int | None, detail: str, answered: bool = True
) -> RepositoryError:
    """Return the error of this package for an error that a store answered, or for no answer.

    :param codes: those of the store.
    :param code: the one in the answer, empty if there is none.
    :param status: of HTTP, None if unknown.
    :param detail: what the client says, for an error without a code.
    :param answered: whether the store answered at all.
    """
    said = code or detail if status is None else f"HTTP {status} {code}".rstrip()
    temporary = (
        code in codes.temporary or status in (408, 409, 429) or (status is not None and status >= 500 and status != 501)
    )
    if code in codes.no_bucket:
        return NotInitialisedError(f"there is no {codes.bucket} for {location}: create it, then call initialise()")
    if code in codes.denied or status in (401, 403):
        reason = codes.denied.get(code, "the credentials do not permit this request")
        return AccessDeniedError(f"access to {location} is denied: {reason} ({code or status})")
    if temporary or not answered:
        return RepositoryUnavailableError(f"{location} is unavailable: {said}")
    return RepositoryError(f"{location} does not support this request: {said}")


def one_line(said: object) -> str:
    """Return the first line of what a library says, which may contain the output of a program."""
    return str(said).partition("\n")[0]


def elsewhere_error(location: str, region: str) -> RepositoryError:
    """Return the error for a store that redirects to another one.

    :param region: where the bucket is, empty if that is unknown.
    """
    if region:
        return RepositoryError(f"{location} is in another region: use region={region}")
    return RepositoryError(f"{location} is in another region, or at another endpoint: use region=… or endpoint=…")


def _credential_error(location: str, kind: str, message: str) -> RepositoryError:
    if kind == RepositoryUnavailableError.__name__:
        return RepositoryUnavailableError(message)
    return AccessDeniedError(
        message if kind == AccessDeniedError.__name__ else f"no credentials for {location}: {message}"
    )


_PROVIDER_ERROR: Final = re.compile(r"credential provider: (?:\w+\.)*(\w+): (.*)")
"""What obstore says where a function that it calls for credentials raises an error: its type, and its first line."""

_REDIRECTS: Final = (301, 302, 303, 307, 308)

_UNANSWERED: Final = re.compile(r"HTTP error|Got invalid [A-Za-z ]+ response")
"""What obstore says where the server did not answer, or the body of its answer was cut short."""


def _code(error: Exception) -> str:
    found = re.search(r"<Code>(\w+)</Code>|\(code: (\w+)\)", str(error))
    return (found[1] or found[2]) if found else ""


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _first_line(error: Exception) -> str:
    """Return what the client says, and the cause that the system gave, such as that a connection was refused."""
    text = str(error)
    causes = re.findall(r'(?:message|error): "([^"]+)"', text)
    cause = "timed out" if "TimedOut" in text or "kind: Timeout" in text else causes[-1] if causes else ""
    line = text.partition("\n")[0].rpartition(" - ")[2]
    return re.sub(r"^Generic \w+ error: |^.* credential provider: ", "", line) + (f" ({cause})" if cause else "")
