"""Every check of the project: `nox` runs all of them, `nox -s NAME` one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "architecture", "types", "tests", "docs", "dist"]

PYTHONS = ("3.11", "3.12", "3.13")
AT_ONCE = ("-n", str((os.cpu_count() or 1) + 1))
"""In how many processes tests are run: one more than there are processors, as some of them always wait for a disk."""


def install(session: nox.Session, *groups: str, extras: str = "cli") -> None:
    """Install the package with extras, and groups of tools (which the pip of an older Python cannot)."""
    tools = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups)
    session.install("-e", f".[{extras}]", *tools)


def run_tests(session: nox.Session) -> None:
    """Run the tests, in this process and in its children, under coverage."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *AT_ONCE, "--dist=worksteal", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format and the style."""
    install(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, of the package and of a file of user code."""
    install(session, "test", "types")
    session.install("nox")
    session.run("mypy")
    session.run("pyright")


@nox.session
def architecture(session: nox.Session) -> None:
    """Check that each room imports only from the floors below it, as `tool.importlinter` in `pyproject.toml` says."""
    install(session, "architecture")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python at hand; pytest's own options come after `--`."""
    run_tests(session)


for python in PYTHONS:  # `nox -s tests-3.13`
    nox.session(python=python, name=f"tests-{python}")(run_tests)


@nox.session(name="tests-oldest")
def tests_oldest(session: nox.Session) -> None:
    """Run the tests with the oldest release of each dependency, and of those of the extras, that is allowed."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = [project["optional-dependencies"][name] for name in ("cli", "s3", "asgi", "serve", "fsspec", "otel")]
    bounds = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    tools = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test")
    session.install("-e", ".[cli]", *(bound.replace(">=", "==") for bound in bounds), *tools)
    session.run("pytest", *AT_ONCE, "--dist=worksteal", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Draw the pictures, and build the pages into `.docs`; a warning, or a link to nowhere, is an error."""
    install(session, "docs", extras="cli,asgi,fsspec,otel")
    session.run("python", "docs/pictures/draw.py", "--to", str(Path(session.create_tmp())))
    session.run("sphinx-build", "--fail-on-warning", "--nitpicky", "--fresh-env", "-b", "html", "docs", ".docs")


@nox.session
def dist(session: nox.Session) -> None:
    """Build wheel and sdist, look into both, and do with each what the README says, in fresh environments."""
    session.install("build", "check-wheel-contents", "twine")
    folder = Path(session.create_tmp(), "dist")
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder), ".")
    built = [str(path) for path in sorted(folder.iterdir())]
    session.run("twine", "check", "--strict", *built)
    session.run("check-wheel-contents", *(path for path in built if path.endswith(".whl")))
    session.run("python", "tests/dist/check.py", *built)


@nox.session
def crash(session: nox.Session) -> None:
    """Break things on purpose: kills, many processes, files of others; `-- --seconds 600` for more kills."""
    install(session, "test")
    session.install("aiida-core>=2.9")
    with session.chdir(Path("tests", "crash")):
        session.run("python", "kills.py", *(session.posargs or ["--kills", "1000"]))
        session.run("python", "stops.py")
        session.run("python", "many.py")
        session.run("python", "mutate.py", "--count", "10000")
    session.run("pytest", "tests/test_hostile_keys.py", "--keys", "100000", "--timeout", "3600")


ENGINES = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "ceph": "ceph-common",
    "radosgw": "radosgw",
    "monmaptool": "ceph-base",
    "faketime": "faketime",
    "pg_dump": "postgresql",
    "rsync": "rsync",
    "curl": "curl",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}


@nox.session
def engines(session: nox.Session) -> None:
    """Run the tests that need more than Python, on the real thing, which is installed where that is possible.

    That is Ceph for objects, PostgreSQL and aiida-core for profiles, and Chromium for the page to look at.
    """
    missing = {package for program, package in ENGINES.items() if shutil.which(program) is None}
    if missing:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            session.skip(f"install {', '.join(sorted(missing))} first, or let root run this on Debian")
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        session.run("apt-get", "update", "--quiet", env=env, external=True)
        install_them = ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends")
        session.run(*install_them, *sorted(missing), env=env, external=True)
    install(session, "test", "browser", extras="cli,aiida,s3,serve")
    session.run("pytest", "--engines", "tests/engines", "-n", "2", "--dist=loadfile", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Have thousands of tasks use one repository for an hour, or `-- --seconds N`; what it took is drawn."""
    install(session, "test")
    session.install("matplotlib")
    with session.chdir(Path("tests", "crash")):
        session.run("python", "soak.py", "--plot", str(Path(session.create_tmp(), "soak.png")), *session.posargs)


# Without those that want an SSH server on this machine.
AIIDA_TESTS = (
    "tests/repository",
    "tests/orm/nodes",
    "tests/storage/sqlite_dos",
    "tests/tools/archive/test_repository.py",
)


@nox.session
def aiida(session: nox.Session) -> None:
    """Run aiida-core's tests of repositories and of nodes with files over this package: `nox -s aiida -- CHECKOUT`."""
    if len(session.posargs) != 1:
        session.error("give the path of a checkout of aiida-core: nox -s aiida -- PATH")
    session.install("-e", ".", "aiida-core[tests]")
    env = {"AIIDA_PATH": session.create_tmp(), "PYTHONPATH": str(Path("tests", "aiida_core").absolute())}
    with session.chdir(session.posargs[0]):
        session.run("pytest", "-p", "swapped_backends", "-o", "addopts=", *AIIDA_TESTS, "-k", "not ssh", env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Race against the peers; `-- --quick` for less than two minutes, `-- single` for one kind of work."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs, env={"AIIDA_PATH": session.create_tmp()})
