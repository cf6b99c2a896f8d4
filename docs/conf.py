"""The configuration of Sphinx: `nox -s docs`."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes

import objrepo

project = "objrepo"
author = "The objrepo developers"
copyright = author  # noqa: A001  (Sphinx's word)
release = version = objrepo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"objrepo {release}"
exclude_patterns = ["examples", "benchmarks"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Source", "ProgressCallback", "Hook")}
autodoc_default_options = {"members": True}

# References to other packages are not resolved; those to this one must be.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!objrepo\.).*"),
    (
        r"py:.*",
        r"objrepo\.[\w.]*\.(T|BackendT|BinaryReader|BlockingPool|RangeHandle|Submitted|CoroutineRunner)",
    ),
]


def link_the_protocol(app, what, name, obj, options, lines):
    """Link `AsyncRepository` in docstrings to its public name."""
    for number, line in enumerate(lines):
        lines[number] = line.replace("`AsyncRepository", "`~objrepo.AsyncRepository")


def shorten_signatures(app, what, name, obj, options, signature, returns):
    """Show the names of type aliases, and no constructor of a protocol."""
    if what == "class" and signature == "(*args, **kwargs)":
        return "", returns
    alias = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
    return tuple(alias.sub(r"\1", part) if part else part for part in (signature, returns))


def format_help(app, ctx, lines):
    """Format examples of a command as a block and options as code, as typography changes hyphens and quotes."""
    formatted = []
    for line in lines:
        if line.startswith("| "):
            if not (formatted and formatted[-1].startswith("   ")):
                formatted += [".. code-block:: sh", ""]
            formatted.append("   " + line[2:].replace("\\", ""))
        else:
            formatted.append(line if "`" in line else re.sub(r"(?<!\S)--[\w-]+", r"``\g<0>``", line))
    lines[:] = formatted


def show_dark_pictures(app, doctree):
    """Add to each picture that has a dark version, `NAME-dark.svg`, that version for the dark theme."""
    for image in [*doctree.findall(nodes.image)]:
        stem, _, kind = image["uri"].rpartition(".")
        if (Path(app.env.doc2path(app.env.docname)).parent / f"{stem}-dark.{kind}").exists():
            dark = image.deepcopy()
            dark["uri"] = f"{stem}-dark.{kind}"
            image["classes"].append("only-light")
            dark["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, dark)


def setup(app):
    """Connect the functions to the events of Sphinx."""
    app.connect("doctree-read", show_dark_pictures, priority=100)  # before Sphinx collects the images
    app.connect("sphinx-click-process-description", format_help)
    app.connect("autodoc-process-docstring", link_the_protocol)
    app.connect("autodoc-process-signature", shorten_signatures)
