"""Ctrl-C, SIGTERM and SIGHUP end a command in the same way: with clean-up, one line, and the status of shells."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from helpers import OBJREPO, default_signals, open_files
from objrepo.testing.fixtures import content_of

LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
EACH_SIGNAL = pytest.mark.parametrize("number", LINES)


@pytest.fixture
def start(workdir):
    """Start a command that signals interrupt."""

    def start(*arguments, command=OBJREPO, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*command, *arguments], preexec_fn=default_signals, cwd=workdir, **pipes)

    return start


def end(process, number):
    """Send a signal, and check how the process ends."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (128 + number, f"objrepo: {LINES[number]}\n")


def wait_for(found):
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@EACH_SIGNAL
class TestEachSignal:
    def test_a_put_of_standard_input(self, workdir, start, number):
        with start("put", "-") as process:
            process.stdin.write(content_of(5_000_000))
            process.stdin.flush()
            sandbox = workdir / ".objrepo" / "sandbox"
            wait_for(lambda: open_files(sandbox, process.pid))
            end(process, number)
        assert os.listdir(sandbox) == []
        assert [files for _, _, files in os.walk(workdir / ".objrepo" / "loose") if files] == []

    def test_a_get_to_a_file(self, workdir, run_objrepo, start, number):
        with open(workdir / "zeros", "wb") as file:
            file.truncate(300_000_000)
        key = run_objrepo("put", "zeros")[1].split()[0].decode()
        (workdir / "out").mkdir()
        with start("get", key, "-o", "out/zeros") as process:
            wait_for(lambda: os.listdir(workdir / "out"))
            end(process, number)
        assert os.listdir(workdir / "out") == []

    def test_a_blocked_cat(self, workdir, run_objrepo, start, number):
        key = run_objrepo("put", "-", stdin=content_of(5_000_000))[1].split()[0].decode()
        with start("cat", key) as process:
            process.stdout.read(1)
            time.sleep(0.05)
            end(process, number)

    def test_maintain(self, workdir, run_objrepo, start, number):
        (workdir / "files").mkdir()
        for name in range(1000, 1300):
            (workdir / "files" / str(name)).write_bytes(b"%d" % name * 20_000)  # too large to be packed by `put`
        assert run_objrepo("put", "files")[0] == 0
        with start("maintain", "--not-live") as process:
            wait_for(lambda: os.listdir(workdir / ".objrepo" / "packs"))
            end(process, number)
        assert run_objrepo("verify")[1].startswith(b"300 objects")
        assert run_objrepo("maintain", "--not-live")[0] == 0, "no lock and no incomplete pack is left"
        assert run_objrepo("verify")[1].startswith(b"300 objects")

    @pytest.mark.parametrize("code", ["os.kill(os.getpid(), {})", "exec('os.kill(os.getpid(), {})')"])
    def test_during_an_import(self, workdir, start, number, code):
        (workdir / "modules" / "click").mkdir(parents=True)
        (workdir / "modules" / "click" / "__init__.py").write_text(f"import os\n{code.format(int(number))}")
        path = os.pathsep.join([str(workdir / "modules"), os.environ.get("PYTHONPATH", "")])
        with start("ls", env={**os.environ, "PYTHONPATH": path}) as process:
            _, err = process.communicate(timeout=60)
        assert (process.returncode, err.decode()) == (128 + number, f"objrepo: {LINES[number]}\n")


def test_serve(workdir, run_objrepo, start):
    run_objrepo("init")
    for number in LINES:
        with start("serve", "--port", "0") as process:
            log = b""
            while b"running on" not in log:
                log += process.stderr.readline()
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert b"Finished server process" in err
        assert err.endswith(f"objrepo: {LINES[number]}\n".encode())
        assert b"Traceback" not in err


def test_serve_on_a_used_port_fails_with_status_1(workdir, run_objrepo, start):
    run_objrepo("init")
    with start("serve", "--port", "0") as process:
        log = b""
        while b"running on" not in log:
            log += process.stderr.readline()
        port = re.search(rb":(\d+) ", log)[1].decode()
        status, _, err = run_objrepo("serve", "--port", port)
        process.terminate()
        process.communicate(timeout=60)
    assert status == 1
    assert f"'127.0.0.1', {port}" in err


def test_a_signal_that_is_ignored_stays_ignored(workdir, run_objrepo):
    """As nohup and shells in the background start programs."""
    script = "trap '' HUP INT; exec \"$@\""
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *OBJREPO, "put", "-"], cwd=workdir, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        wait_for((workdir / ".objrepo" / "sandbox").exists)
        for number in (signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
        out, _ = process.communicate(b"content", timeout=60)
    assert process.returncode == 0
    assert run_objrepo("cat", out.split()[0].decode())[1] == b"content"
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *OBJREPO, "put", "-"], cwd=workdir, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdin.write(content_of(5_000_000))
        process.stdin.flush()
        wait_for(lambda: open_files(workdir / ".objrepo" / "sandbox", process.pid))
        end(process, signal.SIGTERM)
    assert os.listdir(workdir / ".objrepo" / "sandbox") == []
