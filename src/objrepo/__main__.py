"""`python -m objrepo`, and the entry point of the command `objrepo`."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """Run the command line, or say how to install it."""
    try:
        from objrepo.cli import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit(f"objrepo: the command line needs {error.name}: pip install 'objrepo[cli]'")
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
