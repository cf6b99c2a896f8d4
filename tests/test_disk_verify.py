"""Finding damaged objects and leftovers in a repository on disk."""

from __future__ import annotations

import os

from disk_objectstore import Container

from helpers import damaged_in_all_ways, flip, loose_file, own_pack
from objrepo.testing.fixtures import content_of


async def test_verify_reports_every_damaged_object_and_no_other(repo, folder):
    damaged, intact = await damaged_in_all_ways(repo, folder)
    report = await repo.verify()
    assert sorted(item.key for item in report.damaged) == sorted(damaged)
    assert report.objects == len(damaged) + len(intact)
    for key, content in intact.items():
        assert await repo.get(key, check=True) == content


async def test_quick_reports_missing_and_truncated_objects(repo, folder):
    _, intact = await damaged_in_all_ways(repo, folder)
    assert (await repo.verify(quick=True)).ok
    last = (await repo.put_many([content_of(1000, 9), b"the last"]))[-1]
    os.truncate(own_pack(folder), 1001)
    with Container(folder) as container:
        gone = container.add_objects_to_pack([b"in a pack of its own"])
    os.rename(folder / "packs" / "0", folder / "elsewhere")
    report = await repo.verify(quick=True)
    assert {last, *gone} <= {item.key for item in report.damaged}
    assert len(report.damaged) == 1 + len(gone) + 8 + 4
    assert not {item.key for item in report.damaged} & {key for key in intact if loose_file(folder, key).exists()}


async def test_a_damaged_copy_is_reported_although_another_is_intact(repo, folder):
    key = await repo.put(b"content")
    with Container(folder) as container:
        container.pack_all_loose()
    flip(loose_file(folder, key), 2)
    assert await repo.get(key, check=True) == b"content"
    assert [item.key for item in (await repo.verify()).damaged] == [key]


async def test_the_bytes_of_an_open_batch_are_no_leftover(repo, folder):
    async with repo.batch() as batch:
        await batch.put_many([b"%d" % number for number in range(10_000)])
        assert own_pack(folder).stat().st_size > 0  # without rows
        assert (await repo.verify()).leftovers == ()
    with own_pack(folder).open("ab") as pack:
        pack.write(b"left")
    assert [leftover.size for leftover in (await repo.verify()).leftovers] == [4]


async def test_leftovers_are_reported(repo, folder):
    assert (await repo.verify()).leftovers == ()
    keys = await repo.put_many([b"12345", b"123"])
    await repo.delete(keys[0])
    for name in ("sandbox/half", "duplicates/twice", "packs/7.lock", "packs/-1", "packs/what", "loose/stray"):
        (folder / name).write_bytes(b"..")
    found = {(leftover.kind, leftover.path, leftover.size) for leftover in (await repo.verify(quick=True)).leftovers}
    assert found == {
        ("orphaned bytes", str(own_pack(folder)), 5),
        ("temporary file", f"{folder}/sandbox/half", 2),
        ("duplicate", f"{folder}/duplicates/twice", 2),
        ("lock", f"{folder}/packs/7.lock", 2),
        ("interrupted repack", f"{folder}/packs/-1", 2),
        ("unknown file", f"{folder}/packs/what", 2),
        ("unknown file", f"{folder}/loose/stray", 2),
    }
