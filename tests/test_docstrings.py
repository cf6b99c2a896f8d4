"""`help()` of a method shows its parameters, result, errors and cancellation on the class that users hold."""

from __future__ import annotations

import inspect
import re

import pytest

from objrepo import (
    ArchiveRepository,
    AzureRepository,
    CachedRepository,
    DiskRepository,
    GCSRepository,
    HTTPRepository,
    MemoryRepository,
    S3Repository,
    SandboxRepository,
)
from objrepo.instrumentation import InstrumentedRepository

CLASSES = (
    ArchiveRepository,
    AzureRepository,
    CachedRepository,
    DiskRepository,
    GCSRepository,
    HTTPRepository,
    InstrumentedRepository,
    MemoryRepository,
    S3Repository,
    SandboxRepository,
)
METHODS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in CLASSES
    for name, member in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith("_")
]
NEVER_SUSPENDS = {"create", "keys", "statistics"}
"""These return at once, or an iterator whose steps only read."""


def test_the_methods_are_found():
    found = {parameter.values for parameter in METHODS}
    assert {(CachedRepository, "prefetch"), (DiskRepository, "repair"), (S3Repository, "put")} <= found


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_docstrings_are_whole(kind, name):
    method = getattr(kind, name)
    text = inspect.getdoc(method)
    assert text, "it has no docstring"
    summary = text.splitlines()[0]
    assert summary.endswith((".", ":", "``.")), summary
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert f":param {parameter}:" in text
    returned = inspect.signature(method).return_annotation
    if returned not in (None, "None"):
        assert summary.startswith("Return") or ":return:" in text or re.search(r"^(Iterate|Yield)", summary)
    if name in NEVER_SUSPENDS:
        return
    assert ":raises " in text
    assert re.search("[Cc]ancel", text), "it does not say what cancellation does"
