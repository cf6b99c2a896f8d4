"""README and docs: blocks of code and examples run, and pages agree with the project."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv

import pytest

import objrepo
from helpers import (
    PAGES_THAT_NEED_A_CLOUD,
    PAGES_THAT_NEED_AN_OBJECT_STORE,
    ROOT,
    SETUP_COMMAND,
    TEST_COMMAND,
    code_blocks,
    is_part_of_an_example,
    run,
    run_code_block,
)
from objrepo.testing import RepositoryContract

EXAMPLES = ROOT / "docs" / "examples"
FIRST_PAGES = {ROOT / "README.md", *(ROOT / "docs" / name for name in ("install.md", "start.md", "tutorial.md"))}


def blocks():
    """Find the blocks of code that run anywhere, and name each by its file and line."""
    elsewhere = PAGES_THAT_NEED_AN_OBJECT_STORE | PAGES_THAT_NEED_A_CLOUD | FIRST_PAGES
    return code_blocks({*(ROOT / "docs").rglob("*.md")} - elsewhere)


@pytest.mark.parametrize(("language", "code"), list(blocks()))
def test_every_block_of_code_runs_alone_and_twice(language, code, project, forked_commands):
    for _ in range(2):
        run_code_block(language, code, project, forked_commands)


@pytest.mark.timeout(300)  # dozens of commands
def test_the_first_pages_in_one_folder_in_any_order(project, forked_commands):
    first = [block.values for block in code_blocks(FIRST_PAGES)]
    for language, code in [*first, *reversed(first)]:
        run_code_block(language, code, project, forked_commands)


def test_the_tutorial_shows_the_programs_in_examples():
    parts = [
        code
        for page in code_blocks([ROOT / "docs" / "tutorial.md"])
        for kind, code in [page.values]
        if kind == "python"
    ]
    assert len(parts) > 5
    for code in parts:
        assert is_part_of_an_example(code), code


def test_each_extra_has_a_row_in_the_table_of_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(extras)


def test_figures_of_the_readme_are_those_of_the_results():
    report = json.loads((ROOT / "docs" / "benchmarks" / "results.json").read_text())
    medians = {(figure["work"], figure["implementation"]): figure["median"] for figure in report["figures"]}
    readme = (ROOT / "README.md").read_text()
    gets, puts, get = "1000 \u00d7 get 1 KiB at once, asyncio", "put 10,000 \u00d7 1 KiB", "get 1 KiB, packed"
    for text in (
        f"take {medians[gets, 'objrepo'] * 1e6:.0f} µs each",
        f"they take {medians[gets, 'Container per thread'] * 1e6:.0f} µs",
        f"take {medians[puts, 'objrepo put_many'] * 1e6:.0f} µs each",
        f"in one transaction, {medians[puts, 'SQLite blobs, one transaction'] * 1e6:.0f} µs",
        f"takes {medians[get, 'objrepo facade'] * 1e6:.0f} µs",
        f"takes {medians[get, 'aiida-core'] * 1e3:.2f} ms",
        f"({report['machine']}, Python {report['python']})",
    ):
        assert text in " ".join(readme.split()), text


NOTEBOOK = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
outputs = "".join(str(cell.get("outputs")) for cell in notebook.cells)
assert "b'a photo'" in outputs and outputs.count("<table>") >= 4, outputs
"""


def test_the_notebook(project):
    run([sys.executable, "-c", NOTEBOOK, ROOT / "docs" / "notebook.ipynb"], project)


def test_the_pages_have_blocks_of_code():
    assert len(list(blocks())) > 10


def test_ci_runs_the_test_command_of_the_readme():
    assert f"```sh\n{TEST_COMMAND}\n```" in (ROOT / "README.md").read_text()
    commands = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert TEST_COMMAND in commands
    assert any(command.startswith("nox -s engines ") for command in commands)


def sessions():
    """Return the names and the summaries of the sessions in `noxfile.py`, which needs nox to be imported."""
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if ast.unparse(decorator).startswith("nox.session"):
                options = decorator.keywords if isinstance(decorator, ast.Call) else ()
                names = [option.value.value for option in options if option.arg == "name"]
                yield (*names, node.name)[0], ast.get_docstring(node).splitlines()[0]


def test_the_table_of_sessions_is_that_of_the_noxfile():
    page = (ROOT / "docs" / "contributing.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", page, re.MULTILINE)
    assert rows == list(sessions())
    assert len(rows) > 10
    pythons = re.search(r"^PYTHONS = (.*)$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)[1]
    assert set(re.findall(r"`tests-(3\.\d+)`", page)) == set(ast.literal_eval(pythons))


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


def test_each_guarantee_names_existing_tests():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    promises = [line for line in re.findall(r"^\| .*", text, re.MULTILINE) if not line.startswith("| promise |")]
    assert len(promises) > 20
    for promise in promises:
        named = re.findall(r"`((?:engines/)?test_\w+\.py)::(?:(\w+)::)?(\w+)`", promise)
        assert named, promise
        for file, group, name in named:
            code = (ROOT / "tests" / file).read_text()
            assert re.search(rf"def {name}\(", code), (file, name)
            assert not group or f"class {group}" in code


def test_targets_of_links_exist():
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)


class TestExamples:
    def test_store_folder(self, project):
        (project / "files").mkdir()
        for number in range(100):
            (project / "files" / f"{number}.txt").write_bytes(b"%d" % number)
        out = run([sys.executable, EXAMPLES / "store_folder.py", "files", "repository"], project)
        assert len(out.splitlines()) == 100
        assert "100 objects" in run(["objrepo", "verify", "--repo", "repository"], project)

    def test_stream_through_pipes(self, project):
        """96 MiB, in less memory than 64 MiB."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        command = [sys.executable, ROOT / "tests" / "processes.py", EXAMPLES / "stream_through_pipes.py", "repository"]
        command.append(str(96 * 1024**2))
        out, peak = run(command, project, env=environment).splitlines()
        assert out.startswith(f"{96 * 1024**2} bytes through two pipes: ")
        assert int(peak) < 64 * 1024**2

    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_snapshots(self, project, loop):
        """The program of the tutorial."""
        program = [sys.executable, "-W", "error", EXAMPLES / f"snapshots_{loop}.py"]
        (project / "photos" / "sea").mkdir(parents=True)
        for number in range(50):
            (project / "photos" / "sea" / f"{number}.txt").write_bytes(b"%d" % number * 20_000)
        first = run([*program, "take", "photos"], project).strip()
        (project / "photos" / "new.txt").write_text("new")
        second = run([*program, "take", "photos"], project).strip()
        assert len(run([*program, "show", first], project).splitlines()) == 50
        assert "3 new.txt" in run([*program, "show", second], project)
        run([*program, "restore", second, "back"], project)
        run(["diff", "-r", "photos", "back"], project)
        failed = subprocess.run([*program, "restore", "0" * 64, "x"], cwd=project, capture_output=True, text=True)
        assert (failed.returncode, failed.stderr.startswith("the snapshot does not exist")) == (1, True)

    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_snapshots_report_errors_in_one_line(self, project, loop):
        program = [sys.executable, EXAMPLES / f"snapshots_{loop}.py"]
        (project / "file").write_text("[1]")
        no_snapshot = run(["objrepo", "put", "file", "--repo", "snapshots"], project).split()[0]
        for arguments, status, text in (
            ([], 2, "usage: "),
            (["take"], 2, "usage: "),
            (["restore", no_snapshot], 2, "usage: "),
            (["unknown"], 2, "usage: "),
            (["take", "nowhere"], 1, "nowhere is not a folder"),
            (["take", "file"], 1, "file is not a folder"),
            (["show", no_snapshot], 1, f"{no_snapshot} is the key of an object that is not a snapshot"),
            (["restore", run([*program, "take", "."], project).strip(), "file"], 1, "[Errno 17] File exists: 'file'"),
        ):
            failed = subprocess.run([*program, *arguments], cwd=project, capture_output=True, text=True)
            assert (failed.returncode, failed.stdout) == (status, "")
            assert failed.stderr.startswith(text)
            assert len(failed.stderr.splitlines()) == (1 if status == 1 else 2)

    def test_backup_script(self, project):
        out = run([sys.executable, EXAMPLES / "backup_script.py", "repository", "README.md", "README.md"], project)
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


def test_pages_and_plots_match_the_results(tmp_path):
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import comparison, plots
        from benchmarks.page import page
    finally:
        sys.path.remove(str(ROOT))
    report = json.loads((ROOT / "docs" / "benchmarks" / "results.json").read_text())
    assert (ROOT / "docs" / "performance.md").read_text() == page(report), "run: python -m benchmarks.page"
    text = comparison.PAGE.read_text()
    assert text == comparison.page(report, text), "run: python -m benchmarks.comparison"
    assert not report["quick"], "figures are those of a whole run"
    for stored in plots.FOLDER.glob("*.json"):
        plots.draw(*plots.load(json.loads(stored.read_text())), tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in plots.FOLDER.glob("*.svg")}, (
        "run: python -m benchmarks.plots"
    )


def test_the_page_of_errors_lists_every_message():
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(messages)
    page = messages.PAGE.read_text()
    assert page.endswith(messages.section()), "run: python docs/messages.py"
    names = {name for name in objrepo.__all__ if name.endswith("Error")}
    assert names == set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems make other calls")
def test_pictures_match_the_contract_and_the_calls(tmp_path):
    pictures = ROOT / "docs" / "pictures"
    run([sys.executable, pictures / "draw.py", "--to", tmp_path], ROOT)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_text() for path in pictures.glob("*.svg")}
    assert drawn == stored, "run: python docs/pictures/draw.py"
    for module in ("asgi", "repository", "key_list"):
        assert f">{module}<" in drawn["layers.svg"]
    for call in ("put_batch", "write_loose", "fsync"):
        assert call in drawn["put.svg"]
