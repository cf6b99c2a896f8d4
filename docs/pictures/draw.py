"""Draw the pictures from the import contract and from traced calls: python docs/pictures/draw.py."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import threading
import tomllib
from collections.abc import Awaitable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any

import objrepo
import objrepo.disk.session
from objrepo import DiskRepository

HERE = Path(__file__).parent
SOURCE = Path(objrepo.__file__).parent
WIDTH = 440

LAYERS = {
    "applications": "the command line",
    "integrations": "AiiDA, HTTP server, fsspec, aiofiles, telemetry",
    "sync facade": "the same operations without an event loop",
    "transfer": "copies, exports, URLs",
    "backends": "where the bytes are: files, packs, HTTP requests",
    "core": "the async protocol around a backend; streams",
    "offload": "worker threads, or the calling thread",
    "vocabulary": "keys, errors, reports",
}
"""The name of each layer, from above, and its contents."""

COLOURS = {
    "light": {"ink": "#1e293b", "muted": "#64748b", "line": "#cbd5e1", "box": "#eff6ff", "accent": "#1d4ed8"},
    "dark": {"ink": "#e2e8f0", "muted": "#94a3b8", "line": "#475569", "box": "#1e293b", "accent": "#93c5fd"},
}
HUES = {"core": "#2563eb", "offload": "#d97706", "backends": "#16a34a", "vocabulary": "#9333ea", "system": "#64748b"}

BOOKKEEPING = {"errors", "offload.interrupts", "offload.work_item", "disk.safe_open", "disk.layout", "keys"}
"""Modules whose calls are left out of the pictures."""
SYSTEM_CALLS = {"fsync", "replace", "pread", "preadv", "lstat", "stat", "fstat"}


def contract() -> list[list[str]]:
    """Return the modules of each layer, from above, as the contract in `pyproject.toml` has them."""
    contracts = tomllib.loads((HERE.parent.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each for each in contracts if each["id"] == "layers")["layers"]
    return [[name for name in re.split(r" [|:] ", layer) if name != "__main__"] for layer in layers]


LAYER_OF = {module: name for modules, name in zip(contract(), LAYERS, strict=True) for module in modules}


@dataclass
class Row:
    """A call from one module to another, or to the system."""

    layer: str
    depth: int
    module: str
    function: str


@dataclass
class Trace:
    """The calls of one operation, recorded while `on` is true."""

    on: bool = False
    parts: dict[str, list[Row]] = field(
        default_factory=lambda: {"event loop": [], "worker thread": [], "event loop again": []}
    )

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Record a call; this is a profile function, see `sys.setprofile`."""
        module = module_of(frame)
        if not self.on or module is None:
            return
        if event == "c_call" and arg.__name__ in SYSTEM_CALLS and arg.__module__ == "posix":
            self.add(Row("system", self.depth(frame) + self.is_shown(frame), "os", arg.__name__))
        elif event == "call" and self.is_shown(frame):
            name = next(
                part for part in reversed(frame.f_code.co_qualname.split(".")) if part not in ("call", "<locals>")
            )
            self.add(Row(LAYER_OF[module.partition(".")[0]], self.depth(frame), module, name))

    def is_shown(self, frame: FrameType) -> bool:
        """Return whether a frame is a public function that another module called, or was called from elsewhere."""
        module, caller = module_of(frame), frame.f_back and module_of(frame.f_back)
        is_public = not frame.f_code.co_name.startswith("_") or frame.f_code.co_name == "__exit__"
        return module is not None and module not in BOOKKEEPING and (caller is None or (is_public and module != caller))

    def depth(self, frame: FrameType) -> int:
        """Return how many calls that are shown lead to a frame."""
        depth = 0
        while (frame := frame.f_back) is not None:
            depth += self.is_shown(frame)
        return depth

    def add(self, row: Row) -> None:
        """Add a row to the part of its thread; calls that follow each other at the same depth share one."""
        here = threading.current_thread() is threading.main_thread()
        part = "worker thread" if not here else "event loop again" if self.parts["worker thread"] else "event loop"
        rows = self.parts[part]
        last = rows[-1] if rows else None
        if last is not None and (last.module, last.depth) == (row.module, row.depth):
            if row.function not in last.function.split(", "):
                last.function += f", {row.function}"
        else:
            rows.append(row)


def module_of(frame: FrameType) -> str | None:
    """Return the name of the module of a frame below the package, None if it is from elsewhere."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(SOURCE) or "<" in path.name:
        return None
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def traces() -> dict[str, Trace]:
    """Trace a put, the first get of a packed object, and another get of it."""
    objrepo.disk.session.orders_metadata = lambda folder: False  # the steps that every file system has
    found: dict[str, Trace] = {}
    switch = Switch()
    threading.setprofile(switch)
    sys.setprofile(switch)

    async def record(name: str, operation: Awaitable[object]) -> None:
        switch.trace = found[name] = Trace(on=True)
        try:
            await operation
        finally:
            found[name].on = False

    async def main(folder: str) -> None:
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            keys = await repo.put_many([b"one", b"two"])
            await repo.put(b"three")
            await repo.get(keys[0])
            await record("get", repo.get(keys[1]))
            await record("get-again", repo.get(keys[1]))
            await record("put", repo.put(b"four"))

    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(str(Path(folder, "repository"))))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


class Switch:
    """A profile function for all threads that passes events to the trace of the moment."""

    trace = Trace()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Pass an event on."""
        self.trace(frame, event, arg)


class Picture:
    """An SVG file under construction: elements, one below the other."""

    def __init__(self, title: str, colours: dict[str, str]) -> None:
        self.title, self.colours, self.y, self.elements = title, colours, 4.0, list[str]()

    def text(
        self, x: float, text: str, colour: str = "ink", *, size: int = 13, bold: bool = False, code: bool = False
    ) -> None:
        """Add text at the present height."""
        family = "ui-monospace, Menlo, Consolas, monospace" if code else "system-ui, sans-serif"
        weight = ' font-weight="600"' if bold else ""
        fill = self.colours.get(colour, colour)
        self.elements.append(
            f'<text x="{x:g}" y="{self.y:g}" fill="{fill}" font-size="{size}" font-family="{family}"{weight}>'
            f"{escape(text)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str, line: str = "none") -> None:
        """Add a rectangle with round corners."""
        colours = [self.colours.get(name, name) for name in (fill, line)]
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{colours[0]}" stroke="{colours[1]}"/>'
        )

    def svg(self) -> str:
        """Return the file."""
        size = f'width="{WIDTH}" height="{self.y:g}" viewBox="0 0 {WIDTH} {self.y:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(self.title)}</title>'
        return "\n".join([head, *self.elements, "</svg>\n"])


def draw_layers(colours: dict[str, str]) -> str:
    """Draw a box for each layer, with its modules."""
    picture = Picture("The layers and their modules; each imports only from those below", colours)
    for modules, (name, text) in zip(contract(), LAYERS.items(), strict=True):
        lines, x = [[]], 12.0
        for module in modules:
            width = 7.3 * len(module) + 12
            if x + width > WIDTH - 8 and lines[-1]:
                lines.append([])
                x = 12.0
            lines[-1].append((x, module))
            x += width
        top = picture.y
        picture.box(1, top, WIDTH - 2, 30 + 19 * len(lines), "box", "line")
        picture.y += 19
        picture.text(12, name, "accent", bold=True)
        picture.text(112, text, "muted", size=12)
        for line in lines:
            picture.y += 19
            for x, module in line:
                picture.text(x, module, size=12, code=True)
        picture.y += 16
    return picture.svg()


def draw_walk(title: str, trace: Trace, colours: dict[str, str]) -> str:
    """Draw a line for each call of a trace, under the thread that made it."""
    picture = Picture(title, colours)
    for part, rows in trace.parts.items():
        if not rows:
            continue
        picture.y += 18
        picture.text(2, part.removesuffix(" again"), "muted", bold=True)
        picture.y += 6
        for row in rows:
            x = 12 + 11 * row.depth
            picture.box(2, picture.y + 2, 4, 18, HUES[row.layer])
            picture.y += 16
            picture.text(x, row.module.replace(".", "/"), "muted", size=12, code=True)
            shown = row.function if len(row.function) + len(row.module) < 44 else row.function.partition(",")[0] + ", …"
            picture.text(x + 7.3 * len(row.module) + 8, shown, "ink", size=12, code=True, bold=row.layer != "system")
            picture.y += 6
    picture.y += 24
    x = 2.0
    layers = {row.layer for rows in trace.parts.values() for row in rows}
    for layer in (each for each in HUES if each in layers):
        picture.box(x, picture.y - 11, 12, 12, HUES[layer])
        picture.text(x + 17, layer, "muted", size=12)
        x += 40 + 7 * len(layer)
    picture.y += 10
    return picture.svg()


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE, help="the folder they go to")
    to = parser.parse_args().to
    walks = {"put": "The calls of a put", "get": "The calls of a first get", "get-again": "The calls of a repeated get"}
    traced = traces()
    for theme, colours in COLOURS.items():
        suffix = "-dark.svg" if theme == "dark" else ".svg"
        (to / f"layers{suffix}").write_text(draw_layers(colours))
        for name, title in walks.items():
            (to / f"{name}{suffix}").write_text(draw_walk(title, traced[name], colours))


if __name__ == "__main__":
    main()
