"""Write the figures of a run into `docs/comparison.md`: python -m benchmarks.comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import show
from benchmarks.plots import ratio

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "comparison.md"
BEGIN, END = "<!-- figures: python -m benchmarks.comparison -->\n", "<!-- end of the figures -->\n"

WITHOUT_A_LOOP = {
    "objrepo": ("objrepo facade", "objrepo put_many"),
    "aiida-core": ("aiida-core",),
    "Container": ("warm Container", "Container", "Container.add_objects_to_pack"),
    "obstore": ("obstore LocalStore",),
    "fsspec": ("fsspec local",),
    "SQLite blobs": ("SQLite blobs", "SQLite blobs, one transaction"),
}
ON_ASYNCIO = {
    "objrepo": ("objrepo",),
    "Container in threads": ("Container per thread",),
    "obstore": ("obstore LocalStore async",),
    "zarr LocalStore": ("zarr LocalStore",),
    "aiofiles": ("files by aiofiles",),
}
WORKS_WITHOUT = (
    "get 1 KiB, packed",
    "get 64 KiB, packed",
    "has 1 KiB, packed",
    "put 1 KiB",
    "put 64 KiB",
    "put 10,000 × 1 KiB",
    "put a file of 64 MiB",
    "get 64 MiB, loose",
    "has 10,000 keys",
    "iterate 10,000 packed objects",
    "list 10,000",
    "first byte from a cold process",
)
WORKS_ON = tuple(f"1000 × {what} 1 KiB at once, asyncio" for what in ("get", "has", "put"))


def table(figures: list[dict[str, Any]], works: tuple[str, ...], peers: dict[str, tuple[str, ...]]) -> str:
    """Return a table of ratios with a row for each kind of work; the fastest is bold, † marks writes without fsync."""
    lines = ["| | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for work in works:
        found = {each["implementation"]: each for each in figures if each["work"] == work}
        row = [next((found[name] for name in names if name in found), None) for names in peers.values()]
        ours, *others = row
        best = min(each["median"] for each in row if each is not None)
        cells = [cell(ours, show(ours["median"]), best)]
        cells += [cell(each, ratio(each["median"] / ours["median"]), best) if each else "" for each in others]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(figure: dict[str, Any], shown: str, best: float) -> str:
    """Return a cell of the table."""
    shown += "†" if "not fsynced" in figure["note"] else ""
    return f"**{shown}**" if figure["median"] == best else shown


def section(report: dict[str, Any]) -> str:
    """Return the figures, as Markdown."""
    figures = report["figures"]
    return (
        f"{BEGIN}\nMeasured on {report['system']}.\n\n"
        f"Without an event loop:\n\n{table(figures, WORKS_WITHOUT, WITHOUT_A_LOOP)}\n\n"
        f"A thousand concurrent tasks on asyncio:\n\n{table(figures, WORKS_ON, ON_ASYNCIO)}\n\n{END}"
    )


def page(report: dict[str, Any], text: str) -> str:
    """Return the text of the page with the figures replaced."""
    before, _, rest = text.partition(BEGIN)
    return before + section(report) + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(json.loads((DOCS / "benchmarks" / "results.json").read_text()), PAGE.read_text()))
