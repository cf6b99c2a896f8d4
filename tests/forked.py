"""Commands and scripts in processes that are forked when objrepo is imported already, which is most of what they do."""

from __future__ import annotations

import os
import pickle
import runpy
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

_DESCRIPTORS = (0, 1, 2)
_SCRIPT = "--script"
# dask calls methods of pandas with an argument that its newest release deprecates.
_WARNINGS = ("error", "ignore:The inplace keyword")


class ForkedCommands:
    """Runs `objrepo` and scripts as `subprocess.run` does, in children of a process that has imported it."""

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            # Pipes, as the commands have: Python remembers what standard input and output are.
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        self._requests = self._socket.makefile("rwb")

    def run(self, arguments, stdin, folder, environment):
        """Run a command; return its exit status, its output, and what it writes to standard error."""
        pipes = [os.pipe() for _ in _DESCRIPTORS]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        request = ([os.fsencode(each) for each in arguments], os.fspath(folder), environment)
        assert not any(b"\0" in each for each in request[0]), "an argument cannot contain a null byte"
        socket.send_fds(self._socket, [b"!"], theirs)
        pickle.dump(request, self._requests)
        self._requests.flush()
        for each in theirs:
            os.close(each)
        outputs = {}
        threads = [
            threading.Thread(target=_write, args=(pipes[0][1], stdin)),
            *(threading.Thread(target=_read, args=(pipes[each][0], outputs, each)) for each in (1, 2)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return pickle.load(self._requests), outputs[1], outputs[2]

    def run_script(self, path, environment):
        """Run a script in its folder, in which warnings are errors; return what `run` returns."""
        return self.run([_SCRIPT, path], b"", path.parent, environment)

    def close(self):
        """End the process."""
        self._requests.close()
        self._socket.close()
        self._process.communicate()


def _write(descriptor, content):
    with open(descriptor, "wb", buffering=0) as file:
        try:
            while content:
                content = content[file.write(content) :]
        except BrokenPipeError:
            pass  # the command does not read it


def _read(descriptor, outputs, number):
    with open(descriptor, "rb") as file:
        outputs[number] = file.read()


def _serve(connection):
    """Fork a child for each request; this returns in the children, and at the end of the requests exits."""
    requests = connection.makefile("rwb", buffering=0)
    while True:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, len(_DESCRIPTORS))
        if not descriptors:
            sys.exit()
        arguments, folder, environment = pickle.load(requests)
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[1:] = map(os.fsdecode, arguments)
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
                os.close(descriptor)
            requests.close()
            connection.close()
            return
        for descriptor in descriptors:
            os.close(descriptor)
        pickle.dump(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), requests)


def _run_script(path):
    sys.argv[:] = [path]
    sys.path.insert(0, os.path.dirname(path))
    sys.warnoptions[:] = _WARNINGS  # which processes that it spawns get, too
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The inplace keyword")
    runpy.run_path(path, run_name="__main__")


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    # What `main` and many commands import.
    import asyncio  # noqa: F401

    import objrepo.cli
    import objrepo.disk.container  # noqa: F401
    from objrepo.__main__ import main

    _serve(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[1:2] == [_SCRIPT]:
        _run_script(sys.argv[2])
    else:
        main()
