"""README and docs: every block of code is run, every example too, and what they say of the project is so."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import objrepo
from objrepo.testing import RepositoryContract

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
TEST_COMMAND = "pip install nox && nox -s tests"
SETUP_COMMAND = "pip install '.[cli]' && objrepo put README.md src"


NEED_ENGINES = {ROOT / "docs" / name for name in ("aiida.md", "buckets.md", "web.md")}
"""Pages whose code is run where there is an object store: by `tests/engines/test_pages.py`."""


def blocks():
    """Find the blocks of code that run anywhere, and name each by its file and line."""
    return blocks_of({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - NEED_ENGINES)


def blocks_of(paths):
    for path in sorted(paths):
        text = path.read_text()
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            yield pytest.param(*match.groups(), id=f"{path.relative_to(ROOT)}:{line}")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that has what the project has, to run things in."""
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(command, place, **options):
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "code"), list(blocks()))
def test_every_block_of_code(language, code, place):
    run_block(language, code, place)


def run_block(language, code, place):
    if language.startswith("{"):  # a directive of the pages, which building them runs
        return
    assert language in {"python", "sh", "text"}, "a block says what it is"
    if language == "text" or code.strip() in (TEST_COMMAND, SETUP_COMMAND):
        return  # the one runs this very test, the other has a test of its own
    if language == "sh":
        run(["bash", "-eu", "-c", code], place)  # without pipefail: `| head` ends a program that writes on
    elif "RepositoryContract" in code:
        (place / "test_block.py").write_text(code)
        (place / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
        assert "passed" in run([sys.executable, "-m", "pytest", "-q", "-k", "test_what_is_put_is_got"], place)
    else:
        run([sys.executable, "-W", "error", "-c", code], place)


NOTEBOOK = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
outputs = "".join(str(cell.get("outputs")) for cell in notebook.cells)
assert "b'a photo'" in outputs and outputs.count("<table>") >= 4, outputs
"""


def test_the_notebook(place):
    run([sys.executable, "-c", NOTEBOOK, ROOT / "docs" / "notebook.ipynb"], place)


def test_there_are_blocks_of_code():
    assert len(list(blocks())) > 10


def test_ci_runs_the_test_command_of_the_readme():
    assert f"```sh\n{TEST_COMMAND}\n```" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().endswith(f"\n{TEST_COMMAND}\nnox -s engines\n")


def test_the_setup_command_of_the_readme(tmp_path):
    """In a fresh virtual environment, from a clean copy."""
    assert f"```sh\n{SETUP_COMMAND}\n```" in (ROOT / "README.md").read_text()
    names = ("pyproject.toml", "README.md", "LICENSE", "src")
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / "venv", with_pip=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment["PATH"] = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    out = run(["bash", "-c", SETUP_COMMAND], tmp_path, env=environment)
    lines = dict(reversed(line.split("  ")) for line in out.splitlines() if re.fullmatch(r"[0-9a-f]{64}  .*", line))
    assert "README.md" in lines
    assert "src/objrepo/__init__.py" in lines
    assert run(["objrepo", "cat", lines["README.md"]], tmp_path, env=environment) == (ROOT / "README.md").read_text()
    installed = run([tmp_path / "venv" / "bin" / "pip", "list", "--format=freeze"], tmp_path, env=environment)
    assert "objrepo==" in installed
    assert "trio" not in installed
    assert "aiida" not in installed


def test_each_guarantee_names_tests_that_there_are():
    text = (ROOT / "docs" / "guarantees.md").read_text().split("## How it is tested")[0]
    promises = re.findall(r"^- .*?(?=^- |^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(promises) > 20
    for promise in promises:
        named = re.findall(r"`((?:engines/)?test_\w+\.py)::(?:(\w+)::)?(\w+)`", promise)
        assert named, promise
        for file, group, name in named:
            code = (ROOT / "tests" / file).read_text()
            assert re.search(rf"def {name}\(", code), (file, name)
            assert not group or f"class {group}" in code


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)


class TestExamples:
    def test_store_folder(self, place):
        (place / "files").mkdir()
        for number in range(100):
            (place / "files" / f"{number}.txt").write_bytes(b"%d" % number)
        out = run([sys.executable, EXAMPLES / "store_folder.py", "files", "repository"], place)
        assert len(out.splitlines()) == 100
        assert "100 objects" in run(["objrepo", "verify", "--repo", "repository"], place)

    def test_stream_through_pipes(self, place):
        """A gibibyte, in less memory than 64 MiB."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        command = [sys.executable, ROOT / "tests" / "processes.py", EXAMPLES / "stream_through_pipes.py", "repository"]
        out, peak = run(command, place, env=environment).splitlines()
        assert out.startswith(f"{1024**3} bytes through two pipes: ")
        assert int(peak) < 64 * 1024**2

    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_snapshots(self, place, loop):
        """The program of the tutorial."""
        program = [sys.executable, "-W", "error", EXAMPLES / f"snapshots_{loop}.py"]
        (place / "photos" / "sea").mkdir(parents=True)
        for number in range(50):
            (place / "photos" / "sea" / f"{number}.txt").write_bytes(b"%d" % number * 20_000)
        first = run([*program, "take", "photos"], place).strip()
        (place / "photos" / "new.txt").write_text("new")
        second = run([*program, "take", "photos"], place).strip()
        assert len(run([*program, "show", first], place).splitlines()) == 50
        assert "3 new.txt" in run([*program, "show", second], place)
        run([*program, "restore", second, "back"], place)
        run(["diff", "-r", "photos", "back"], place)
        failed = subprocess.run([*program, "restore", "0" * 64, "x"], cwd=place, capture_output=True, text=True)
        assert (failed.returncode, failed.stderr.startswith("the snapshot does not exist")) == (1, True)

    def test_backup_script(self, place):
        out = run([sys.executable, EXAMPLES / "backup_script.py", "repository", "README.md", "README.md"], place)
        assert out.splitlines()[-1].endswith("bytes in 1 objects")


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFolderRepository(RepositoryContract):
    """The example of a backend keeps the whole contract, in less than 70 lines."""

    @pytest.fixture
    def repository(self, tmp_path):
        return load_example("folder_repository").FolderRepository(tmp_path / "folder")

    def test_it_is_short(self):
        assert len((EXAMPLES / "folder_repository.py").read_text().splitlines()) < 70


def test_the_pages_with_figures_are_written_from_them():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import comparison
        from benchmarks.page import page
    finally:
        sys.path.remove(str(ROOT))
    report = json.loads((ROOT / "docs" / "benchmarks" / "results.json").read_text())
    assert (ROOT / "docs" / "performance.md").read_text() == page(report), "run: python -m benchmarks.page"
    text = comparison.PAGE.read_text()
    assert text == comparison.page(report, text), "run: python -m benchmarks.comparison"
    assert not report["quick"], "figures are those of a whole run"


def test_the_page_of_errors_lists_every_message():
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(messages)
    page = messages.PAGE.read_text()
    assert page.endswith(messages.section()), "run: python docs/messages.py"
    names = {name for name in objrepo.__all__ if name.endswith("Error")}
    assert names == set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))


def test_pictures_are_drawn_from_the_contract():
    picture = (ROOT / "docs" / "pictures" / "layers.svg").read_text()
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    for module in re.split(r" [|:] ", " | ".join(contract["layers"]).removeprefix("__main__ : ")):
        assert f">{module}<" in picture, "run: python docs/pictures/draw.py"
