"""Draw the pictures of the documentation: python docs/pictures/draw.py. Needs matplotlib."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
INK, FAINT, BLUE, PALE = "#1e293b", "#cbd5e1", "#2563eb", "#eff6ff"

LAYERS = (
    ("applications", "the command line"),
    ("integrations", "AiiDA, HTTP, fsspec,\naiofiles, telemetry, tests"),
    ("sync facade", "the same without a loop"),
    ("transfer", "copies, exports, URLs"),
    ("backends", "blocking methods:\nfiles, packs, rows, requests"),
    ("core", "the protocol around a backend,\nstreams and sources of bytes"),
    ("offload", "worker threads,\nor the calling thread"),
    ("vocabulary", "keys, errors, reports"),
)
"""The name of each layer, from above, and what it does."""

PUT = [
    ("await repo.put(source)", "in the caller's task"),
    ("the kind of source is found out", "bytes, path, file, stream, iterable"),
    ("a call to a worker thread", "dispatched at once, or batched with the calls that wait"),
    ("hash and write", "a file of its own, or an append to a pack"),
    ("fsync", "the bytes, and the name or the row: once for the whole batch"),
    ("the key", "the object is durable"),
]
GET = [
    ("await repo.get(key)", "in the caller's task"),
    ("the key is checked", "a malformed key names no object"),
    ("a call to a worker thread", "dispatched at once, or batched with the calls that wait"),
    ("index, loose file, index", "another process may pack the object meanwhile"),
    ("pread from an open pack", "the file signature shows that the pack is the same"),
    ("the content", "with check=True its hash is compared with the key"),
]


def layers() -> list[list[str]]:
    """Return the modules of each layer, from above, as the contract in `pyproject.toml` has them."""
    contracts = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["id"] == "layers")
    return [[name for name in re.split(r" [|:] ", layer) if name != "__main__"] for layer in contract["layers"]]


def draw_layers(path: Path) -> None:
    """Draw a row of boxes for each layer, and beside it what the layer does."""
    from matplotlib import pyplot

    rows = layers()
    figure, axis = pyplot.subplots(figsize=(12, 0.62 * len(rows) + 0.5))
    for number, (modules, (name, text)) in enumerate(zip(rows, LAYERS, strict=True)):
        y = len(rows) - number
        width = 7.6 / len(modules)
        for column, module in enumerate(modules):
            x = 1.6 + column * width
            axis.add_patch(pyplot.Rectangle((x + 0.03, y - 0.4), width - 0.06, 0.8, fc=PALE, ec=BLUE, lw=1))
            axis.text(x + width / 2, y, module, ha="center", va="center", family="monospace", size=7)
        axis.text(1.45, y, name, ha="right", va="center", weight="bold", size=10)
        axis.text(9.6, y, text, ha="left", va="center", size=9)
    axis.annotate("", (9.4, 0.6), (9.4, len(rows) + 0.4), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.5})
    axis.text(9.4, len(rows) + 0.55, "imports", ha="center", size=8, color=BLUE)
    finish(figure, axis, path, (0, 11.8), (0.4, len(rows) + 1))


def draw_life(path: Path, steps: list[tuple[str, str]]) -> None:
    """Draw the steps of an operation, one under the other; those in the middle are on a worker."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 0.75 * len(steps) + 0.3))
    for number, (what, how) in enumerate(steps):
        y = len(steps) - number
        in_thread = 2 < number < len(steps) - 1
        axis.add_patch(pyplot.Rectangle((1.3, y - 0.32), 3.8, 0.64, fc=PALE if in_thread else "white", ec=BLUE, lw=1))
        axis.text(3.2, y, what, ha="center", va="center", size=10)
        axis.text(5.3, y, how, ha="left", va="center", size=9, color="#475569")
        if number:
            axis.annotate(
                "", (3.2, y + 0.32), (3.2, y + 0.68), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.5}
            )
    for y, where in ((len(steps) - 1, "event loop"), (2.5, "worker\nthread"), (1, "event loop")):
        axis.text(1.15, y, where, ha="right", va="center", weight="bold", size=10)
    finish(figure, axis, path, (0, 9.4), (0.5, len(steps) + 0.5))


def finish(figure, axis, path: Path, width: tuple[float, float], height: tuple[float, float]) -> None:
    """Set the frame and write the file."""
    from matplotlib import pyplot

    axis.set_xlim(*width)
    axis.set_ylim(*height)
    axis.axis("off")
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.05, facecolor="white")
    pyplot.close(figure)


def main() -> None:
    """Draw all of them."""
    import matplotlib as mpl

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="the folder they go to")
    to = parser.parse_args().to
    mpl.use("agg")
    mpl.rcParams.update({"text.color": INK, "svg.hashsalt": "objrepo", "svg.fonttype": "none"})
    draw_layers(to / "layers.svg")
    draw_life(to / "put.svg", PUT)
    draw_life(to / "get.svg", GET)


if __name__ == "__main__":
    main()
