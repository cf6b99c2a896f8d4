"""Draw the pictures of the documentation: python docs/pictures/draw.py. Needs matplotlib."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
INK, FAINT, BLUE, PALE = "#1e293b", "#cbd5e1", "#2563eb", "#eff6ff"

FLOORS = {
    "cli": ("doors", "commands, HTTP requests,\nAiiDA, aiofiles, fsspec"),
    "sync": ("facade", "calls without a loop"),
    "transfer": ("moving", "pages of keys,\nobjects on their way"),
    "disk": ("backends", "blocking functions:\nfiles, packs, rows, requests"),
    "source": ("bytes", "chunks, in bounded memory"),
    "offload": ("running", "hops to worker threads,\nor none"),
    "protocol": ("words", "keys, errors, reports"),
}
"""What the floors are called, and what flows through them, by a room that is on each."""

PUT = [
    ("await repo.put(source)", "in the caller's task"),
    ("the source is looked at", "bytes, path, file, stream, iterable"),
    ("a hop to a worker", "alone, or with others that wait at the same moment"),
    ("hashed while it is written", "as a file of its own, or appended to a pack"),
    ("flushed", "the bytes, and the name or the row: once for all in the hop"),
    ("the key", "now the object is there, after a power failure too"),
]
GET = [
    ("await repo.get(key)", "in the caller's task"),
    ("the key is checked", "what cannot be a key is not there"),
    ("a hop to a worker", "alone, or with others that wait at the same moment"),
    ("looked for: index, loose, index", "as it may be moved into a pack just then"),
    ("`pread` from a pack that is open", "after a look that it still is the same file"),
    ("the content", "with check=True compared with the key"),
]


def floors() -> list[list[str]]:
    """Return the rooms of each floor, from above, as the contract in `pyproject.toml` has them."""
    contracts = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    house = next(each for each in contracts if each["id"] == "house")
    return [[room.strip() for room in layer.split("|")] for layer in house["layers"] if layer != "__main__"]


def draw_rooms(path: Path) -> None:
    """Draw the house: a row of boxes for each floor, and beside it what flows through."""
    from matplotlib import pyplot

    rows = floors()
    figure, axis = pyplot.subplots(figsize=(11, 0.5 * len(rows) + 0.5))
    for number, rooms in enumerate(rows):
        y = len(rows) - number
        width = 6.6 / len(rooms)
        for place, room in enumerate(rooms):
            x = 1.6 + place * width
            axis.add_patch(pyplot.Rectangle((x + 0.05, y - 0.4), width - 0.1, 0.8, fc=PALE, ec=BLUE, lw=1))
            axis.text(x + width / 2, y, room, ha="center", va="center", family="monospace", size=8)
        for room in rooms:
            if room in FLOORS:
                name, flow = FLOORS[room]
                axis.text(1.45, y, name, ha="right", va="center", weight="bold", size=10)
                axis.text(9.2, y, flow, ha="left", va="center", size=9)
    for x, start, end, words in ((8.4, len(rows) + 0.4, 0.6, "calls"), (8.9, 0.6, len(rows) + 0.4, "bytes")):
        axis.annotate("", (x, end), (x, start), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.5})
        axis.text(x, len(rows) + 0.55, words, ha="center", size=8, color=BLUE)
    finish(figure, axis, path, (0, 11.8), (0.4, len(rows) + 1))


def draw_life(path: Path, steps: list[tuple[str, str]]) -> None:
    """Draw the steps of an operation, one under the other; those in the middle are on a worker."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 0.75 * len(steps) + 0.3))
    for number, (what, how) in enumerate(steps):
        y = len(steps) - number
        on_worker = 2 < number < len(steps) - 1
        axis.add_patch(pyplot.Rectangle((1.3, y - 0.32), 3.8, 0.64, fc=PALE if on_worker else "white", ec=BLUE, lw=1))
        axis.text(3.2, y, what, ha="center", va="center", size=10)
        axis.text(5.3, y, how, ha="left", va="center", size=9, color="#475569")
        if number:
            axis.annotate(
                "", (3.2, y + 0.32), (3.2, y + 0.68), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.5}
            )
    for y, where in ((len(steps) - 1, "the loop"), (2.5, "a worker\nthread"), (1, "the loop")):
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
    draw_rooms(to / "rooms.svg")
    draw_life(to / "put.svg", PUT)
    draw_life(to / "get.svg", GET)


if __name__ == "__main__":
    main()
