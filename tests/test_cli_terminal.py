"""Progress and summaries at a terminal and elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pexpect
import pytest

from helpers import OBJREPO, default_signals, open_files

IMPATIENT = """
import sys, time
import objrepo.cli.progress as progress
progress._SILENT_SECONDS = progress._SECONDS_BETWEEN_LINES = 0
progress._LARGE_BYTES = 1_000_000
last = 0
def slow(reporter, each, call=progress.Reporter.__call__):
    global last
    time.sleep(max(each.done - last, 0) / 100e6)
    last = each.done
    call(reporter, each)
progress.Reporter.__call__ = slow
from objrepo.__main__ import main
main()
"""
"""The command, which shows progress from the start, and processes at most 100 MB a second."""

SIZE = 60_000_000
OPERATIONS = {
    "put": ["put", "large"],
    "get": ["get", "KEY", "-o", "copied"],
    "copy": ["copy", ".objrepo", "other"],
    "backup": ["backup", "other.zip"],
    "verify": ["verify"],
    "maintain": ["maintain"],
}


@pytest.fixture
def key(workdir, run_objrepo):
    """The key of a large object, which is also in the file `large`."""
    with open(workdir / "large", "wb") as file:
        file.write(b"x")
        file.truncate(SIZE)
    return run_objrepo("put", "large", "-q")[1].split()[0].decode()


def at_terminal(workdir, *command, columns=100):
    """Run a command at a terminal; return its status and what it printed there."""
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    child = pexpect.spawn(
        command[0], list(command[1:]), cwd=str(workdir), env=environment, dimensions=(24, columns), timeout=100
    )
    shown = child.read().decode()
    child.wait()
    return child.exitstatus, shown


def lines_of(shown):
    """Return the lines that were printed at a terminal, without the codes of colours and of cursor movements."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))


@pytest.mark.parametrize("name", OPERATIONS)
def test_bars_have_bytes_rate_and_time_within_one_object(workdir, key, name):
    arguments = [key if argument == "KEY" else argument for argument in OPERATIONS[name]]
    for columns in (100, 40):
        if name in {"copy", "backup"}:
            subprocess.run(["rm", "-rf", "other", "other.zip"], cwd=workdir, check=True)
        status, shown = at_terminal(workdir, sys.executable, "-c", IMPATIENT, *arguments, columns=columns)
        assert status == 0
        lines = lines_of(shown)
        bars = [line for line in lines if "%" in line]
        assert max(map(len, bars)) <= columns
        if name == "maintain" and columns == 40:
            return  # there is nothing left to be packed
        total = " of 60.0 MB" if columns == 100 else ""
        assert [line for line in bars if re.search(rf" \d\d:\d\d +[0-9.]+ MB{total}, [0-9.]+ MB/s", line)], bars


def test_a_fast_command_prints_only_its_result_at_a_terminal(workdir, run_objrepo):
    key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
    (workdir / "file").write_bytes(b"new content")
    assert at_terminal(workdir, *OBJREPO, "ls") == (0, f"{key}\r\n")
    assert at_terminal(workdir, *OBJREPO, "get", key, "-o", "copied") == (0, "")
    status, shown = at_terminal(workdir, *OBJREPO, "put", "file", "copied")
    assert status == 0
    assert lines_of(shown)[-2] == "2 files, 18 bytes: 1 new object, 11 bytes; 1 stored already"
    assert at_terminal(workdir, *OBJREPO, "put", "-q", "file")[1].count("\n") == 1


def test_lines_are_shown_without_a_terminal_and_nothing_with_quiet(workdir, key):
    def run(*arguments):
        command = [sys.executable, "-c", IMPATIENT, *arguments]
        done = subprocess.run(command, cwd=workdir, capture_output=True, text=True, check=True)
        return done.stderr.splitlines()

    lines = run("put", "large")
    assert re.fullmatch(r"put: [0-9.]+ MB, [0-9.]+ [kMG]B/s", lines[-2])
    assert lines[-1] == "1 file, 60.0 MB"
    lines = run("verify")
    assert [line for line in lines if re.fullmatch(rf"{key[:8]}: [0-9.]+ MB of 60.0 MB, .*/s, \d:\d\d:\d\d left", line)]
    assert lines[-1] == "verify: 1 of 1 object"
    for option in ("-q", "--quiet"):
        assert run("verify", option) == run(option, "put", "large") == []


def test_ctrl_c_at_a_terminal(workdir):
    child = pexpect.spawn(
        OBJREPO[0], [*OBJREPO[1:], "put", "-"], cwd=str(workdir), timeout=60, preexec_fn=default_signals
    )
    while not open_files(workdir / ".objrepo" / "sandbox", child.pid):
        time.sleep(0.001)
    child.send(b"some input\n")
    child.expect(b"some input")
    # A signal between Python's last look for signals and the system call that waits for input is seen after that call,
    # which another Ctrl-C interrupts.
    for _ in range(10):
        child.sendintr()
        if not child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=6):
            break
    shown = child.before.decode()
    child.wait()
    assert (child.exitstatus, child.signalstatus) == (130, None), shown
    assert lines_of(shown)[-2:] == ["objrepo: interrupted", ""]
