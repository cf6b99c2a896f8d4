"""Ceph on one node: a monitor, an OSD in memory and an S3 gateway, which end with the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_ports

PROGRAMS = ("ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin")

# One replica, no authentication between the daemons, and no background threads. Without `tcp_nodelay` each answer takes
# 40 ms more.
SETTINGS = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
mon initial members = a
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
crash dir = {folder}
keyring = {folder}/keyring
[mon.a]
host = localhost
mon data = {folder}/mon
mon addr = 127.0.0.1:{mon_port}
[osd.0]
host = localhost
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4G
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}
rgw enable usage log = false
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
debug rgw = 1/1
"""

_LOGGED_REQUEST = re.compile(r' beast: .*?"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP')


def missing_programs() -> list[str]:
    """Return the programs of Ceph that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Gateway:
    """The running S3 gateway.

    :ivar host: the address that it listens on.
    :ivar port: the port that it listens on.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.url = f"http://{self.host}:{port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the gateway, and wait until it answers."""
        self._process = _started(self._folder, "radosgw", "-n", "client.rgw", "-f")
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return
            except urllib.error.URLError:
                time.sleep(0.05)
        raise RuntimeError(f"the gateway does not answer; see {self._folder}/client.rgw.log")

    def kill(self) -> None:
        """Kill the gateway, as a power failure would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def logged(self, path: str) -> list[str]:
        """Return the requests that the gateway has logged since its start, as method and target.

        :param path: only those of targets that contain it.
        """
        log = (self._folder / "client.rgw.log").read_text(errors="replace")
        return [f"{method} {target}" for method, target in _LOGGED_REQUEST.findall(log) if path in target]

    def add_user(self, name: str) -> dict[str, str]:
        """Create a user; return its credentials as parameters of `S3Repository`."""
        made = _run(self._folder, "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}")
        keys = json.loads(made)["keys"][0]
        return {"access_key_id": keys["access_key"], "secret_access_key": keys["secret_key"]}


@contextmanager
def running(folder: Path) -> Iterator[Gateway]:
    """Run Ceph with its data and logs in a new folder."""
    mon_port, port = free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    for part in ("mon", "osd"):
        folder.joinpath(part).mkdir(parents=True)
    settings = SETTINGS.format(folder=folder, fsid=fsid, mon_port=mon_port, port=port)
    folder.joinpath("ceph.conf").write_text(settings)
    keyring, monmap = folder / "keyring", folder / "monmap"
    _run(folder, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    address = f"[v1:127.0.0.1:{mon_port}]"
    _run(folder, "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monmap)
    _run(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    processes = []
    gateway = Gateway(folder, port)
    try:
        processes.append(_started(folder, "ceph-mon", "-i", "a", "-f"))
        _run(folder, "ceph", "osd", "new", osd, "0")
        _run(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        processes.append(_started_osd(folder))
        gateway.start()
        yield gateway
    finally:
        gateway.kill()
        for process in reversed(processes):
            process.kill()
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}


def _run(folder: Path, *command: str | Path) -> str:
    # `ceph` would wait for an input that stays open.
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120}
    for _ in range(20):
        done = subprocess.run(command, env=_environment(folder), **options)
        if "problem getting command descriptions" not in done.stderr:  # of a monitor that has just started
            break
        time.sleep(0.5)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout


def _started(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with open(folder / f"{command[0]}.out", "ab") as output:
        return subprocess.Popen(command, env=_environment(folder), stdout=output, stderr=output)


def _started_osd(folder: Path) -> subprocess.Popen[bytes]:
    """Start the OSD; again if it ends, as it does when the monitor is not ready yet."""
    process = _started(folder, "ceph-osd", "-i", "0", "-f")
    for _ in range(100):
        if json.loads(_run(folder, "ceph", "osd", "stat", "--format", "json"))["num_up_osds"]:
            return process
        if process.poll() is not None:
            process = _started(folder, "ceph-osd", "-i", "0", "-f")
    process.kill()
    raise RuntimeError(f"the OSD does not start; see {folder}/osd.0.log")
