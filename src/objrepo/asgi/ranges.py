"""Conditional and range requests (RFC 9110, sections 13 and 14) for objects, which never change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from starlette.datastructures import Headers

_MAX_RANGES: Final = 16
_RANGE: Final = re.compile(r"(\d{0,100})-(\d{0,100})")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


class ByteRange(NamedTuple):
    """The bytes of an object from ``start`` up to, not including, ``end``."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        """Return the value of ``Content-Range`` for an object of ``size`` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def entity_tag(key: str) -> str:
    """Return the ``ETag`` of an object. It is a strong one, as the content under a key never changes."""
    return f'"{key}"'


def precondition_status(method: str, headers: Headers, tag: str, exists: bool = True) -> int | None:
    """Return the status with which the preconditions of a request end it, None to go on (RFC 9110, 13.2.2)."""
    if "if-match" in headers and not (exists and _matches(headers.getlist("if-match"), tag, weak=False)):
        return 412
    if exists and _matches(headers.getlist("if-none-match"), tag, weak=True):
        return 304 if method in ("GET", "HEAD") else 412
    return None


def parse_ranges(headers: Mapping[str, str], tag: str, size: int) -> list[ByteRange] | None:
    """Return the ranges of an object that a GET requests (RFC 9110, 14.2).

    :return: the satisfiable ranges, empty if there are none; None for the whole object: no range is requested, the
        header is malformed, ``If-Range`` does not match, or there are too many ranges or together they are larger
        than the object.
    """
    unit, _, value = headers.get("range", "").partition("=")
    if unit.strip().lower() != "bytes" or headers.get("if-range", tag).strip() != tag:
        return None
    requested = [each.strip() for each in value.split(",") if each.strip()]
    if not 0 < len(requested) <= _MAX_RANGES:
        return None
    ranges: list[ByteRange] = []
    for each in requested:
        match = _RANGE.fullmatch(each)
        if match is None or match[0] == "-" or (match[1] and match[2] and int(match[2]) < int(match[1])):
            return None
        first, last = match[1], match[2]
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start < end:
            ranges.append(ByteRange(start, end))
    if len(ranges) > 1 and sum(end - start for start, end in ranges) >= size:
        return None
    return ranges


def _matches(values: list[str], tag: str, weak: bool) -> bool:
    return any(
        value.strip() == "*" or any(match[1] == tag and (weak or match[0] == tag) for match in _TAG.finditer(value))
        for value in values
    )
