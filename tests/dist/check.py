"""Look into a wheel and an sdist, and use each in a fresh environment as the README says: check.py FILE FILE."""

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

DOORS = {
    "aiida": ["verdi", "plugin", "list", "aiida.storage", "objrepo.sqlite_dos"],
    "cli": ["objrepo", "du", "--help"],
    "fsspec": ["python", "-c", "import fsspec; fsspec.filesystem('objrepo', repository='.')"],
    "otel": ["python", "-c", "from objrepo.otel import telemetry; telemetry()"],
    "s3": ["python", "-c", "from objrepo import S3Repository; import obstore, botocore; S3Repository('photos')"],
    "serve": ["python", "-c", "from objrepo.asgi import ObjectApp; import uvicorn; import objrepo.cli.serve"],
}
"""What shows that an extra has brought what it is for."""


def main(paths: list[Path]) -> None:
    """Check both files."""
    (wheel,) = (path for path in paths if path.suffix == ".whl")
    (sdist,) = (path for path in paths if path.name.endswith(".tar.gz"))
    look_into_wheel(wheel)
    look_into_sdist(sdist)
    with tempfile.TemporaryDirectory(prefix="objrepo-dist-") as place:
        use_wheel(wheel, Path(place, "wheel"))
        use_sdist(sdist, Path(place, "sdist"))
        for extras in extras_of_the_pages():
            use_extras(wheel, extras, Path(place, extras))
    print("both are as they should be")


def look_into_wheel(wheel: Path) -> None:
    """Check that the package is there, whole, with what its metadata promises, and nothing else."""
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
    assert not re.search(r"\]\((?!https://|#)", metadata.get_payload()), "a link that leads nowhere from elsewhere"
    for line in ("objrepo = objrepo.__main__:main", "[aiida.storage]", "[fsspec.specs]"):
        assert line in entry_points


def look_into_sdist(sdist: Path) -> None:
    """Check that whoever has only this can build, test and document, and that nothing came in that is not the project's."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "noxfile.py", "docs/conf.py"):
        assert name in names, name
    tops = {name.split("/")[0] for name in names}
    known = {"src", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "noxfile.py"}
    assert tops <= known | {"PKG-INFO", ".gitignore"}, tops
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def use_wheel(wheel: Path, place: Path) -> None:
    """Install the wheel, and run every block of Python of the README away from the source."""
    environment = fresh_environment(place)
    run(["pip", "install", "--quiet", f"{wheel}[cli]", "trio"], place, environment)
    readme = (ROOT / "README.md").read_text()
    (place / "README.md").write_text(readme)
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        run(["python", "-W", "error", "-c", block], place, environment)
    key = run(["objrepo", "put", "README.md"], place, environment).split()[0]
    assert run(["objrepo", "cat", key], place, environment) == readme
    assert run(["objrepo", "--version"], place, environment).split()[-1] in wheel.name
    where = run(["python", "-c", "import objrepo; print(objrepo.__file__)"], place, environment)
    assert where.startswith(str(place)), where


def use_sdist(sdist: Path, place: Path) -> None:
    """Unpack the sdist, and do there what the README says first."""
    environment = fresh_environment(place)
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.name.startswith("objrepo-"))
    out = run(["bash", "-c", SETUP_COMMAND], source, environment)
    key = re.search(r"^([0-9a-f]{64})  README.md$", out, re.MULTILINE)
    assert key is not None
    assert run(["objrepo", "cat", key[1]], source, environment) == (source / "README.md").read_text()


def extras_of_the_pages() -> list[str]:
    """Find what the pages tell to install."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return sorted({extras for page in pages for extras in re.findall(r"pip install 'objrepo\[(.*?)\]'", page.read_text())})


def use_extras(wheel: Path, extras: str, place: Path) -> None:
    """Install the wheel with extras, and go through the door that each of them opens."""
    environment = fresh_environment(place)
    run(["pip", "install", "--quiet", f"{wheel}[{extras}]"], place, environment)
    for extra in extras.split(","):
        run(DOORS[extra], place, environment)


def fresh_environment(place: Path) -> dict[str, str]:
    """Make a virtual environment, and return the variables of who uses it."""
    venv.create(place / "environment", with_pip=True)
    path = f"{place / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, "PATH": path}


def run(command: list[str], place: Path, environment: dict[str, str]) -> str:
    """Run a program of the environment, and return what it prints."""
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    main([Path(path).absolute() for path in sys.argv[1:]])
