"""Write the list of all error messages in `docs/errors.md`: python docs/messages.py."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "objrepo"
PAGE = ROOT / "docs" / "errors.md"
HEADING = "## Every message\n"
# Errors that never reach users of the API, or whose message a protocol prescribes.
HIDDEN_ERRORS = {"HTTPException", "NotImplementedError", "AttributeError", "DatabaseError"}
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


def section() -> str:
    """Return the list, as Markdown."""
    lines = [HEADING]
    for name, texts in sorted(messages().items()):
        lines += [f"\n**`{name}`**\n", *(f"- {text.replace('*', chr(92) + '*')}" for text in sorted(texts))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(HEADING)[0] + section())
