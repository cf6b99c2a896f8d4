"""How long `import objrepo` takes beside `import anyio`: python benchmarks/imports.py [RUNS].

Each run is a fresh interpreter that times the import itself; the modules take turns, so that a machine whose speed
drifts slows all of them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

MODULES = ("anyio", "objrepo", "objrepo.memory", "objrepo.disk", "objrepo.sync")
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """Import a module in a fresh interpreter."""
    return float(subprocess.run([sys.executable, "-c", TIMED.format(module)], capture_output=True, check=True).stdout)


def main(runs: int = 21) -> None:
    """Print the medians and how they compare with that of anyio."""
    for module in MODULES:
        seconds(module)  # compiles what has not been compiled yet
    times = {module: [] for module in MODULES}
    for _ in range(runs):
        for module in MODULES:
            times[module].append(seconds(module))
    anyio = statistics.median(times["anyio"])
    for module, values in times.items():
        median = statistics.median(values)
        print(f"import {module:<16}{median * 1000:7.1f} ms{median / anyio:6.2f} x anyio")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
