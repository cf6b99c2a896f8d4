"""The time of an import, and of the first byte from a cold process. Each run is a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Results
from benchmarks.implementations import WarmContainer

MODULES = ("anyio", "objrepo", "objrepo.memory", "objrepo.disk", "objrepo.sync")
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
FIRST_BYTE = {
    "objrepo facade": "from objrepo.sync import SyncRepository; from objrepo import DiskRepository; "
    "from objrepo.offload import Inline; SyncRepository(DiskRepository({0!r}, Inline())).get_object_content({1!r})",
    "Container": "from disk_objectstore import Container; Container({0!r}).get_object_content({1!r})",
    "aiida-core": "from aiida.repository.backend import DiskObjectStoreRepositoryBackend as Backend; "
    "from disk_objectstore import Container; Backend(Container({0!r})).get_object_content({1!r})",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def run(results: Results, folder: Path) -> None:
    """Measure imports and first bytes."""
    rounds = 5 if results.quick else 21
    alternate(results, "import", {module: IMPORT.format(module) for module in MODULES}, rounds)
    key = WarmContainer(folder / "repository").put(b"content")
    statements = {
        name: TIMED.format(statement.format(str(folder / "repository"), key)) for name, statement in FIRST_BYTE.items()
    }
    alternate(results, "first byte from a cold process", statements, rounds)


def alternate(results: Results, work: str, scripts: dict[str, str], rounds: int) -> None:
    """Run scripts that print seconds, alternately."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(script: str) -> float:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
        return float(done.stdout.split()[-1])

    times: dict[str, list[float]] = {name: [] for name in scripts}
    for number in range(-1, rounds):
        for name, script in scripts.items():
            taken = seconds(script)
            if number >= 0:
                times[name].append(taken)
    print(work)
    for name, values in times.items():
        results.add(work, name, values)
