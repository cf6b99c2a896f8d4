"""Public names, and the modules that their import loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import objrepo


def test_every_public_name_can_be_imported_and_has_a_docstring():
    for name in objrepo.__all__:
        assert getattr(objrepo, name).__doc__
        assert name in dir(objrepo)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        objrepo.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["objrepo", "objrepo.disk", "objrepo.sync", "objrepo.memory", "objrepo.sandbox"])
def test_expensive_packages_are_imported_on_first_use(module):
    script = f"""
import sys, {module}
print([name for name in ("sqlalchemy", "disk_objectstore", "click", "rich", "aiofiles", "trio", "filelock", "asyncio")
   if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_import_adds_fewer_than_twice_the_modules_of_anyio():
    """Modules are counted, as measured times vary."""
    script = "import sys; before = set(sys.modules); import {0}; print(len(set(sys.modules) - before))"
    counts = {
        module: int(
            subprocess.run([sys.executable, "-c", script.format(module)], capture_output=True, check=True).stdout
        )
        for module in ("anyio", "objrepo")
    }
    assert counts["objrepo"] < 2 * counts["anyio"], counts
