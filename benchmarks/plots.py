"""Plots: a bar for each implementation, with its quartiles, on a logarithmic scale."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.harness import Figure, Results, show

OURS, OTHERS, INK, FAINT = "#2563eb", "#94a3b8", "#1e293b", "#e2e8f0"

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


def draw(results: Results, folder: Path) -> None:
    """Draw the plots whose figures exist, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "svg.hashsalt": "objrepo"})
    for name, works in PICTURES.items():
        shown = [work for work in works if work in results.works()]
        if not shown:
            continue
        columns = min(len(shown), 2)
        rows = -(-len(shown) // columns)
        figure, axes = pyplot.subplots(rows, columns, figsize=(10, 2.6 * rows), squeeze=False, layout="constrained")
        for axis, work in zip(axes.flat, shown, strict=False):
            bars(axis, work, [each for each in results.figures if each.work == work])
        for axis in axes.flat[len(shown) :]:
            axis.axis("off")
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(folder / f"{name}.{kind}", dpi=110, metadata=metadata)
        pyplot.close(figure)


def bars(axis, work: str, figures: list[Figure]) -> None:
    """Draw the figures of one kind of work."""
    figures = sorted(figures, key=lambda each: -each.median)
    positions = range(len(figures))
    colours = [OURS if each.implementation.startswith("objrepo") or "grow" in work else OTHERS for each in figures]
    axis.barh(positions, [each.median for each in figures], color=colours, height=0.62)
    for position, each in zip(positions, figures, strict=True):
        axis.plot([each.low, each.high], [position, position], color=INK, linewidth=1)
        axis.text(each.high * 1.12, position, show(each.median), va="center", fontsize=8)
    axis.set_yticks(positions, [each.implementation + (" *" if "not fsynced" in each.note else "") for each in figures])
    axis.set_xscale("log")
    axis.set_xlim(min(each.low for each in figures) / 2, max(each.high for each in figures) * 6)
    axis.set_title(re.sub(r"^growth: ", "growing: ", work), loc="left", fontsize=10, fontweight="bold")
    axis.tick_params(axis="both", length=0, labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: show(value))
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.grid(axis="x", color=FAINT)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    if any("not fsynced" in each.note for each in figures):
        axis.set_xlabel("time per operation; * not fsynced", fontsize=8)
    else:
        axis.set_xlabel("time per operation", fontsize=8)
