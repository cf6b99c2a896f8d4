"""`python -m benchmarks [--quick] [--to FOLDER] [NAME...]`: measure, print tables, write JSON and plots."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Results
from benchmarks.plots import draw
from benchmarks.targets import check

DEFAULT = ("single", "concurrency", "bulk", "large", "growth", "imports")
NAMED_ONLY = ("remote", "profiles", "aiida_bucket", "web", "maintenance")
"""Benchmarks that need more than Python packages. They run only if named, and have their own JSON files."""


def machine() -> str:
    """Return a description of the machine: processors, file system of temporary files, system and Python."""
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [each for each in mounts if Path(tempfile.gettempdir()).is_relative_to(each[0])]
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {found[1] if found else platform.machine()}, {max(inside)[1]}, {system}"


def main() -> None:
    """Run the named benchmarks; by default those that need only Python packages."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*DEFAULT, *NAMED_ONLY, []], help="the benchmarks to run")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller repositories")
    parser.add_argument("--to", type=Path, default=Path("docs", "benchmarks"), help="the directory for JSON and plots")
    parser.add_argument("--on", type=Path, help="the directory for temporary files, which selects the disk")
    options = parser.parse_args()
    results = Results(options.quick)
    for benchmark in options.names or DEFAULT:
        with tempfile.TemporaryDirectory(prefix="objrepo-bench-", dir=options.on) as folder:
            import_module(f"benchmarks.{benchmark}").run(results, Path(folder, benchmark))
    options.to.mkdir(parents=True, exist_ok=True)
    report = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": machine(),
        **results.as_json(),
    }
    if not options.names:
        rows = check(results)
        report["targets"] = [{"what": w, "measured": m, "target": t, "met": ok} for w, m, t, ok in rows]
        for what, measured, target, met in rows:
            print(f"{'met' if met else 'NOT':<6}{what:<70}{measured:>9.2f}   {target}")
    name = "-".join(options.names) if set(options.names) & set(NAMED_ONLY) else "results"
    (options.to / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(results, report["system"], options.to)


if __name__ == "__main__":
    main()
