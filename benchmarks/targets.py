"""The performance targets, as ratios of the figures of one run."""

from __future__ import annotations

from benchmarks.harness import Results

FACADE, AIIDA = "objrepo facade", "aiida-core"
LOOPS = ("asyncio", "uvloop", "trio")

AT_LEAST = [
    ("get 1 KiB packed, facade / aiida-core", ("get 1 KiB, packed", AIIDA), ("get 1 KiB, packed", FACADE), 350),
    ("get 1 KiB packed, facade / warm Container", ("get 1 KiB, packed", "warm Container"), ("get 1 KiB, packed", FACADE), 25),
    ("has one key, facade / aiida-core", ("has 1 KiB, packed", AIIDA), ("has 1 KiB, packed", FACADE), 300),
    ("has 10,000 keys, facade / aiida-core", ("has 10,000 keys", AIIDA), ("has 10,000 keys", FACADE), 3),
    ("iterate 10,000, facade / aiida-core", ("iterate 10,000 packed objects", AIIDA), ("iterate 10,000 packed objects", FACADE), 2.5),
    ("list 10,000, facade / aiida-core", ("list 10,000", AIIDA), ("list 10,000", FACADE), 2),
    *(
        (f"1,000 {method}s at once / Container per thread, {loop}",
         (f"1000 × {method} 1 KiB at once, {loop}", "Container per thread"), (f"1000 × {method} 1 KiB at once, {loop}", "objrepo"), 12)
        for method in ("get", "put") for loop in LOOPS
    ),
    ("put_many / aiida-core's put in a loop", ("put 1,000 × 1 KiB, one by one", AIIDA), ("put 10,000 × 1 KiB", "objrepo put_many"), 30),
    ("put 1 KiB, facade / aiida-core", ("put 1 KiB", AIIDA), ("put 1 KiB", FACADE), 1.4),
    ("put 1 KiB, facade / a row of SQLite", ("put 1 KiB", "SQLite blobs"), ("put 1 KiB", FACADE), 1),
    *(
        (f"put 1 KiB, durable=False / {peer}", ("put 1 KiB", peer), ("put 1 KiB", "objrepo, durable=False"), 1)
        for peer in ("borgstore", "obstore LocalStore", "fsspec local")
    ),
    ("put 64 MiB, facade / aiida-core", ("put a file of 64 MiB", AIIDA), ("put a file of 64 MiB", FACADE), 1),
]  # fmt: skip


def check(results: Results) -> list[tuple[str, float, str, bool]]:
    """Return each target as its name, the measured ratio, the limit, and whether it is met."""
    rows = []
    for name, peer, ours, least in AT_LEAST:
        ratio = results.of(*peer) / results.of(*ours)
        rows.append((name, ratio, f"at least {least}", ratio >= least))
    for loop in LOOPS:
        work = f"a single get 1 KiB, {loop}"
        for which, most in (("read before", 0.2), ("first read", 1.5)):
            ratio = results.of(work, f"objrepo, {which}") / results.of(work, "an empty thread call")
            rows.append((f"a single get, {which} / a thread call, {loop}", ratio, f"at most {most}", ratio <= most))
    size = "256 MiB" if results.quick else "1024 MiB"
    for loop in LOOPS:
        for state in ("loose", "packed"):
            work = f"a range of 4 KiB, {state}, {loop}"
            ratio = results.of(work, f"of {size}") / results.of(work, "of 1 MiB")
            rows.append(
                (f"a range of a large object / of a small one, {state}, {loop}", ratio, "at most 1.5", ratio <= 1.5)
            )
    work = "put 10,000 × 1 KiB into an empty repository"
    for name, most in (("objrepo put_many", 1.5), ("objrepo put_many, async generator", 2)):
        ratio = results.of(work, name) / results.of(work, "hash, append, flush, insert")
        rows.append((f"{name} / hash, append, flush, insert", ratio, f"at most {most}", ratio <= most))
    micros = results.of("stream 10,000 packed objects, asyncio", "objrepo") * 1e6
    rows.append(("stream, for each object of 1 KiB, in µs", micros, "at most 8", micros <= 8))
    sizes = {"100,000": 1.3} if results.quick else {"1,000,000": 1.3, "10,000,000": 1.6}
    largest = next(iter(sizes))
    for method in ("get", "has"):
        work = f"growth: {method} 1 KiB"
        for size, most in sizes.items():
            ratio = results.of(work, f"{size} objects") / results.of(work, "10,000 objects")
            rows.append((f"{method} with {size} objects / with 10,000", ratio, f"at most {most}", ratio <= most))
    for loop in LOOPS:
        for kind in ("", "reads in the page cache, ", "reads not in the page cache, "):
            delay = results.of(f"delay of the loop, {kind}{loop}", "p99") * 1e3
            rows.append((f"delay of the loop in ms, p99, {kind}{loop}", delay, "at most 5", delay <= 5))
    memory = results.of("memory of keys(), MiB above idle", f"{largest} objects")
    rows.append((f"keys() of {largest}, MiB above idle", memory, "at most 32", memory <= 32))
    ratio = results.of("import", "objrepo") / results.of("import", "anyio")
    rows.append(("import objrepo / import anyio", ratio, "at most 2", ratio <= 2))
    return rows
