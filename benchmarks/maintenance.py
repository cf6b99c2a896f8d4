"""The time and memory of packing many loose objects."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Figure, Results
from objrepo.sync import open_repository

MAINTAIN = """
import json, re, sys, time
from objrepo.sync import open_repository

def memory():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) * 1024

with open_repository(sys.argv[1]) as warm_up:
    warm_up.initialise()
    warm_up.put(b"loose")
    warm_up.maintain()
with open_repository(sys.argv[2]) as repo:
    repo.is_initialised
    reports, done, total = 0, 0, 0

    def show(progress):
        global reports, done, total
        reports, done, total = reports + 1, progress.done, progress.total

    before, start = memory(), time.perf_counter()
    report = repo.maintain(progress=show)
    print(json.dumps([report.steps[0].objects, time.perf_counter() - start, memory() - before, reports, done == total]))
"""


def run(results: Results, folder: Path) -> None:
    """Pack repositories of different sizes, each in a process of its own."""
    for size in (10_000, 50_000) if results.quick else (100_000, 300_000, 1_000_000):
        path = folder / str(size)
        fill(path, size)
        command = [sys.executable, "-c", MAINTAIN, folder / f"warm-up {size}", path]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        objects, seconds, peak, reports, complete = json.loads(done.stdout)
        assert complete
        assert objects == size
        mebibytes = peak / 1024**2
        print(f"maintain of {size:,} loose objects: {mebibytes:.1f} MiB above idle, {reports:,} reports of progress")
        results.add("maintain: pack loose objects of 1 KiB, for each", f"{size:,} objects", [seconds / size])
        work = "memory of maintain, MiB above idle"
        results.figures.append(Figure(work, f"{size:,} objects", mebibytes, mebibytes, mebibytes, 1))


def fill(path: Path, size: int) -> None:
    """Create a repository of loose objects of 1 KiB, without the fsync that `put` needs for each."""
    with open_repository(path) as repo:
        repo.initialise()
    for number in range(256):
        (path / "loose" / f"{number:02x}").mkdir()
    for number in range(size):
        content = b"%1024d" % number
        key = hashlib.sha256(content).hexdigest()
        (path / "loose" / key[:2] / key[2:]).write_bytes(content)
