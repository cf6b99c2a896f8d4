"""A web server for tests that supports range requests, or does not."""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(files, ranges=True, latency=0):
    """Serve contents by their paths; yields the server's URL, and the list of requests as (path, range)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range")
            requests.append((self.path, wanted))
            time.sleep(latency)
            content = files.get(self.path)
            if content is None:
                return self.answer(404, b"")
            if ranges and wanted:
                start, end = (int(number) for number in re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
                if start >= len(content):
                    return self.answer(416, b"", f"bytes */{len(content)}")
                part = content[start : end + 1]
                return self.answer(206, part, f"bytes {start}-{start + len(part) - 1}/{len(content)}")
            return self.answer(200, content)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, status, content, content_range=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()
