"""Keys of the command line: abbreviations, lists in the format of sha256sum, and their completion in a shell."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from objrepo.cli.context import standard_input
from objrepo.disk import DiskRepository
from objrepo.errors import ObjectNotFoundError, RepositoryError
from objrepo.key_list import parse_line
from objrepo.keys import is_key
from objrepo.offload import Inline
from objrepo.protocol import AsyncRepository
from objrepo.sync.runner import InPlace
from objrepo.url import open_repository

_ABBREVIATION: Final = re.compile("[0-9a-f][0-9a-f-]{6,}")
_TOO_SHORT: Final = re.compile("[0-9a-f]{1,6}")
_CANDIDATES_SHOWN: Final = 10
_COMPLETIONS: Final = 50


class ListedKey(NamedTuple):
    """A key that the user gave, possibly abbreviated, and the name of its file if a list holds it."""

    key: str
    name: str | None = None


def read_list(path: str, null: bool = False) -> list[ListedKey]:
    """Read a list of keys: one in a line, or lines of `sha256sum`. Empty lines and those that begin with # are skipped.

    :param path: a file, or ``-`` for standard input.
    :param null: whether lines end in NUL, and names are not escaped.
    :raises click.ClickException: if a line has no key.
    """
    content = standard_input().read() if path == "-" else Path(path).read_bytes()
    listed = []
    for number, line in enumerate(content.split(b"\0" if null else b"\n"), 1):
        text = line.decode(errors="surrogateescape")
        if not text or text.startswith("#"):
            continue
        found = parse_line(text, escaped=not null)
        if found is None:
            raise click.ClickException(
                f"line {number} of {path} is neither a key nor a line of sha256sum: {text[:80]!r}"
            )
        listed.append(ListedKey(*found))
    return listed


def keys_argument(required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the argument KEY... and the options of lists; ``keys`` are :class:`ListedKey`."""

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("keys", nargs=-1, metavar="[KEY...]", shell_complete=complete_key)
        @click.option(
            "--from", "lists", multiple=True, metavar="FILE", help="Take keys from a list; - is standard input."
        )
        @click.option("-z", "--null", is_flag=True, help="The lines of lists end in NUL.")
        @functools.wraps(body)
        def command(*args: Any, keys: tuple[str, ...], lists: tuple[str, ...], null: bool, **options: Any) -> Any:
            listed = []
            for key in keys:
                listed += read_list("-", null) if key == "-" else [ListedKey(key)]
            for path in lists:
                listed += read_list(path, null)
            if required and not keys and not lists:
                raise click.UsageError("a key is missing: give KEY, - for a list on standard input, or --from FILE")
            return body(*args, keys=listed if keys or lists else None, **options)

        return command

    return decorate


async def full_keys(repository: AsyncRepository, keys: Iterable[ListedKey]) -> list[str]:
    """Return the keys, abbreviated ones in full; a key that is no abbreviation of another is returned as it is.

    :raises click.ClickException: if several objects have a key that begins in the same way, or it has less than seven
        digits.
    """
    given = [each.key for each in keys]
    if too_short := next(filter(_TOO_SHORT.fullmatch, given), None):
        raise click.ClickException(f"the key {too_short} is too short: give seven digits or more")
    key_format = await repository.key_format()
    short = {key for key in given if _ABBREVIATION.fullmatch(key) and not is_key(key, key_format)}
    found: dict[str, list[str]] = {key: [] for key in short}
    if isinstance(repository, DiskRepository):
        found |= {key: await repository.keys_with_prefix(key) for key in short if "-" not in key}
    elif short:
        async for each in repository.keys():
            for key in short:
                if each.startswith(key):
                    found[key].append(each)
    for key, candidates in found.items():
        if len(candidates) > 1:
            shown = ", ".join(candidates[:_CANDIDATES_SHOWN])
            more = f" and {len(candidates) - _CANDIDATES_SHOWN:,} more" if len(candidates) > _CANDIDATES_SHOWN else ""
            raise click.ClickException(f"the key {key} is ambiguous: {shown}{more}")
    return [(found.get(key) or [key])[0] for key in given]


async def require_keys(repository: AsyncRepository, keys: Iterable[ListedKey]) -> list[str]:
    """Return the keys in full.

    :raises ObjectNotFoundError: if one of them names no object.
    """
    full = await full_keys(repository, keys)
    present = await repository.has_many(full)
    if missing := [key for key, is_present in zip(full, present, strict=True) if not is_present]:
        raise ObjectNotFoundError(dict.fromkeys(missing), getattr(repository, "backend", repository))
    return full


def complete_key(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return some keys that begin with ``incomplete``; none for repositories on a network, and on errors."""
    from objrepo.archive import ArchiveRepository

    del parameter

    async def keys() -> list[str]:
        async with repository:
            if not isinstance(repository, DiskRepository):
                return [key async for key in repository.keys() if key.startswith(incomplete)]
            found: list[str] = []
            for digits in product("0123456789abcdef", repeat=max(2 - len(incomplete), 0)):
                found += await repository.keys_with_prefix(incomplete + "".join(digits))
                if len(found) >= _COMPLETIONS:
                    break
            return found

    try:
        repository = open_repository(context.params.get("repo") or ".objrepo", Inline())
        is_local = isinstance(repository, DiskRepository | ArchiveRepository)
        return [CompletionItem(key) for key in InPlace().call(keys)[:_COMPLETIONS]] if is_local else []
    except (RepositoryError, OSError, ValueError):
        return []
