"""A small S3 server in memory, whose answers a test can replace."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OLD = 1735689600.0  # in 2025


def e_tag_of(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


def iso_date(seconds):
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass
class S3Server:
    """A running server with one bucket, `bucket`.

    :ivar url: its endpoint.
    :ivar objects: the content of each object.
    :ivar uploads: the name of the object of each multipart upload, by identifiers.
    :ivar requests: the method, the path and the query of every request so far.
    :ivar modified: when objects were stored, in seconds since 1970; those that it does not have are old.
    :ivar latency: how many seconds each answer takes.
    :ivar ignores_conditions: whether it stores objects that exist whatever the request says.
    :ivar answer: called with a request before it is served; returns an HTTP status and an S3 code to answer instead.
    """

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    modified: dict[str, float] = field(default_factory=dict)
    storing: threading.Lock = field(default_factory=threading.Lock)
    latency: float = 0.0
    ignores_conditions: bool = False
    answer: Callable[[str, str, str, dict[str, str]], tuple[int, str] | None] = lambda *_: None

    @property
    def options(self):
        return {"bucket": "bucket", "endpoint": self.url, "access_key_id": "a", "secret_access_key": "b", "timeout": 5}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    bucket = "bucket"

    def log_message(self, *args):
        pass

    def reply(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def error(self, status, code):
        self.reply(status, f"<Error><Code>{code}</Code></Error>".encode())

    def serve(self):
        state = self.server.state
        parts = urlsplit(self.path)
        name = unquote(parts.path).removeprefix(f"/{self.bucket}").removeprefix("/")
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state.requests.append((self.command, name, parts.query))
        time.sleep(state.latency)
        headers = {key.lower(): value for key, value in self.headers.items()}
        if (answer := state.answer(self.command, name, parts.query, headers)) is not None:
            return self.error(*answer)
        serve = getattr(self, f"serve_{self.command.lower()}")
        return serve(state, name, query, body, headers)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def is_conditional(self, headers):
        """Say whether an object is to be stored only if there is none of its name."""
        return headers.get("if-none-match") == "*"

    def serve_put(self, state, name, query, body, headers):
        if "partNumber" in query:
            state.objects[f"{query['uploadId']}/{int(query['partNumber']):05}"] = body
        else:
            with state.storing:
                if self.is_conditional(headers) and name in state.objects and not state.ignores_conditions:
                    return self.error(412, "PreconditionFailed")
                state.objects[name] = body
                state.modified[name] = time.time()
        return self.reply(200, ETag=e_tag_of(body))

    def serve_get(self, state, name, query, body, headers):
        if "uploads" in query:
            return self.list_uploads(state, query)
        if not name:
            return self.list_objects(state, query)
        if name not in state.objects:
            return self.error(404, "NoSuchKey")
        content = state.objects[name]
        modified = formatdate(state.modified.get(name, OLD), usegmt=True)
        fields = {"ETag": e_tag_of(content), "Last-Modified": modified}
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            start, end = int(found[1]), min(int(found[2]) + 1, len(content))
            if start >= len(content):
                return self.error(416, "InvalidRange")
            fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            return self.reply(206, content[start:end], **fields)
        return self.reply(200, content, **fields)

    serve_head = serve_get

    def list_objects(self, state, query):
        prefix = query.get("prefix", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        names = sorted(name for name in list(state.objects) if name.startswith(prefix) and name > after)
        page = names[: int(query.get("max-keys", 1000))]
        entries = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(state.objects[name])}</Size>"
            f"<LastModified>{iso_date(state.modified.get(name, OLD))}</LastModified></Contents>"
            for name in page
        )
        more = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if len(page) < len(names) else ""
        truncated = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        self.reply(200, f"<ListBucketResult>{truncated}{entries}</ListBucketResult>".encode())

    def list_uploads(self, state, query):
        """Answer one upload with each page."""
        prefix = query.get("prefix", "")
        found = sorted(item for item in state.uploads.items() if item[1].startswith(prefix))
        left = [item for item in found if item[0] > query.get("upload-id-marker", "")]
        entries = "".join(
            f"<Upload><Key>{name}</Key><UploadId>{number}</UploadId>"
            "<Initiated>2025-01-01T00:00:00.000Z</Initiated></Upload>"
            for number, name in left[:1]
        )
        if len(left) > 1:
            entries += (
                f"<NextKeyMarker>{left[0][1]}</NextKeyMarker><NextUploadIdMarker>{left[0][0]}</NextUploadIdMarker>"
            )
        page = f"<IsTruncated>{'true' if len(left) > 1 else 'false'}</IsTruncated>{entries}"
        self.reply(200, f"<ListMultipartUploadsResult>{page}</ListMultipartUploadsResult>".encode())

    def serve_post(self, state, name, query, body, headers):
        if "delete" in query:
            names = re.findall(r"<Key>([^<]*)</Key>", body.decode())
            for each in names:
                state.objects.pop(each, None)
            deleted = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in names)
            return self.reply(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        if "uploads" in query:
            number = f"upload-{len(state.requests)}"
            state.uploads[number] = name
            answer = f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            return self.reply(200, answer.encode())
        if query["uploadId"] not in state.uploads:
            return self.error(404, "NoSuchUpload")
        parts = sorted(part for part in list(state.objects) if part.startswith(f"{query['uploadId']}/"))
        state.objects[name] = b"".join(state.objects.pop(part) for part in parts)
        del state.uploads[query["uploadId"]]
        answer = '<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
        return self.reply(200, answer.encode())

    def serve_delete(self, state, name, query, body, headers):
        if "uploadId" in query:
            if state.uploads.pop(query["uploadId"], None) is None:
                return self.error(404, "NoSuchUpload")
        else:
            state.objects.pop(name, None)
        return self.reply(204)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # the client has gone


@contextmanager
def s3_server(handler=Handler):
    """Run a server; gives its :class:`S3Server`."""
    with _Server(("127.0.0.1", 0), handler) as server:
        server.state = S3Server(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.state
        finally:
            server.shutdown()
            thread.join()
