"""A proxy in front of an S3 gateway: it records the requests, and injects faults."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """A fault of a request.

    :ivar answer: a status that the proxy answers without forwarding the request.
    :ivar hang: how many seconds the proxy waits before it does anything.
    :ivar cut: after how many bytes of the body the connection is closed.
    :ivar flip: the position in the body of a byte that is changed.
    :ivar meanwhile: called before a PUT or POST is forwarded, or after half of the body of a GET.
    """

    answer: int | None = None
    hang: float = 0
    cut: int | None = None
    flip: int | None = None
    meanwhile: Callable[[], object] | None = None


@dataclass
class Proxy:
    """A running proxy.

    :ivar url: where clients connect to.
    :ivar requests: the method and the target of every request so far.
    :ivar faults: called with the method and the target of each request; returns its fault.
    """

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: Callable[[str, str], Fault | None] = lambda method, target: None

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.proxy = Proxy(f"http://127.0.0.1:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)

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
        self.server.proxy.requests.append((self.command, self.path))
        fault = self.server.proxy.faults(self.command, self.path) or Fault()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault.hang:
            time.sleep(fault.hang)
        if fault.answer is not None:
            return self.answer(fault.answer, [], b"<Error><Code>SlowDown</Code></Error>", fault)
        try:
            if fault.meanwhile is not None and self.command in ("PUT", "POST"):
                fault.meanwhile()
            self.upstream.request(self.command, self.path, body, dict(self.headers))
            response = self.upstream.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self.upstream.close()
            self.close_connection = True
            return None
        return self.answer(response.status, response.getheaders(), content, fault)

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: Fault) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if fault.flip is not None and fault.flip < len(content):
            content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
        half = len(content) // 2
        if fault.meanwhile is not None and self.command == "GET":
            self.wfile.write(content[:half])
            self.wfile.flush()
            fault.meanwhile()
            self.close_connection = True
            return
        self.wfile.write(content if fault.cut is None else content[: fault.cut])
        if fault.cut is not None:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815


@contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    with _Server((host, port)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()
