"""The range and condition headers of RFC 9110, as far as they concern what never changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ("Part", "entity_tag", "parse_ranges", "precondition_status")

_PARTS_AT_MOST: Final = 16
_RANGE: Final = re.compile(r"(\d*)-(\d*)")
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


class Part(NamedTuple):
    """Bytes of an object, from ``start`` up to ``end``."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        """Return the header that says which part of an object it is."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def entity_tag(key: str) -> str:
    """Return the ``ETag`` of an object, which is a strong one: what is under a key never changes."""
    return f'"{key}"'


def precondition_status(headers: Mapping[str, str], tag: str) -> int | None:
    """Return the status that the conditions of a GET or HEAD ask for, None to go on (RFC 9110, 13.2.2).

    :param headers: of the request; names in lower case.
    """
    if "if-match" in headers and not _matches(headers["if-match"], tag, weakly=False):
        return 412
    if "if-none-match" in headers and _matches(headers["if-none-match"], tag, weakly=True):
        return 304
    return None


def parse_ranges(headers: Mapping[str, str], tag: str, size: int) -> list[Part] | None:
    """Return which parts of an object a GET asks for (RFC 9110, 14.2).

    :return: the parts that there are, none if none of them lies in the object; None for the whole object: where
        no range is asked for, the header is of no use, ``If-Range`` names something else, or the parts are so many or
        so large that the whole is less.
    """
    unit, _, ranges = headers.get("range", "").partition("=")
    if unit.strip().lower() != "bytes" or headers.get("if-range", tag).strip() != tag:
        return None
    parts: list[Part] = []
    asked = [each.strip() for each in ranges.split(",") if each.strip()]
    for each in asked:
        match = _RANGE.fullmatch(each)
        if match is None or match[0] == "-" or (match[1] and match[2] and int(match[2]) < int(match[1])):
            return None
        first, last = match[1], match[2]
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start < end:
            parts.append(Part(start, end))
    if (
        not asked
        or len(asked) > _PARTS_AT_MOST
        or (len(parts) > 1 and sum(end - start for start, end in parts) >= size)
    ):
        return None
    return parts


def _matches(header: str, tag: str, weakly: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(match[1] == tag and (weakly or match[0] == tag) for match in _TAG.finditer(header))
