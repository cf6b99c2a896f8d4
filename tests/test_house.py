"""The house is tidy: nothing in it is longer than needed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONG_MODULE = 400
LONG_FUNCTION = 50
PYTHON_FILES = sorted(path for name in ("src", "tests", "benchmarks", "docs") for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_long_says_why(path):
    text = path.read_text()
    tree = ast.parse(text)
    if len(text.splitlines()) > LONG_MODULE:
        assert "long" in ast.get_docstring(tree).splitlines()[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LONG_FUNCTION, f"{node.name} is longer than a screen"
