"""Writing objects into a zip or a tar, for other programs, as a backup, or to be read by `ArchiveRepository`."""

from __future__ import annotations

from objrepo.exporting.formats import is_tar
from objrepo.exporting.work import export

__all__ = ("export", "is_tar")
