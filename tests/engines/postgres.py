"""PostgreSQL, started for the tests and stopped by them."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from processes import free_ports

USER = "postgres"


class Server(NamedTuple):
    """A server with password authentication."""

    port: int
    password: str
    folder: Path

    def make_database(self, name):
        """Make an empty database."""
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, name)

    def run(self, program, *arguments):
        """Run one of PostgreSQL's programs as the user that it runs as."""
        command = [*_as_its_user(), found(program), *arguments]
        environment = {**os.environ, "PGPASSWORD": self.password}
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, env=environment)


def found(program):
    """Return where a program is; Debian has the server's programs where no shell looks."""
    places = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))
    return places[-1] if places else shutil.which(program)


@contextmanager
def running(folder):
    """Run a server over a new folder, on a free port."""
    folder.mkdir(mode=0o755, parents=True)
    [port] = free_ports()
    server = Server(port, "p4ss", folder)
    (folder / "password").write_text(server.password)
    if os.geteuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, USER)
        for parent in folder.parents:
            if parent.stat().st_uid == os.geteuid():
                parent.chmod(parent.stat().st_mode | 0o011)  # its user has to get there
    secret = f"--pwfile={folder / 'password'}"
    server.run("initdb", "-D", str(folder / "data"), "-U", USER, "-A", "scram-sha-256", secret)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    server.run("pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        yield server
    finally:
        server.run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")


def _as_its_user():
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
