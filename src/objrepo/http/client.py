"""Requests to a server: retries, cancellation, and errors of one line that contain no secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from objrepo.errors import (
    AccessDeniedError,
    CorruptObjectError,
    NotInitialisedError,
    ReadOnlyError,
    RepositoryBusyError,
    RepositoryError,
    RepositoryUnavailableError,
)
from objrepo.http.options import HTTPOptions
from objrepo.offload import WorkCancelled, cancel_requested
from objrepo.retry import retry

if TYPE_CHECKING:
    import httpx

Chunks = Callable[[], Iterable[bytes | memoryview]]
"""Returns the content of a request; called for each attempt."""

_MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
_SENT_BYTES: Final = 256 * 1024
_KEEPALIVE_SECONDS: Final = 4.0  # less than the 5 seconds after which uvicorn closes a connection
_TEMPORARY: Final = (408, 422, 429, 460, 500, 502, 503, 504)
"""Statuses after which a request is repeated. 422 and 460: the server received other bytes than were sent."""


class Response(NamedTuple):
    """The response to a request, and all of its body."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def error(self) -> str:
        """The name of the exception that the server's repository has raised, empty if none."""
        return self.headers.get("objrepo-error", "")


class Client:
    """Sends requests to one server. Several threads may use it; a forked process opens connections of its own."""

    def __init__(self, options: HTTPOptions) -> None:
        self._options = options
        self._connected: dict[int, httpx.Client] = {}

    def send(
        self,
        method: str,
        path: str = "",
        expected: Iterable[int] = (200,),
        *,
        headers: Mapping[str, str] | None = None,
        chunks: Chunks | None = None,
        max_bytes: int = _MAX_RESPONSE_BYTES,
        repeatable: bool = True,
        timeout: float | None = None,
    ) -> Response:
        """Send a request; repeat it while there is no answer or a temporary error, and there is time.

        :param path: after the URL of the repository: a key, or a query with its question mark.
        :param expected: the statuses that are returned; others raise an error.
        :param chunks: returns the content.
        :param max_bytes: the maximum size of the response.
        :param repeatable: whether the request may be repeated if it is unknown whether the server has done it.
        :param timeout: instead of the timeout of the options, in seconds.
        :raises RepositoryError: one of its subclasses.
        :raises WorkCancelled: if the caller is cancelled between two attempts or two parts of a body.
        """
        httpx = _httpx(self._options.url)

        def send_once() -> Response | RepositoryUnavailableError:
            try:
                with self._response(method, path, headers, chunks, timeout) as response:
                    content = self._read(response, max_bytes)
            except httpx.TransportError as error:
                failed = self._unavailable(str(error) or type(error).__name__)
                if repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    raise failed from None
                return failed
            result = Response(response.status_code, response.headers, content)
            if result.status not in expected and result.error != "ObjectNotFoundError":
                raise self._error(result, path)
            return result

        result = retry(send_once, self._options.retry_timeout)
        if isinstance(result, RepositoryUnavailableError):
            raise result
        return result

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client = self._connected.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def refused(self) -> RepositoryError:
        """Return the error of a server that is no server of objrepo."""
        url = self._options.url
        return RepositoryError(
            f"there is no objrepo server at {url}: check the URL; if it is an archive, write zip:{url}"
        )

    def not_initialised(self) -> NotInitialisedError:
        """Return the error of a server whose repository does not exist."""
        return NotInitialisedError(
            f"the server at {self._options.url} has no repository yet: call initialise() on the server"
        )

    @contextmanager
    def _response(
        self, method: str, path: str, headers: Mapping[str, str] | None, chunks: Chunks | None, timeout: float | None
    ) -> Iterator[httpx.Response]:
        client = self._connected.get(os.getpid())
        if client is None:  # in a forked process, too
            client = self._connected.setdefault(os.getpid(), self._connect())
        content = None if chunks is None else _pieces(chunks())
        timeout = self._options.timeout if timeout is None else timeout
        url = f"{self._options.url}/{path}"
        with client.stream(method, url, headers=headers, content=content, timeout=timeout) as response:
            yield response

    def _connect(self) -> httpx.Client:
        httpx = _httpx(self._options.url)
        token = self._options.find_token()
        return httpx.Client(  # type: ignore[no-any-return]
            headers={
                "accept": "*/*",
                "accept-encoding": "identity",
                "user-agent": "objrepo",
                **({} if token is None else {"authorization": f"Bearer {token}"}),
            },
            limits=httpx.Limits(
                max_keepalive_connections=self._options.concurrency, keepalive_expiry=_KEEPALIVE_SECONDS
            ),
            verify=self._options.url.startswith("https:"),  # loading the certificates takes 20 ms
        )

    def _read(self, response: httpx.Response, max_bytes: int) -> bytes:
        max_bytes = max_bytes if response.is_success else _MAX_RESPONSE_BYTES
        parts: list[bytes] = []
        size = 0
        for part in response.iter_raw():
            if cancel_requested():
                raise WorkCancelled
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise RepositoryError(
                    f"{self._options.url} sent more than the {max_bytes} bytes that were requested: use a server, or a "
                    "proxy before it, that supports range requests"
                )
        return b"".join(parts)

    def _unavailable(self, detail: str) -> RepositoryUnavailableError:
        return RepositoryUnavailableError(f"{self._options.url} is unavailable: {detail}")

    def _error(self, response: Response, path: str) -> RepositoryError:
        """Return the error of an unexpected response."""
        url, status, name = self._options.url, response.status, response.error
        detail = f"HTTP {status} {_first_line(response)}".rstrip()
        if name == "NotInitialisedError":
            return self.not_initialised()
        if name == "ReadOnlyError":
            return ReadOnlyError(f"the repository at {url} is read-only")
        if name == "RepositoryBusyError":
            return RepositoryBusyError(f"the repository at {url} is busy: try again later")
        if name == "CorruptObjectError":
            return CorruptObjectError(path, f"the server at {url} reports it")
        if status in (401, 403):
            return AccessDeniedError(f"access to {url} is denied: {self._denied(status)} ({detail})")
        if status in _TEMPORARY:
            return self._unavailable(detail)
        if 300 <= status < 400 and "location" in response.headers:
            to = urlsplit(response.headers["location"])
            return RepositoryError(
                f"{url} redirects to {to.scheme}://{to.netloc.rpartition('@')[2]}{to.path}: use that URL"
            )
        if status in (404, 405):
            return self.refused()
        return RepositoryError(f"{url} does not support this request: {detail}")

    def _denied(self, status: int) -> str:
        if status == 403:
            return "the server does not permit this request"
        if self._options.find_token() is None:
            return f"the server requires a token, set {self._options.token_variable}"
        return "the token is wrong" if self._options.token else f"the token in {self._options.token_variable} is wrong"


def _httpx(url: str) -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise RepositoryError(
            f"the package {error.name}, by which {url} is opened, is missing: pip install 'objrepo[http]'"
        ) from error
    return httpx


def _pieces(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield a content in small pieces: httpcore copies what is left of a piece after each call of ``send``."""
    for chunk in chunks:
        for start in range(0, len(chunk), _SENT_BYTES):
            yield bytes(chunk[start : start + _SENT_BYTES])


def _first_line(response: Response) -> str:
    """Return the first line of an error's text, empty if it is not plain text."""
    if not response.headers.get("content-type", "").startswith("text/plain"):
        return ""
    line = response.content[:200].decode(errors="replace").partition("\n")[0]
    return "".join(character if character.isprintable() else "?" for character in line)
