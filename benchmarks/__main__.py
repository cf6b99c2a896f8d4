"""`python -m benchmarks [--quick] [--to FOLDER] [NAME...]`: race, print a table, write JSON and plots."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Results
from benchmarks.plots import draw
from benchmarks.promises import check

KINDS = ("single", "together", "bulk", "large", "growth", "imports")
APART = ("elsewhere", "profiles", "web")
"""Kinds that need more than Python packages; each is asked for by its name, and has a file of figures of its own."""


def main() -> None:
    """Run the kinds of work that are asked for, all of them unless told otherwise."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, *APART, []], help="which kinds of work to do")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller repositories")
    parser.add_argument("--to", type=Path, default=Path("docs", "benchmarks"), help="where JSON and plots go")
    parser.add_argument("--on", type=Path, help="on which disk to work; the system's folder for temporary files")
    options = parser.parse_args()
    results = Results(options.quick)
    for kind in options.kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="objrepo-bench-", dir=options.on) as folder:
            import_module(f"benchmarks.{kind}").run(results, Path(folder, kind))
    options.to.mkdir(parents=True, exist_ok=True)
    report = {"python": platform.python_version(), "machine": platform.machine(), **results.as_json()}
    if not options.kinds:
        rows = check(results)
        report["promises"] = [{"what": w, "measured": m, "promised": p, "kept": k} for w, m, p, k in rows]
        for what, measured, promised, kept in rows:
            print(f"{'kept' if kept else 'NOT':<6}{what:<70}{measured:>9.2f}   {promised}")
    name = "-".join(options.kinds) if set(options.kinds) & set(APART) else "results"
    (options.to / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(results, options.to)


if __name__ == "__main__":
    main()
