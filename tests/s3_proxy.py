"""A proxy in front of an S3 server: it records the requests, and injects faults."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """A fault of a request.

    :ivar answer: a status that the proxy answers. The request is not forwarded, unless ``performed``.
    :ivar code: the S3 code in that answer.
    :ivar headers: more headers of that answer.
    :ivar body: more elements of that answer, in XML.
    :ivar performed: whether the request is forwarded nevertheless, so that only its answer is lost.
    :ivar hang: how many seconds the proxy waits before it does anything.
    :ivar silence: the same, unless `Proxy.resume` ends it.
    :ivar late: how many seconds the proxy waits before it passes on the answer.
    :ivar hold: an event that the proxy waits for before it passes on the answer.
    :ivar drop: whether the connection is closed without an answer.
    :ivar cut: after how many bytes of the body the connection is closed.
    :ivar shorten: after how many bytes the body ends, with a length that says so.
    :ivar trickle: how many seconds the proxy waits before each byte of the body.
    :ivar flip: the position in the body of a byte that is changed.
    :ivar twice: whether the request is forwarded twice; the answer to the second one is passed on.
    :ivar copy: whether a copy of the request is kept, which `Proxy.deliver` forwards.
    :ivar meanwhile: called before a PUT or POST is forwarded, or after half of the body of a GET.
    """

    answer: int | None = None
    code: str = "SlowDown"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    performed: bool = False
    hang: float = 0
    silence: float = 0
    late: float = 0
    hold: threading.Event | None = None
    drop: bool = False
    cut: int | None = None
    shorten: int | None = None
    trickle: float = 0
    flip: int | None = None
    twice: bool = False
    copy: bool = False
    meanwhile: Callable[[], object] | None = None


class _Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    content: bytes


@dataclass
class Proxy:
    """A running proxy.

    :ivar url: where clients connect to.
    :ivar upstream: host and port of the server.
    :ivar requests: the method and the target of every request so far.
    :ivar faults: called with the method and the target of each request; returns its fault.
    :ivar copies: the requests of which a copy is kept.
    :ivar running: how many requests have not been answered.
    :ivar reached: set when a request is met with silence.
    """

    url: str
    upstream: tuple[str, int]
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: Callable[[str, str], Fault | None] = lambda method, target: None
    copies: list[_Request] = field(default_factory=list)
    running: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    resumed: threading.Event = field(default_factory=threading.Event)

    def resume(self) -> None:
        """Go on with all requests that are met with silence."""
        self.faults = lambda method, target: None
        self.resumed.set()
        self.resumed = threading.Event()

    def taken(self) -> list[str]:
        """Return the requests since the last call, each as its method and its query."""
        taken = [f"{method} {target.partition('?')[2]}".strip() for method, target in self.requests]
        self.requests.clear()
        return taken

    def fail(self, *faults: Fault | None, method: str | None = None) -> None:
        """Inject faults into the next requests (of one method), one after the other."""
        left = list(faults)

        def next_fault(asked: str, target: str) -> Fault | None:
            return left.pop(0) if left and method in (None, asked) else None

        self.faults = next_fault

    def deliver(self) -> list[tuple[str, str, int]]:
        """Forward the copies; return their methods and targets, and the statuses of the answers."""
        copies, self.copies = self.copies, []
        connection = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            return [(each.method, each.target, _forward(connection, each).status) for each in copies]
        finally:
            connection.close()


def _forward(connection: http.client.HTTPConnection, request: _Request) -> _Answer:
    connection.request(request.method, request.target, request.body, request.headers)
    response = connection.getresponse()
    return _Answer(response.status, response.getheaders(), response.read())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = Proxy(f"http://127.0.0.1:{self.server_port}", upstream)
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone
            super().handle()

    def log_message(self, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        proxy = self.server.proxy
        with self.server.lock:
            proxy.requests.append((self.command, self.path))
            fault = proxy.faults(self.command, self.path) or Fault()
            proxy.running += 1
        try:
            self.serve(proxy, fault)
        finally:
            with self.server.lock:
                proxy.running -= 1

    def serve(self, proxy: Proxy, fault: Fault) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = _Request(self.command, self.path, dict(self.headers), body)
        time.sleep(fault.hang)
        if fault.silence:
            resumed = proxy.resumed
            proxy.reached.set()
            resumed.wait(fault.silence)
        if fault.copy:
            proxy.copies.append(request)
        answer = self.own_answer(fault)
        if fault.answer is None or fault.performed:
            try:
                if fault.meanwhile is not None and self.command in ("PUT", "POST"):
                    fault.meanwhile()
                for _ in range(2 if fault.twice else 1):
                    forwarded = _forward(self.upstream, request)
            except (OSError, http.client.HTTPException):
                self.upstream.close()
                self.close_connection = True
                return
            answer = answer if fault.performed else forwarded
        time.sleep(fault.late)
        if fault.hold is not None:
            fault.hold.wait(30)
        if fault.drop:
            self.close_connection = True
        else:
            self.pass_on(answer, fault)

    @staticmethod
    def own_answer(fault: Fault) -> _Answer:
        content = f"<Error><Code>{fault.code}</Code>{fault.body}</Error>".encode()
        return _Answer(fault.answer or 0, list(fault.headers.items()), content)

    def pass_on(self, answer: _Answer, fault: Fault) -> None:
        content = answer.content if fault.shorten is None else answer.content[: fault.shorten]
        length = {name.lower(): value for name, value in answer.headers}.get("content-length")
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            content = b""
        if fault.flip is not None and fault.flip < len(content):
            content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
        if fault.trickle:
            for position in range(len(content)):
                time.sleep(fault.trickle)
                self.wfile.write(content[position : position + 1])
                self.wfile.flush()
        elif fault.meanwhile is not None and self.command == "GET":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            fault.meanwhile()
            self.close_connection = True
        else:
            self.wfile.write(content if fault.cut is None else content[: fault.cut])
            self.close_connection = self.close_connection or fault.cut is not None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """Run a proxy in front of the server at a URL."""
    parts = urlsplit(url)
    with _Server((str(parts.hostname), int(parts.port or 80))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()
