"""Writing objects into a zip or a tar, for other programs, as a backup, or to be read by `ArchiveRepository`."""

from __future__ import annotations

from objrepo.export.work import export
from objrepo.export.writers import is_tar

__all__ = ("export", "is_tar")
