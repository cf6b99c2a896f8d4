"""What a key looks like. A key is checked here before any path, URL or SQL statement is built from it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from typing import Final, Literal

__all__ = ("KeyFormat", "hashes_only", "is_key", "key_pattern", "new_uuid4", "require_str", "valid_keys")

KeyFormat = Literal["sha1", "sha256", "uuid4"]

# `[0-9a-f]` and not `\d`, which also matches digits of other scripts; `fullmatch` and not `$`, which lets a
# newline through.
_FORMATS: Final[dict[str, re.Pattern[str]]] = {
    "sha1": re.compile(r"[0-9a-f]{40}"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "uuid4": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
}


_HEX: Final = b"0123456789abcdef"


def is_key(key: object, key_format: str) -> bool:
    """Say whether a value can be a key of the given format.

    :param key: any value; only a ``str`` can be a key.
    :param key_format: ``'sha1'``, ``'sha256'`` or ``'uuid4'``.
    :return: False for what no object can ever be stored under.
    :raises ValueError: if the format is unknown.
    """
    try:
        pattern = _FORMATS[key_format]
    except KeyError:
        raise ValueError(f"unknown key format {key_format!r}: expected one of {', '.join(_FORMATS)}") from None
    return isinstance(key, str) and pattern.fullmatch(key) is not None


def key_pattern(key_format: str) -> Callable[[str], object]:
    """Return what says quickest of a ``str`` whether it can be a key of the given format."""
    return _FORMATS[key_format].fullmatch


def valid_keys(keys: Iterable[object], key_format: str) -> list[str]:
    """Return those of many values that can be keys of the given format, as :func:`is_key` would say it of each."""
    matches = _FORMATS[key_format].fullmatch
    return [key for key in keys if isinstance(key, str) and matches(key)]


def hashes_only(keys: list[str], key_format: str) -> list[str]:
    """Return the same for keys of hashes of which hardly any is none: they are looked at all together."""
    digits = 64 if key_format == "sha256" else 40
    if keys and (set(map(len, keys)) != {digits} or "".join(keys).encode().translate(None, _HEX)):
        return valid_keys(keys, key_format)
    return keys


def require_str(key: object) -> str:
    """Return the key, once it is certain that it is a ``str``.

    :raises TypeError: if it is not, as bytes, None and numbers are mistakes of the program and not missing objects.
    """
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}: {ascii(key)[:80]}")
    return key


def new_uuid4() -> str:
    """Return a fresh random key for repositories that do not derive keys from the content."""
    return str(uuid.uuid4())
