"""The entry point of the command `objrepo`, and of `python -m objrepo`."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn

__all__ = ("main",)

_SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


def main() -> NoReturn:
    """Run the command line and exit with its status, which for a signal is 128 and its number, as shells have it."""
    received = [signal.SIGINT]

    def interrupt(number: int, frame: FrameType | None) -> None:
        """End the command as Ctrl-C does: by KeyboardInterrupt or, where an event loop runs, by cancellation."""
        received.append(signal.Signals(number))
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, interrupt)
        for package in ("click", "rich"):
            if find_spec(package) is None:
                sys.exit(f"objrepo: the command line needs {package}: pip install 'objrepo[cli]'")
        from objrepo.cli import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        number = received[-1]
        status = 128 + number
        with suppress(OSError, AttributeError):  # the terminal may be gone, and stderr closed
            start = "\n" if sys.stderr.isatty() else ""  # after the ^C that the terminal shows
            print(f"{start}objrepo: {_SIGNALS[number.name]}", file=sys.stderr, flush=True)  # noqa: T201
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to be cleaned up
    sys.exit(status)


if __name__ == "__main__":
    main()
