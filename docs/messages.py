"""Write all error messages, with causes and remedies, to `errors.md`: python docs/messages.py."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "objrepo"
PAGE = ROOT / "docs" / "errors.md"
REMEDIES = ROOT / "docs" / "remedies.toml"
HEADING = "## Find a message\n"
INTRODUCTION = "Search this page for a part of the message. `…` stands for a path, a key, a URL or a number.\n"
# Errors that never reach users of the API, or whose message a protocol prescribes.
HIDDEN_ERRORS = {"HTTPException", "NotImplementedError", "AttributeError", "DatabaseError"}
PUBLIC_ERRORS = {
    "BrokenLogError": "RepositoryError",
    "DamagedError": "RepositoryError",
    "UnsafePathError": "RepositoryError",
    "IndexLostError": "RepositoryUnavailableError",
}
"""The public class of private ones, which the page lists."""
HIDDEN_PACKAGES = {"aiida", "cli", "testing"}


def text_of(node: ast.expr) -> str | None:
    """Return a message with … for each inserted value, None if the expression is not a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return f"{text_of(node.left)}…"
    return None


def messages() -> dict[str, set[str]]:
    """Return the messages of each type of error."""
    found = defaultdict(set)
    for path in sorted(SOURCE.rglob("*.py")):
        if HIDDEN_PACKAGES & set(path.relative_to(SOURCE).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            texts = [text for each in node.args if (text := text_of(each)) is not None and " " in text]
            if name.endswith("Error") and name not in HIDDEN_ERRORS and texts and len(texts[-1].split()) > 2:
                found[name.replace("_ReadBackError", "CorruptObjectError")].add(texts[-1].strip())
    return found


Rows = list[tuple[str, str]]
"""Messages, each with its error."""
Group = dict[str, Any]


def place(groups: list[tuple[Group, Rows]], error: str, text: str) -> Rows | None:
    """Return the rows of the group that a message belongs to, None if there is no such group."""
    for group, rows in groups:
        if any(part in text for part in group.get("messages", ())):
            return rows
    return next((rows for group, rows in groups if error in group.get("errors", ())), None)


def grouped() -> list[tuple[Group, Rows]]:
    """Return each group of `remedies.toml` with its messages, each with its error.

    :raises SystemExit: if a message is in no group.
    """
    groups: list[tuple[Group, Rows]] = [(group, []) for group in tomllib.loads(REMEDIES.read_text())["group"]]
    for group, rows in groups:
        rows += [(text, error) for error, texts in group.get("also", {}).items() for text in texts]
    without: Rows = []
    for error, texts in sorted(messages().items()):
        for text in sorted(texts):
            rows = place(groups, error, text)
            (without if rows is None else rows).append((text, error))
    if without:
        raise SystemExit(f"add the cause and the remedy of these messages to {REMEDIES}: {without}")
    return [(group, rows) for group, rows in groups if rows]


def section() -> str:
    """Return the list, as Markdown."""
    lines = [HEADING, INTRODUCTION]
    for group, rows in grouped():
        lines.append(f"### {group['title']}\n")
        for text, error in rows:
            ticks = "``" if "`" in text else "`"
            space = " " if ticks == "``" else ""
            lines.append(f"- {ticks}{space}{text}{space}{ticks} · {PUBLIC_ERRORS.get(error, error)}")
        lines += [f"\n**Cause.** {group['cause']}\n", f"**Remedy.** {group['remedy']}\n"]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(HEADING)[0] + section())
