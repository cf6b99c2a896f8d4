"""`python -m objrepo.aiida PROFILE BACKEND` switches a profile to another storage plugin for the same files."""

from __future__ import annotations

import sys

from objrepo.aiida.profiles import switch_profile


def main(arguments: list[str]) -> str | None:
    """Switch a profile; return the error message, if any."""
    if len(arguments) != 2:
        return "usage: python -m objrepo.aiida PROFILE BACKEND, for example: my-profile objrepo.sqlite_dos"
    try:
        before = switch_profile(*arguments)
    except ValueError as error:
        return str(error)
    print(f"{arguments[0]} uses {arguments[1]} now; it used {before} before")  # noqa: T201
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
