"""Write `docs/performance.md` out of the figures of a run: python -m benchmarks.page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import show

DOCS = Path(__file__).parent.parent / "docs"

PAGE = """# Performance

Every figure here is of one run of

```text
nox -s bench
```

on a machine with two processors, Python {python}; `nox -s bench -- --quick` takes less than two minutes. Contestants take
turns in one process, and it is checked that all come to the same bytes. Read the figures as ratios: absolute times are those
of the machine. Medians; the quartiles are in [results.json](benchmarks/results.json). This page is written from that file.

![reading](benchmarks/reading.png)
![writing](benchmarks/writing.png)
![together](benchmarks/together.png)
![bulk](benchmarks/bulk.png)
![growth](benchmarks/growth.png)
![starting](benchmarks/starting.png)

## What is promised

{promises}

## Where a promise is not kept, or hardly, and why

- **has, one key.** The floor is the look-up itself, {has_floor} here: SQLite takes a lock, looks, and gives it back. On top
  come the `stat` that notices when another repository has taken the place of this one, the lease and the coroutine, each a
  microsecond or two. aiida-core takes {has_times} times the floor here, so the floor itself leaves little room.
- **iterate.** A scan of the index in the order of the packs, one read for many neighbours, and an `io.BufferedReader` for each
  object: about a third each. The last is what the documented interface wants; the async `stream` does without it.
- **a lone get.** A row and a `pread` in a hop of their own take {lone_floor} here, so what is left for everything else is small. The same
  code takes three times as long on a worker that has just been woken as in a warm loop.
- **1,000 puts at once.** Besides the group commit ([a quarter of the time](profile.md)) it is the tasks themselves that take time: making
  them, waking them, ending them. On asyncio the peers that do not flush also leave their work to whoever flushes next.
- **get with 1,000,000 objects.** The index no longer fits into SQLite's page cache, so a look-up reads a few pages of it. Mapping
  the index into memory would cure it, and would end the process where somebody truncates the file under it.
- What is near its limit may be on either side of it in another run: the machine is shared.

## Why it is as it is

- **Rows by `sqlite3`, bytes by `pread`** from packs that stay open, instead of SQLAlchemy's sessions. A pack is compared with its
  name before each read, as a repack puts another file under it; see [on the disk](on-disk.md).
- **Calls that wait at the same moment share a hop**, up to 256. A call that finds no company does not wait for it. Who is
  cancelled leaves; the hop goes on for the others.
- **Small puts that wait at the same moment are committed as a group**: appended to a pack of the writer's own, flushed once, in one
  transaction of the index. The other way, a file each and one `syncfs` for all, takes about as long, but flushes everything
  that anybody has written to that file system, and leaves as many files to be packed later.
- **Large puts** have the disk begin to store what was written while the rest is still being hashed.
- A range costs what the range costs, loose or packed. Of a **compressed** object everything before the range is decompressed
  too: disk-objectstore compresses an object as one stream.

## All figures

{figures}

[Where the time of a get and of a put goes](profile.md), step by step.
"""


def page(report: dict[str, Any]) -> str:
    """Return the page."""
    figures = report["figures"]
    medians = {(each["work"], each["contestant"]): each["median"] for each in figures}
    promises = [
        f"| {row['what']} | {row['measured']:.2f} | {row['promised']} | {'kept' if row['kept'] else '**not kept**'} |"
        for row in report["promises"]
    ]
    rows = [
        f"| {each['work']} | {each['contestant']} | {show(each['median'])} | {each['note']} |"
        for each in figures
        if not each["work"].startswith("memory")
    ]
    lone = "a lone get 1 KiB, asyncio"
    floor = medians[lone, "a hop for row + pread"] / medians[lone, "a hop for nothing"]
    return PAGE.format(
        python=report["python"],
        promises="\n".join(["| | measured | promised | |", "|---|---|---|---|", *promises]),
        figures="\n".join(["| work | contestant | time an operation | |", "|---|---|---|---|", *rows]),
        has_floor=show(medians["has 1 KiB, packed", "row + pread"]),
        has_times=f"{medians['has 1 KiB, packed', 'aiida-core'] / medians['has 1 KiB, packed', 'row + pread']:.0f}",
        lone_floor=f"{floor:.2f} hops",
    )


if __name__ == "__main__":
    report = json.loads((DOCS / "benchmarks" / "results.json").read_text())
    (DOCS / "performance.md").write_text(page(report))
