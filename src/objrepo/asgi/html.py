"""The HTML pages. The server renders them, so that browsing needs no JavaScript."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from starlette.responses import HTMLResponse, Response

_IMAGES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}
_HEX_BYTES: Final = 512


def html_response(content: tuple[str, str], headers: dict[str, str]) -> Response:
    """Return the response that sends a page.

    :param content: the page and its nonce.
    """
    text, nonce = content
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    policy += "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(
        text, headers=headers | {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    )


def overview_page(root: str, keys: Sequence[str], next_page: str | None, writable: bool) -> tuple[str, str]:
    """Return the page that lists keys, and the nonce of its style and script.

    :param next_page: the URL of the next page; None on the last one.
    :param writable: whether to show the upload form.
    """
    rows = "".join(f'<li><a href="{root}/?key={escape(key)}"><code>{escape(key)}</code></a></li>' for key in keys)
    body = f"<ol>{rows}</ol>" if rows else "<p>There are no objects.</p>"
    if next_page is not None:
        body += f'<p><a rel="next" href="{escape(next_page)}">Next page</a></p>'
    return _page(root, "Objects", body, "upload.html" if writable else None)


def object_page(root: str, key: str, size: int, head: bytes) -> tuple[str, str]:
    """Return the page of one object, and the nonce of its style.

    :param head: its first bytes, for the preview.
    """
    body = (
        f"<p><code>{escape(key)}</code></p><p>{size:,} bytes</p>"
        f'<p><a class="button" href="{root}/{escape(key)}">Download</a> <a href="{root}/">All objects</a></p>'
    )
    return _page(root, "Object", body + _preview(root, key, size, head), None)


def _preview(root: str, key: str, size: int, head: bytes) -> str:
    kind = next((kind for start, kind in _IMAGES.items() if head.startswith(start)), None)
    if kind is not None:
        return f'<img alt="preview" src="{root}/{escape(key)}?type={kind}&amp;inline=1">'
    cut = "" if len(head) == size else f"<p>The first {len(head):,} bytes are shown.</p>"
    text = head.decode(errors="ignore")
    if len(text.encode()) >= len(head) - 3 and "\0" not in text:  # a character may be cut at the end
        return f"<pre>{escape(text)}</pre>{cut}"
    lines = (head[start : start + 16] for start in range(0, min(len(head), _HEX_BYTES), 16))
    return "<pre>" + "\n".join(line.hex(" ") for line in lines) + "</pre>"


def _page(root: str, title: str, body: str, form: str | None) -> tuple[str, str]:
    nonce = secrets.token_urlsafe(16)
    upload = "" if form is None else _template(form).substitute(root=root, nonce=nonce)
    page = _template("page.html").substitute(root=root, nonce=nonce, title=title, body=body, upload=upload)
    return page, nonce


@cache
def _template(name: str) -> Template:
    return Template(files("objrepo.asgi").joinpath(name).read_text(encoding="utf-8"))
