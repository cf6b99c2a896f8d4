"""The checks of the project: `nox` runs the default ones, `nox -s NAME` a single one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "architecture", "types", "coverage", "docs", "dist"]

PYTHONS = ("3.11", "3.12", "3.13")
PROCESSES = ("-n", str((os.cpu_count() or 1) + 1))
"""The number of test processes: one more than processors, as some tests always wait for the disk."""


def install(session: nox.Session, *groups: str, extras: str = "cli") -> None:
    """Install the package with extras and dependency groups, which older versions of pip do not support."""
    tools = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), *groups)
    session.install("-e", f".[{extras}]", *tools)


def run_tests(session: nox.Session) -> None:
    """Run the tests."""
    install(session, "test")
    session.run("pytest", *PROCESSES, "--dist=worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style and spelling; `docs/words.txt` lists words that the project does not use."""
    install(session, "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", "README.md", "CHANGELOG.md", "docs", "src", "tests", "benchmarks", "noxfile.py")


# fsspec has no type hints, so those of classes that are derived from its classes cannot be complete; aiida-core is not
# installed where types are checked.
SUBCLASSES_OF_FSSPEC = {
    "objrepo.fsspec.ObjectFileSystem",
    "objrepo.fsspec.files.ObjectFile",
    "objrepo.fsspec.filesystem.ObjectFileSystem",
    "objrepo.fsspec.filesystem.ObjectFileSystem.transaction_type",
    "objrepo.fsspec.filesystem._Transaction",
}


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package and of a file of user code, and that every public name has one."""
    install(session, "test", "types")
    session.install("nox")
    session.run("mypy")
    session.run("pyright")
    verify = ("pyright", "--verifytypes", "objrepo", "--ignoreexternal", "--outputjson")
    output = session.run(*verify, silent=True, success_codes=(0, 1))
    assert isinstance(output, str)
    symbols = json.loads(output[output.index("{") :])["typeCompleteness"]["symbols"]
    names = {each["name"]: each["isTypeKnown"] and not each["isTypeAmbiguous"] for each in symbols}
    checked = {name for name in names if not name.startswith("objrepo.aiida.")} - SUBCLASSES_OF_FSSPEC
    incomplete = sorted(name for name in checked if not names[name])
    if not checked or incomplete:
        session.error(f"type hints are missing or incomplete: {', '.join(incomplete)}")
    session.log(f"all {len(checked)} names have complete types")


@nox.session
def architecture(session: nox.Session) -> None:
    """Check the import contracts in `pyproject.toml`."""
    install(session, "architecture")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the current Python; options of pytest come after `--`."""
    run_tests(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and their child processes under coverage, which must be 95 %."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PROCESSES, "--dist=worksteal", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


for python in PYTHONS:  # `nox -s tests-3.13`
    nox.session(python=python, name=f"tests-{python}")(run_tests)


@nox.session(name="tests-oldest")
def tests_oldest(session: nox.Session) -> None:
    """Run the tests with the oldest allowed release of every dependency."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = [
        project["optional-dependencies"][name]
        for name in ("cli", "http", "s3", "azure", "gcs", "asgi", "serve", "fsspec", "otel")
    ]
    bounds = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    tools = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test")
    session.install("-e", ".[cli]", *(bound.replace(">=", "==") for bound in bounds), *tools)
    session.run("pytest", *PROCESSES, "--dist=worksteal", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Draw the pictures and build the pages into `.docs`; warnings and broken links are errors."""
    install(session, "docs", extras="cli,asgi,fsspec,otel")
    session.run("python", "docs/pictures/draw.py", "--to", str(Path(session.create_tmp())))
    session.run("sphinx-build", "--fail-on-warning", "--nitpicky", "--fresh-env", "-b", "html", "docs", ".docs")


@nox.session
def dist(session: nox.Session) -> None:
    """Build wheel and sdist, check their contents, and run the examples of the README with each."""
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
    """Run the crash tests: kills, many processes, corrupted files; `-- --seconds 600` for more kills."""
    install(session, "test")
    session.install("aiida-core>=2.9")
    with session.chdir(Path("tests", "crash")):
        session.run("python", "kills.py", *(session.posargs or ["--kills", "1000"]))
        session.run("python", "buckets.py")
        session.run("python", "stops.py")
        session.run("python", "many.py")
        session.run("python", "mutate.py", "--count", "10000")
    session.run("pytest", "tests/test_hostile_keys.py", "--keys", "100000", "--timeout", "3600")
    session.run("pytest", "tests/test_bucket_schedules.py", "--timeout", "3600", env={"OBJREPO_SCHEDULES": "1000"})


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
    "node": "nodejs",
    "npm": "npm",
}
AZURITE = "azurite@3.37.0"


@nox.session
def engines(session: nox.Session) -> None:
    """Run the tests that need Ceph, Azurite, PostgreSQL, aiida-core or Chromium.

    Missing programs are installed by apt-get, if this runs as root on Debian; Azurite, once, by npm.
    """
    missing = {package for program, package in ENGINES.items() if shutil.which(program) is None}
    if missing:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            session.skip(f"missing {', '.join(sorted(missing))}: install them, or run this as root on Debian")
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        session.run_install("apt-get", "update", "--quiet", env=env, external=True)
        apt_install = ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends")
        session.run_install(*apt_install, *sorted(missing), env=env, external=True)
    azurite = Path(session.cache_dir, AZURITE).absolute()
    programs = azurite / "node_modules" / ".bin"
    if not (programs / "azurite-blob").exists():
        azurite.mkdir(parents=True, exist_ok=True)
        npm_install = ("npm", "install", "--no-fund", "--no-audit", "--loglevel=error", "--omit=optional")
        session.run_install(*npm_install, "--prefix", str(azurite), AZURITE, external=True)
    install(session, "engines", extras="cli,aiida,s3,azure,gcs,serve")
    env = {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}
    session.run("pytest", "--engines", "tests/engines", "-n", "2", "--dist=loadfile", *session.posargs, env=env)


@nox.session
def soak(session: nox.Session) -> None:
    """Use one repository by thousands of tasks for an hour, or `-- --seconds N`, and plot memory, files and threads."""
    install(session, "test")
    session.install("matplotlib")
    with session.chdir(Path("tests", "crash")):
        session.run("python", "soak.py", "--plot", str(Path(session.create_tmp(), "soak.png")), *session.posargs)


# Without tests that need an SSH server.
AIIDA_TESTS = (
    "tests/repository",
    "tests/orm/nodes",
    "tests/storage/sqlite_dos",
    "tests/tools/archive/test_repository.py",
)


@nox.session
def aiida(session: nox.Session) -> None:
    """Run aiida-core's tests of repositories and nodes on this package: `nox -s aiida -- CHECKOUT`."""
    if len(session.posargs) != 1:
        session.error("give the path of a checkout of aiida-core: nox -s aiida -- PATH")
    session.install("-e", ".", f"{session.posargs[0]}[tests]")
    env = {"AIIDA_PATH": session.create_tmp(), "PYTHONPATH": str(Path("tests", "aiida_core").absolute())}
    with session.chdir(session.posargs[0]):
        session.run("pytest", "-p", "swapped_backends", "-o", "addopts=", *AIIDA_TESTS, "-k", "not ssh", env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; `-- --quick` takes less than two minutes, `-- single` runs one group."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs, env={"AIIDA_PATH": session.create_tmp()})
