"""The entry point of the command `objrepo`, and of `python -m objrepo`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """Run the command line, or exit with the command that installs what is missing."""
    try:
        from objrepo.cli import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit(f"objrepo: the command line needs {error.name}: pip install 'objrepo[cli]'")
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
