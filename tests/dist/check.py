"""Check a wheel and an sdist, and use each in a new environment as in the README: check.py FILE FILE."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SETUP_COMMAND = "pip install '.[cli]' && objrepo put README.md src"

COMMANDS = {
    "aiida": ["verdi", "plugin", "list", "aiida.storage", "objrepo.sqlite_dos"],
    "asgi": ["python", "-c", "from objrepo.asgi import ObjectApp; from objrepo import MemoryRepository; ObjectApp(MemoryRepository())"],
    "azure": ["python", "-c", "from objrepo import AzureRepository; import obstore, azure.identity; AzureRepository('photos', account='account')"],
    "cli": ["objrepo", "du", "--help"],
    "fsspec": ["python", "-c", "import fsspec; fsspec.filesystem('objrepo', repository='.')"],
    "gcs": ["python", "-c", "from objrepo import GCSRepository; import obstore, google.auth.transport.requests; GCSRepository('photos')"],
    "http": ["python", "-c", "from objrepo import HTTPRepository; import httpx; HTTPRepository('http://localhost:8000')"],
    "otel": ["python", "-c", "from objrepo.otel import telemetry; telemetry()"],
    "s3": ["python", "-c", "from objrepo import S3Repository; import obstore, botocore; S3Repository('photos')"],
    "serve": ["python", "-c", "from objrepo.asgi import ObjectApp; import uvicorn; import objrepo.cli.serve"],
}
"""For each extra, a command that needs its dependencies."""


def main(paths: list[Path]) -> None:
    """Check both files."""
    (wheel,) = (path for path in paths if path.suffix == ".whl")
    (sdist,) = (path for path in paths if path.name.endswith(".tar.gz"))
    check_wheel(wheel)
    check_sdist(sdist)
    with tempfile.TemporaryDirectory(prefix="objrepo-dist-") as folder:
        use_wheel(wheel, Path(folder, "wheel"))
        use_sdist(sdist, Path(folder, "sdist"))
        for extras in documented_extras():
            use_extras(wheel, extras, Path(folder, extras))
    print("both files are correct")


def check_wheel(wheel: Path) -> None:
    """Check that the wheel has the whole package with its metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    package = {name for name in names if not name.startswith(f"{info}/")}
    tracked = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "objrepo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == tracked, package ^ tracked
    assert {"objrepo/py.typed", "objrepo/asgi/page.html"} <= package
    assert f"{info}/licenses/LICENSE" in names
    for field in ("Summary", "License-Expression", "Keywords", "Requires-Python", "Description-Content-Type"):
        assert metadata[field], field
    assert {line.split(",")[0] for line in metadata.get_all("Project-URL")} >= {"Source", "Changelog", "Documentation"}
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert not re.search(r"\]\((?!https://|#)", metadata.get_payload()), "a relative link, which works only in the source tree"
    for line in ("objrepo = objrepo.__main__:main", "[aiida.storage]", "[fsspec.specs]"):
        assert line in entry_points


def check_sdist(sdist: Path) -> None:
    """Check that the sdist has all that building, testing and documenting need, and no other files."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "noxfile.py", "docs/conf.py"):
        assert name in names, name
    tops = {name.split("/")[0] for name in names}
    known = {"src", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "noxfile.py"}
    assert tops <= known | {"PKG-INFO", ".gitignore"}, tops
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def use_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel, and run every Python block of the README outside of the source tree."""
    environment = new_environment(folder)
    run(["pip", "install", "--quiet", f"{wheel}[cli]", "trio"], folder, environment)
    readme = (ROOT / "README.md").read_text()
    (folder / "README.md").write_text(readme)
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        run(["python", "-W", "error", "-c", block], folder, environment)
    key = run(["objrepo", "put", "README.md"], folder, environment).split()[0]
    assert run(["objrepo", "cat", key], folder, environment) == readme
    assert run(["objrepo", "--version"], folder, environment).split()[-1] in wheel.name
    where = run(["python", "-c", "import objrepo; print(objrepo.__file__)"], folder, environment)
    assert where.startswith(str(folder)), where


def use_sdist(sdist: Path, folder: Path) -> None:
    """Unpack the sdist, and run the first commands of the README in it."""
    environment = new_environment(folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.name.startswith("objrepo-"))
    out = run(["bash", "-c", SETUP_COMMAND], source, environment)
    key = re.search(r"^([0-9a-f]{64})  README.md$", out, re.MULTILINE)
    assert key is not None
    assert run(["objrepo", "cat", key[1]], source, environment) == (source / "README.md").read_text()


def documented_extras() -> list[str]:
    """Return the extras in the table of the documentation, and two that are used together."""
    page = (ROOT / "docs" / "install.md").read_text()
    return [*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE), "aiida,s3"]


def use_extras(wheel: Path, extras: str, folder: Path) -> None:
    """Install the wheel with extras, and run the command of each."""
    environment = new_environment(folder)
    run(["pip", "install", "--quiet", f"{wheel}[{extras}]"], folder, environment)
    for extra in extras.split(","):
        run(COMMANDS[extra], folder, environment)


def new_environment(folder: Path) -> dict[str, str]:
    """Make a virtual environment, and return the environment variables for its use."""
    venv.create(folder / "environment", with_pip=True)
    path = f"{folder / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "PATH": path}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a program of the environment, and return its output."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    main([Path(path).absolute() for path in sys.argv[1:]])
