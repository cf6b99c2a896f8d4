"""Lists of keys and names, a line each, as ``sha256sum`` prints and reads them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ("list_line", "parse_line")

_LINE: Final = re.compile(r"(\\?)([0-9a-f][0-9a-f-]{6,})(?: [ *](.+))?", re.DOTALL)
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_UNESCAPES: Final = {escape: character for character, escape in _ESCAPES.items()}


def list_line(key: str, name: str) -> str:
    """Return a line without its end: a name with a newline or a backslash is escaped."""
    escaped = "".join(_ESCAPES.get(character, character) for character in name)
    return f"{key}  {name}" if escaped == name else f"\\{key}  {escaped}"


def parse_line(line: str, escaped: bool = True) -> tuple[str, str | None] | None:
    """Return the key, which may be abbreviated, and the name in a line, if it has one; None if it has no key.

    :param escaped: whether a name may be escaped, as :func:`list_line` does it.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    is_escaped, key, name = found.groups()
    if is_escaped and escaped and name:
        parts = re.split(r"(\\.?)", name, flags=re.DOTALL)
        if any(escape not in _UNESCAPES for escape in parts[1::2]):
            return None
        name = "".join(_UNESCAPES.get(part, part) for part in parts)
    return key, name
