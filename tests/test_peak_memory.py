"""Objects of any size need a bounded amount of memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from objrepo.testing.fixtures import content_of

MEBIBYTE = 1024 * 1024


PEAK = f"""
import sys, anyio, objrepo, pathlib
sys.path.insert(0, {os.path.dirname(__file__)!r})
from processes import peak_memory
from objrepo.disk.container import PatchedContainer  # imported on first use, which is not measured
MEBIBYTE = {MEBIBYTE}

async def chunks():
    for _ in range(64 * 16):
        await anyio.sleep(0)
        yield bytes(MEBIBYTE // 16)

async def main(folder, source, work):
    async with objrepo.DiskRepository(folder) as repo:
        await repo.initialise()
        key = await repo.put(b"warm")
        await repo.get(key)
        before = peak_memory()
        if work == "put a path":
            await repo.put(pathlib.Path(source))
        elif work == "put an async source":
            await repo.put(chunks())
        else:
            key = [key async for key in repo.keys() if await repo.size(key) > 100][0]
            before = peak_memory()
            size = 0
            async with repo.open(key) as stream:
                async for chunk in stream:
                    size += len(chunk)
            assert size == 64 * MEBIBYTE
        print(peak_memory() - before)
anyio.run(main, *sys.argv[1:], backend="LOOP")
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_objects_of_64_mib_need_at_most_16_mib_of_memory(tmp_path, loop):
    """In addition to the memory of the idle process."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        for number in range(64):
            file.write(content_of(MEBIBYTE, number))

    def peak(work):
        command = [sys.executable, "-c", PEAK.replace("LOOP", loop), str(tmp_path / "repository"), str(source), work]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    works = ("put an async source", "put a path", "read through open")
    peaks = {work: peak(work) for work in works}
    assert max(peaks.values()) < 16 * MEBIBYTE, peaks
    subprocess.run(
        [sys.executable, "-m", "objrepo", "maintain", "--repo", tmp_path / "repository", "--compress"],
        check=True,
        capture_output=True,
    )
    assert peak("read through open") < 16 * MEBIBYTE, "packed, and compressed"


BATCH = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from processes import peak_memory
import objrepo
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
runner = InPlace()
repo = objrepo.DiskRepository(sys.argv[1], Inline())
with runner.enter(repo):
    runner.call(repo.initialise)
    runner.call(repo.put_many, [b"warm", b"up"])
    before = peak_memory()
    with runner.enter(repo.batch()) as batch:
        for number in range(int(sys.argv[2])):
            runner.call(batch.put, b"%d" % number)
    assert runner.call(repo.info).objects == int(sys.argv[2]) + 2
    print(peak_memory() - before)
"""


def test_a_batch_of_any_number_of_objects_needs_at_most_64_mib_of_memory(tmp_path):
    command = [sys.executable, "-c", BATCH, str(tmp_path / "repository"), "230000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * MEBIBYTE
