"""Plots as SVG files, for a light and a dark page: python -m benchmarks.plots draws those of the stored figures again."""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Results, show

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"
WIDTH, LABELS = 460, 112
LINEAR_UP_TO = 8
"""Bars of times that differ by more than this factor are logarithmic."""
COLOURS = {
    "light": {"ink": "#1e293b", "muted": "#64748b", "ours": "#2563eb", "others": "#94a3b8"},
    "dark": {"ink": "#e2e8f0", "muted": "#94a3b8", "ours": "#3b82f6", "others": "#64748b"},
}

PICTURES = {
    "reading": (
        "get 1 KiB, packed", "get 1 KiB, packed, first read", "has 1 KiB, packed", "get 1 KiB, loose", "get 64 KiB, packed",
    ),
    "writing": ("put 1 KiB", "put 10,000 × 1 KiB", "put 1,000 × 1 KiB, one by one", "put a file of 64 MiB"),
    "concurrency": tuple(f"1000 × {method} 1 KiB at once, {loop}" for method in ("get", "put") for loop in ("asyncio", "trio")),
    "bulk": ("has 10,000 keys", "iterate 10,000 packed objects", "list 10,000", "delete 1,000 packed objects"),
    "growth": ("growth: get 1 KiB", "growth: has 1 KiB"),
    "remote": (
        "Ceph: 1000 × get 1 KiB at once, asyncio", "Ceph: 1000 × get 1 KiB at once, trio", "Ceph: get 64 MiB", "Ceph: put 64 MiB",
    ),
    "growing-in-ceph": ("Ceph, growing: get 1 KiB", "Ceph, growing: has", "Ceph, growing: put_many 1 KiB", "Ceph, growing: list, for each key"),
    "packs": ("packs: put 20,000 × 1 KiB, for each", "packs: 1000 × get 1 KiB at once", "packs: read all 20,000, for each"),
    "profiles": (
        "AiiDA: import an archive", "AiiDA: import an archive, the repository's part",
        "AiiDA: import an archive, all but the repository", "AiiDA: create an archive",
        "AiiDA: read the file of each node, after maintenance", "AiiDA: iterate over the content of all files",
    ),
    "web": ("web: GET 1 KiB", "web: GET 1 KiB on 32 connections", "web: GET 64 MiB"),
    "starting": ("import", "first byte from a cold process"),
}  # fmt: skip


def draw(results: Results, machine: str, folder: Path) -> None:
    """Draw the plots whose figures exist.

    :param machine: the machine that was measured, for the text below.
    """
    for name, works in PICTURES.items():
        shown = [[each for each in results.figures if each.work == work] for work in works]
        for theme, colours in COLOURS.items():
            if any(shown):
                suffix = "-dark" if theme == "dark" else ""
                (folder / f"{name}{suffix}.svg").write_text(plot(list(filter(None, shown)), machine, colours))


def plot(works: list[list[Figure]], machine: str, colours: dict[str, str]) -> str:
    """Return a plot with the bars of several kinds of work."""
    y, elements = 0.0, list[str]()
    names = min(7.2 * max(len(label_of(each)) for figures in works for each in figures) + 8, 205)
    for figures in works:
        y += 20
        title = re.sub(r"^(growth|packs|web|AiiDA): ", "", figures[0].work)
        elements.append(text(0, y, title, colours["ink"], ' font-weight="600" font-size="13"'))
        y += 6
        elements += bars(figures, names, y, colours)
        y += 19 * len(figures) + 8
    first = any(is_growth(figures[0]) for figures in works)
    notes = [f"Time of an operation, relative to {'the smallest repository' if first else 'objrepo'}."]
    if any(is_logarithmic(figures) for figures in works):
        notes.append(f"Bars are logarithmic where times differ by more than {LINEAR_UP_TO}×.")
    if any("not fsynced" in each.note for figures in works for each in figures):
        notes.append("* not fsynced")
    for note in (*notes, machine):
        y += 16
        elements.append(text(0, y, note, colours["muted"], ' font-size="11"'))
    size = f'width="{WIDTH}" height="{y + 6:g}" viewBox="0 0 {WIDTH} {y + 6:g}"'
    family = 'font-family="system-ui, sans-serif" role="img"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {family}>', *elements, "</svg>\n"])


def is_growth(figure: Figure) -> bool:
    """Return whether the figure is one of a growing repository, whose sizes are compared."""
    return "grow" in figure.work


def is_ours(figure: Figure) -> bool:
    """Return whether the figure is one of objrepo."""
    return figure.implementation.startswith("objrepo") or is_growth(figure)


def is_logarithmic(figures: list[Figure]) -> bool:
    """Return whether the bars of a kind of work are logarithmic."""
    return max(each.median for each in figures) > LINEAR_UP_TO * min(each.median for each in figures)


def label_of(figure: Figure) -> str:
    """Return the name of a bar."""
    return figure.implementation + (" *" if "not fsynced" in figure.note else "")


def bars(figures: list[Figure], names: float, y: float, colours: dict[str, str]) -> list[str]:
    """Return a bar for each implementation, with its quartiles, its ratio and its time.

    :param names: the width of the names.
    """
    unit = next((each for each in figures if is_ours(each)), figures[0]).median
    least, most = min(each.low for each in figures) / 1.6, max(each.high for each in figures)

    def x(seconds: float) -> float:
        part = math.log(seconds / least) / math.log(most / least) if is_logarithmic(figures) else seconds / most
        return names + (WIDTH - LABELS - names) * part

    elements = []
    for each in figures if is_growth(figures[0]) else sorted(figures, key=lambda figure: figure.median):
        colour, middle = colours["ours" if is_ours(each) else "others"], y + 9.5
        elements.append(
            text(names - 6, middle + 4, label_of(each), colours["ink"], ' font-size="12" text-anchor="end"')
        )
        box = f'x="{names:.1f}" y="{y + 3:g}" width="{x(each.median) - names:.1f}" height="13"'
        elements.append(f'<rect {box} rx="2" fill="{colour}"/>')
        line = f'x1="{x(each.low):.1f}" x2="{x(each.high):.1f}" y1="{middle:g}" y2="{middle:g}"'
        elements.append(f'<line {line} stroke="{colours["ink"]}"/>')
        label = f"{ratio(each.median / unit)} · {show(each.median)}"
        elements.append(text(x(each.high) + 6, middle + 4, label, colours["ink"], ' font-size="11"'))
        y += 19
    return elements


def text(x: float, y: float, content: str, colour: str, attributes: str) -> str:
    """Return an element of text."""
    return f'<text x="{x:.1f}" y="{y:g}" fill="{colour}"{attributes}>{escape(content)}</text>'


def ratio(value: float) -> str:
    """Return a ratio for people to read."""
    return f"{value:.2f}×" if value < 2 else f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def load(report: dict[str, Any]) -> tuple[Results, str]:
    """Return the figures of a stored report, and the machine."""
    return Results(report["quick"], [Figure(**each) for each in report["figures"]]), report["system"]


if __name__ == "__main__":
    for path in FOLDER.glob("*.json"):
        draw(*load(json.loads(path.read_text())), FOLDER)
