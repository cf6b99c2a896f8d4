"""Write the figures of a run to `docs/performance.md`: python -m benchmarks.page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import show

DOCS = Path(__file__).parent.parent / "docs"

PAGE = """# Performance

All figures are from one run of

```text
nox -s bench
```

on a machine with two processors, Python {python}; `nox -s bench -- --quick` takes less than two minutes. Implementations alternate
in one process, and their results are compared. Read the figures as ratios: absolute times depend on the machine. They are medians; the
quartiles are in [results.json](benchmarks/results.json). This page is generated from that file.

![reading](benchmarks/reading.png)
![writing](benchmarks/writing.png)
![concurrency](benchmarks/concurrency.png)
![bulk](benchmarks/bulk.png)
![growth](benchmarks/growth.png)
![starting](benchmarks/starting.png)

## Targets

{targets}

## Targets that are missed, or nearly so

- **get and has of one key, packed.** The objects were read before by every implementation. A look-up alone takes {has_bound} here: SQLite acquires
  a lock, reads, and releases it. objrepo has the row already, but has SQLite say whether the index has changed, which takes 2.5 µs of the
  same; a `stat`, which detects that the repository was replaced, takes 1.5 µs, and the coroutine and the facade as much. aiida-core's `has`
  takes {has_times} times the look-up, which leaves little margin. On the machine for which the limits were set, aiida-core and the `Container` took twice as long.
- **iterate.** A scan of the index in the order of the packs, one read for many adjacent objects, and an `io.BufferedReader` for each
  object take 1.0, 0.6 and 0.7 µs. The documented interface requires the last one; the async `stream` does not need it.
- **A single get.** The first read of an object is a thread call: a row and a `pread` in one take {single_bound} empty thread calls, so little
  is left for everything else. A read of an object that was read before needs none, and is limited by SQLite, which acquires a lock to say
  whether the index has changed, by a `stat` of the index, and by the event loop.
- **1,000 concurrent puts.** Besides the group commit ([a quarter of the time](profile.md)) the tasks themselves take time: they are
  created, woken and ended. Implementations without fsync also leave writing to the disk to a later fsync.
- **put, flushed.** On ext4 and XFS a `put` waits for one commit of the file system's journal, elsewhere, and on ext4 without a journal, for two.
  SQLite overwrites its log in place, which flushes data and commits nothing, so a row takes less. aiida-core flushes the file and then the
  directory above that of the object, which has not changed: it waits for one commit, and does not make the name durable.
- **put, not flushed.** fsspec writes the file under its final name, where readers see a part of it, and all files to one
  directory. An object that appears as a whole, in one of 256 directories, takes one more system call.
- **put_many.** Half of its time is spent in SQLite, a sixth in SHA-256. The rest is what it does beside these: it finds out the kind of each
  source, gathers a batch, and returns the keys. In a large index each row changes a page of its own, so batches of 4,096 objects take 0.4 of
  the time of batches of 1,024 there.
- **get with 1,000,000 objects** (each read for the first time). The time is that of the processor's caches: each step of the search in the
  index, and the bytes, are somewhere else in memory. A larger page cache of SQLite was measured, of 8 to 256 MiB: it saves the reads, 2.7
  for each look-up, but is 1 to 8 % slower, as its pages are further away than the one buffer that a read fills. A memory map takes 0.85 of
  the time, but the process would be killed by SIGBUS if the disk failed, or if another program truncated the file. So the page cache stays
  as SQLite has it, and reading 10,000 objects takes 5 MiB of memory, of a repository of any size.
- Figures near their limit may be on either side of it in another run: the machine is shared.

## Design for speed

- **Rows by `sqlite3`, bytes by `pread`** from packs that stay open, instead of SQLAlchemy sessions. Before each read the open pack is
  compared with the file of its name, as a repack replaces it; see [on the disk](on-disk.md).
- **What was read before is read again without a thread call**, from the page cache, as long as the index has not changed.
- **Concurrent calls are batched**, up to 256 reads or 1,024 writes in one thread call. A single call is dispatched immediately. A cancelled
  call leaves its batch, which continues for the others.
- **`verify` and `copy`** read adjacent objects at once, as `stream` does. `verify` looks at the copies of an object one by one only where
  the hash is not the key, or where the object has a file of its own too.
- **`maintain`** packs 8,192 loose objects at a time, in 16 MiB of memory however many there are (`python -m benchmarks maintenance`).
- **Concurrent small puts are committed as a group**: appended to a pack of the writer, fsynced once, in one transaction of the index. A
  file for each and one `syncfs` for all takes about as long, but writes back all dirty data of the file system, and leaves as many files to
  be packed later.
- **Large puts** start writing to the disk while the rest is still being hashed.
- The cost of a range depends on its length only, loose or packed. In a **compressed** object everything before the range is decompressed,
  too: disk-objectstore compresses an object as one stream.

## All figures

{figures}

[The time of each step of a get and of a put](profile.md).
"""


def page(report: dict[str, Any]) -> str:
    """Return the page."""
    figures = report["figures"]
    medians = {(each["work"], each["implementation"]): each["median"] for each in figures}
    targets = [
        f"| {row['what']} | {row['measured']:.2f} | {row['target']} | {'met' if row['met'] else '**missed**'} |"
        for row in report["targets"]
    ]
    rows = [
        f"| {each['work']} | {each['implementation']} | {show(each['median'])} | {each['note']} |"
        for each in figures
        if not each["work"].startswith("memory")
    ]
    single = "a single get 1 KiB, asyncio"
    bound = medians[single, "row + pread in a thread call"] / medians[single, "an empty thread call"]
    return PAGE.format(
        python=report["python"],
        targets="\n".join(["| | measured | target | |", "|---|---|---|---|", *targets]),
        figures="\n".join(["| work | implementation | time per operation | |", "|---|---|---|---|", *rows]),
        has_bound=show(medians["has 1 KiB, packed", "row + pread"]),
        has_times=f"{medians['has 1 KiB, packed', 'aiida-core'] / medians['has 1 KiB, packed', 'row + pread']:.0f}",
        single_bound=f"{bound:.2f}",
    )


if __name__ == "__main__":
    report = json.loads((DOCS / "benchmarks" / "results.json").read_text())
    (DOCS / "performance.md").write_text(page(report))
