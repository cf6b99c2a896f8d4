"""The parts of a multipart body, as they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, NamedTuple, TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

_MAX_PARTS: Final = 10_000


class Part(NamedTuple):
    """One part of a form.

    :ivar headers: its headers.
    :ivar name: the name of the form's field.
    :ivar filename: the name of the file; None if the part is not a file.
    :ivar chunks: its content.
    """

    headers: Headers
    name: str
    filename: str | None
    chunks: AsyncGenerator[bytes, None]


def boundary_of(headers: Headers) -> bytes | None:
    """Return the boundary of a body that is a form with files; None if the body is something else.

    :raises HTTPException: 400 if it is a form without a boundary.
    """
    media_type, options = parse_options_header(headers.get("content-type", ""))
    if media_type.lower() != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary")
    if not boundary:
        raise HTTPException(400, "Content-Type: multipart/form-data has no boundary")
    return boundary


async def read_parts(boundary: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Part, None]:
    """Yield the parts of a body; what is not read of one is skipped.

    :param chunks: the body.
    :raises HTTPException: 400 if the body is malformed or incomplete, 413 if it has too many parts.
    """
    parser = _Parser(boundary, chunks)
    for _ in range(_MAX_PARTS):
        headers = await parser.next_event()
        if not isinstance(headers, Headers):
            async for _ in chunks:  # what follows the form, so that the connection can be used again
                pass
            return
        _, options = parse_options_header(headers.get("content-disposition"))
        fields = {name: value.decode(errors="replace") for name, value in options.items()}
        data = _data(parser)
        yield Part(headers, fields.get(b"name", ""), fields.get(b"filename"), data)
        async for _ in data:
            pass
    raise HTTPException(413, f"the form has more than {_MAX_PARTS} parts: send several requests")


async def _data(parser: _Parser) -> AsyncGenerator[bytes, None]:
    while isinstance(data := await parser.next_event(), bytes):
        yield data


_Event: TypeAlias = Headers | bytes | None
"""The headers of a part, some of its content, or the end of the part or of the body."""


class _Parser:
    """Calls python-multipart, which calls back, and returns what it has called."""

    def __init__(self, boundary: bytes, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._events = deque[_Event]()
        self._headers: list[tuple[bytes, bytes]] = []
        self._field = self._value = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
                    "on_part_end": lambda: self._events.append(None),
                    "on_end": lambda: self._events.append(None),
                },
            )
        except FormParserError as error:
            raise HTTPException(400, f"the body is no form: {error}") from None

    async def next_event(self) -> _Event:
        """Return the next event.

        :raises HTTPException: 400 if the body is malformed or incomplete.
        """
        while not self._events:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise HTTPException(400, "the body ends before the form does")
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise HTTPException(400, f"the body is no form: {error}") from None
        return self._events.popleft()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers.append((self._field.lower(), self._value))
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        self._events.append(Headers(raw=self._headers))
        self._headers = []
