"""The docstrings of async methods, for the sync methods of the same names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T", bound=type)

_ABOUT_CANCELLATION: Final = re.compile(r"(?:[^.\n]|\n(?!\n| *:))*ancellation[^.]*\. ?")
_REPLACEMENTS: Final = (
    ("a cancelled", "an interrupted"),
    ("cancelled", "interrupted"),
    ("async with", "with"),
    ("an async ", "a "),
    (", sync or async", ""),
    ("await ", ""),
    ("Several tasks", "Several threads"),
)


def documented_as(*kinds: type) -> Callable[[T], T]:
    """Give the methods of a class that have no docstring those of async classes.

    :param kinds: the async classes; the first that has a method of the name documents it.
    """

    def decorate(cls: T) -> T:
        for name, member in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(member) and not member.__doc__:
                member.__doc__ = next(
                    (_sync_docstring(getattr(kind, name)) for kind in kinds if hasattr(kind, name)), None
                )
        return cls

    return decorate


def _sync_docstring(function: Callable[..., Any]) -> str:
    """Return the docstring of an async function, without what it says about event loops."""
    text = inspect.getdoc(function) or ""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return re.sub(r"\n{3,}", "\n\n", _ABOUT_CANCELLATION.sub("", text)).strip()
