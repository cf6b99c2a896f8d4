"""A small server of the XML API of Google Cloud Storage, whose paths and bodies are those of S3.

It differs from S3 as Google documents it: a condition is `x-goog-if-generation-match: 0`, and that of S3 is ignored; a
request is signed by a token of OAuth, which `/token` issues for a key of a service account; each object is deleted by a
request of its own, which is an error if it does not exist.
"""

from __future__ import annotations

import json
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from s3_server import Handler, s3_server

TOKEN = "token-of-the-server"


class _Handler(Handler):
    def serve(self):
        if self.path == "/token":
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return self.reply(200, json.dumps(answer).encode(), Content_Type="application/json")
        return super().serve()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def is_conditional(self, headers):
        return headers.get("x-goog-if-generation-match") == "0"

    def serve_post(self, state, name, query, body, headers):
        if "delete" in query:
            return self.error(400, "InvalidArgument")
        return super().serve_post(state, name, query, body, headers)

    def serve_delete(self, state, name, query, body, headers):
        if "uploadId" not in query and name not in state.objects:
            return self.error(404, "NoSuchKey")
        return super().serve_delete(state, name, query, body, headers)


def gcs_server(bucket="bucket"):
    """Run a server with one bucket; gives its state."""
    return s3_server(type("Handler", (_Handler,), {"bucket": bucket}))


def require_token(method, name, query, headers):
    """Answer a request without the token, as :attr:`S3Server.answer`."""
    return None if headers.get("authorization") == f"Bearer {TOKEN}" else (401, "AuthenticationRequired")


@cache
def _private_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encodings = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*encodings).decode()


def service_account(url):
    """Return the text of a file with the key of a service account, whose tokens the server at a URL issues."""
    fields = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": _private_key(),
        "client_email": "objrepo@project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{url}/token",
    }
    return json.dumps(fields)
