"""A repository in a folder that `disk_objectstore.Container` reads and writes too."""

from __future__ import annotations

from objrepo.disk.repository import DiskRepository
from objrepo.disk.stats import DiskInfo, ObjectLocation

__all__ = ("DiskInfo", "DiskRepository", "ObjectLocation")
