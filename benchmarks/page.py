"""Write the figures of a run to `docs/performance.md`: python -m benchmarks.page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import show

DOCS = Path(__file__).parent.parent / "docs"

PAGE = """# Performance

All figures are from one run of `nox -s bench` on {system}.
Implementations alternate in one process, and their results are compared. `nox -s bench -- --quick` takes less than two minutes.

Read the figures as ratios, because absolute times depend on the machine. They are medians; the quartiles are in
[results.json](benchmarks/results.json), from which this page is generated.

| name | implementation |
|---|---|
| objrepo | the async `DiskRepository` |
| objrepo facade | `DiskObjectStoreRepositoryBackend` of `objrepo.sync` |
| warm Container | a `disk_objectstore.Container` that stays open |
| Container per thread | one `Container` for each worker thread |
| aiida-core | AiiDA's own repository backend |
| row + pread | a lower bound: one row by `sqlite3` and one `os.pread` |
| hash, append, flush, insert | a lower bound of many puts |

*Delay of the loop* is the time of `anyio.sleep(0.001)` minus 1 ms; it is negative if a timer fires early.

## Reading

A packed object that was read before takes one `pread`; see [reads without a worker thread](concurrency.md).

![Time of reads, relative to objrepo](benchmarks/reading.svg)

## Writing

A durable `put` waits for the disk. Many objects at once share one fsync.

![Time of writes, relative to objrepo](benchmarks/writing.svg)

## Concurrent calls

![Time of a thousand concurrent calls, relative to objrepo](benchmarks/concurrency.svg)

## Many objects in one call

![Time of operations on many objects, relative to objrepo](benchmarks/bulk.svg)

## Growing repositories

![Time in repositories of ten thousand to ten million objects](benchmarks/growth.svg)

## Starting

![Time of imports and of the first byte in a new process](benchmarks/starting.svg)

## Targets

Each target is a ratio of two figures, or a limit. Figures near a limit may be on either side of it in another run.

{targets}

### Why some are missed

- **`get` and `has` of one packed key.** The look-up alone takes {has_bound}: SQLite acquires a lock, reads, and releases it. objrepo has the row
  already, but asks SQLite whether the index has changed (2.5 µs), and the file system whether the repository was replaced (1.5 µs); the
  coroutine and the facade take as much. aiida-core's `has` takes only {has_times} times the look-up. The targets were set on a machine on
  which aiida-core and the `Container` took twice as long.
- **Iterating.** A scan of the index in the order of the packs, one read for many adjacent objects, and an `io.BufferedReader` for each
  object take 1.0, 0.6 and 0.7 µs. AiiDA's interface requires the last one; the async `stream` does not need it.
- **A single `get`.** The first read of an object is a call to a worker thread, in which a row and a `pread` take {single_bound} of an empty
  call. A repeated read needs no thread. It is limited by SQLite's lock, a `stat` of the index, and the event loop.
- **1,000 concurrent puts.** Beside [the group commit](profile.md), creating, waking and ending the tasks takes most of the
  time. Implementations without fsync leave writing to the disk to a later fsync.
- **A durable `put`.** On ext4 and XFS it waits for one commit of the file system's journal; elsewhere, and on ext4 without a journal, for two.
  SQLite overwrites its log in place, which commits nothing, so a row takes less. aiida-core fsyncs the file and then the wrong
  directory, which has not changed: it waits for one commit, and the name is not durable.
- **A `put` without fsync.** fsspec writes the file under its final name, where readers see a part of it, and all files into one
  directory. An object that appears complete, in one of 256 directories, takes one more system call.
- **`put_many`.** SQLite takes half of its time, SHA-256 a sixth. The rest determines the kind of each source, collects a batch, and
  returns the keys. In a large index each row changes a page of its own, so batches of 4,096 objects take 0.4 of the time of batches of
  1,024 there.
- **`get` in a large repository**, each object read for the first time. Each step of the search in the index, and the bytes, are at other addresses in
  memory, so the processor's caches miss. A page cache of SQLite of 8 to 256 MiB was measured: it saves the 2.7 reads of a look-up, but is 1 to
  8 % slower, as its pages are less often in the processor's caches than the one buffer that a read fills. A memory map takes 0.85 of the time, but SIGBUS would
  kill the process if the disk failed or another program truncated the file. Reading 10,000 objects takes 5 MiB of memory for a
  repository of any size.

## Design decisions

[Concurrency](concurrency.md) describes batches and reads without a worker thread, [On the disk](on-disk.md) group commits.

- **Rows by `sqlite3`, bytes by `pread`** from packs that stay open, instead of SQLAlchemy sessions.
- **`verify`, `copy` and `stream`** read adjacent objects together. `verify` reads the copies of an object separately only if the hash
  is not the key, or if the object also has a loose file.
- **`maintain`** packs 8,192 loose objects at a time, in 16 MiB of memory for any number of objects (`python -m benchmarks maintenance`).
- **Large puts** start writing to the disk while the rest is hashed.
- **Ranges** take the time of their length only, loose or packed. In a compressed object everything before the range is decompressed
  too, because disk-objectstore compresses an object as one stream.

## All figures

{figures}

[Where the time goes](profile.md) has each step of a `get` and of a `put`.
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
        system=report["system"],
        targets="\n".join(["| | measured | target | |", "|---|---|---|---|", *targets]),
        figures="\n".join(["| work | implementation | time per operation | |", "|---|---|---|---|", *rows]),
        has_bound=show(medians["has 1 KiB, packed", "row + pread"]),
        has_times=f"{medians['has 1 KiB, packed', 'aiida-core'] / medians['has 1 KiB, packed', 'row + pread']:.0f}",
        single_bound=f"{bound:.2f}",
    )


if __name__ == "__main__":
    report = json.loads((DOCS / "benchmarks" / "results.json").read_text())
    (DOCS / "performance.md").write_text(page(report))
