"""The entry point of the command `objrepo`, and of `python -m objrepo`."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # what `typing` has; an interrupt while that is imported would be a traceback
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

__all__ = ("main",)

_SIGNALS = {1: "hung up", 2: "interrupted", 15: "terminated"}
"""The signals that end a command, by their numbers in POSIX."""


def main() -> NoReturn:
    """Run the command line and exit with its status, which for a signal is 128 and its number, as shells have it."""
    received = [2]
    try:
        status = _run(received)
    except KeyboardInterrupt:
        status = 128 + received[-1]
        # At a terminal, the line follows the ^C that it shows.
        line = f"objrepo: {_SIGNALS[received[-1]]}\n"
        try:
            sys.stderr.write(f"\n{line}" if sys.stderr.isatty() else line)
            sys.stderr.flush()
        except (OSError, AttributeError):
            pass  # the terminal is gone, or stderr is closed
        # `sys.exit` would end the process by SIGINT if the interrupt came in an `exec`, as dataclasses call it.
        import atexit
        import os

        atexit._run_exitfuncs()  # noqa: SLF001  (there is no public name for it)
        os._exit(status)
    sys.exit(status)


def _run(received: list[int]) -> int:
    """Run the command line, and return its status; the signals that end it are added to ``received``.

    :raises KeyboardInterrupt: after a signal, when the command has cleaned up.
    """
    import signal
    from importlib.util import find_spec

    def interrupt(number: int, frame: FrameType | None) -> None:
        """End the command as Ctrl-C does: by KeyboardInterrupt or, where an event loop runs, by cancellation."""
        received.append(number)
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, interrupt)
    try:
        for package in ("click", "rich"):
            if find_spec(package) is None:
                sys.exit(f"objrepo: the command line needs {package}: pip install 'objrepo[cli]'")
        from objrepo.cli import run

        return run(sys.argv[1:])
    finally:  # there is nothing to clean up: a second Ctrl-C ends the process at once
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
