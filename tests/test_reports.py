"""Reports: their properties, and their tables in notebooks."""

from __future__ import annotations

import pytest

from objrepo import DiskRepository
from objrepo.offload import Inline, Threads
from objrepo.reports import (
    CopyReport,
    DamagedObject,
    Progress,
    RepairReport,
    RepairStep,
    RepositoryInfo,
    VerifyReport,
    watching_reads,
)

DAMAGED = DamagedObject("key", "<reason>")


def test_a_report_is_ok_unless_an_object_is_damaged():
    assert VerifyReport(1, 1, ()).ok
    assert not VerifyReport(1, 1, (DAMAGED,)).ok
    assert CopyReport(objects=1, copied=1, size=1, damaged=()).ok
    assert not CopyReport(objects=1, copied=0, size=0, damaged=(DAMAGED,)).ok


@pytest.mark.parametrize("offload", [Inline, Threads])
async def test_reads_of_large_objects_are_watched_piece_by_piece(folder, offload):
    size = 5_000_000
    async with DiskRepository(folder, offload()) as repo:
        await repo.initialise()
        key = await repo.put(bytes(size))
        await repo.put(b"small")

        async def read():
            async with repo.open(key) as stream:
                async for _ in stream:
                    pass

        for use in (read, repo.verify):
            seen: list[Progress] = []
            with watching_reads(seen.append):
                await use()
            await use()  # which is not watched
            assert len(seen) > 2
            done = [progress.done for progress in seen]
            assert done == sorted(set(done))
            assert done[-1] == size
            assert {(progress.step, progress.total, progress.unit) for progress in seen} == {(key, size, "bytes")}


def test_quarantined_objects_are_lost():
    steps = tuple(
        RepairStep(action, action, "reason")
        for action in ("restored", "refilled", "quarantined", "recovered", "removed")
    )
    assert RepairReport(False, steps).lost == ("quarantined",)


def test_notebooks_show_reports_as_escaped_tables():
    html = RepositoryInfo(location="<b>here</b>", key_format="sha256", objects=1_234_567)._repr_html_()
    assert "<tr><th>location</th><td>&lt;b&gt;here&lt;/b&gt;</td></tr>" in html
    assert "<td>1,234,567</td>" in html
    nested = VerifyReport(1, 0, (DAMAGED,))._repr_html_()
    assert "<th>reason</th><td>&lt;reason&gt;</td>" in nested
    assert "<th>leftovers</th><td>none</td>" in nested


def test_notebooks_show_the_first_50_items_of_a_list():
    html = VerifyReport(100, 0, tuple(DamagedObject(f"key{n}", "reason") for n in range(100)))._repr_html_()
    assert "key49" in html
    assert "key50" not in html
    assert "and 50 more" in html
