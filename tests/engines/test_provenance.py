"""A provenance of ten thousand nodes with files, in a profile of AiiDA on our storage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines.test_aiida import Profiles


@pytest.mark.timeout(300)
def test_provenance_is_stored_archived_and_imported(tmp_path):
    script = Path(__file__).with_name("provenance.py")
    mine, other = (Profiles(tmp_path / name) for name in ("mine", "other"))
    for profiles in (mine, other):
        profiles.setup("objrepo.sqlite_dos", filepath=profiles.folder / "storage")
    mine.run(sys.executable, script, "fill")
    mine.verdi("storage", "maintain", "--force")
    mine.run(sys.executable, script, "check")
    mine.verdi("archive", "create", "--all", tmp_path / "all.aiida")
    other.verdi("archive", "import", tmp_path / "all.aiida")
    other.run(sys.executable, script, "check")
