"""AiiDA's two backend classes, with AiiDA's constructors, string representations and dictionaries."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from objrepo.disk import DiskInfo, DiskRepository
from objrepo.offload import Inline
from objrepo.reports import MaintenanceReport
from objrepo.sandbox import SandboxRepository
from objrepo.sync.repository import SyncRepository

if TYPE_CHECKING:
    from disk_objectstore import Container

_MEGABYTE: Final = 1024**2
_REPORT: Final = 23
"""The log level REPORT of aiida-core 2.9, between INFO and WARNING."""

# aiida-core logs its maintenance to this logger, and `verdi storage maintain` shows that.
_logger = logging.getLogger("aiida.storage.disk_object_store")


class DiskObjectStoreRepositoryBackend(SyncRepository):
    """A repository in the folder of a ``disk_objectstore.Container``. It starts no event loop and no thread.

    :param container: the container; the repository uses its folder only, with connections of its own.
    :param check: whether reads compare the content with the key; see :class:`~objrepo.DiskRepository`.
    :raises TypeError: if ``container`` is not a ``disk_objectstore.Container``.
    """

    def __init__(self, container: Container, *, check: bool = False) -> None:
        from disk_objectstore import Container

        if not isinstance(container, Container):
            raise TypeError(f"container must be a disk_objectstore.Container, not {type(container).__name__}")
        self._container = container
        super().__init__(DiskRepository(container.get_folder(), Inline(), check=check))
        self._check = check

    def __reduce__(self) -> tuple[Any, ...]:
        # A new container: this one may have an open SQL session, which cannot be pickled.
        container = type(self._container)(self._container.get_folder())
        return partial(type(self), check=self._check), (container,)

    def __str__(self) -> str:
        if self.is_initialised:
            return f"DiskObjectStoreRepository: {self.uuid} | {self._container.get_folder()}"
        return "DiskObjectStoreRepository: <uninitialised>"

    def get_info(self, detailed: bool = False) -> dict[str, Any]:  # type: ignore[override]
        """Return the dictionary of aiida-core 2.9: the configuration and the numbers of objects.

        :param detailed: whether to add the sizes, in units of 1024² bytes.
        """
        info = self.info(detailed)
        assert isinstance(info, DiskInfo), "the repository is a DiskRepository"
        result: dict[str, Any] = {
            "SHA-hash algorithm": info.key_format,
            "Compression algorithm": info.compression_algorithm,
            "Objects": {"packed": info.packed, "loose": info.loose, "pack_files": info.pack_files},
        }
        if detailed:
            sizes = {
                "total_size_packed": info.packed_size,
                "total_size_packed_on_disk": info.packed_size_on_disk,
                "total_size_packfiles_on_disk": info.pack_files_size,
                "total_size_packindexes_on_disk": info.index_size,
                "total_size_loose": info.loose_size,
            }
            result["Size (MB)"] = {name: round((size or 0) / _MEGABYTE, 2) for name, size in sizes.items()}
        return result

    def maintain(  # type: ignore[override]
        self,
        dry_run: bool = False,
        live: bool = True,
        pack_loose: bool | None = None,
        do_repack: bool | None = None,
        clean_storage: bool | None = None,
        do_vacuum: bool | None = None,
        compress: bool = False,
        incremental_cleanup: bool = True,
    ) -> dict[str, dict[str, int]]:
        """Pack loose objects and, unless the repository is live, rewrite the packs and the index without gaps.

        A step whose argument is None is run if it is safe. The steps are also logged as aiida-core logs them.

        :param dry_run: whether to only report what would be done.
        :param live: whether other processes may be using the repository; steps that are unsafe then are not run.
        :param pack_loose: whether to move loose objects into packs.
        :param do_repack: whether to rewrite packs without deleted objects.
        :param clean_storage: whether to remove the loose files of packed objects.
        :param do_vacuum: whether to rewrite the index.
        :param compress: whether to compress packed objects where that makes them smaller.
        :param incremental_cleanup: whether to remove loose files as soon as their pack is written, not only in the
            step ``clean_storage``. aiida-core 2.9 has this argument, its documented interface does not.
        :return: a dictionary from the names of the steps to their numbers of objects and bytes.
        :raises ValueError: if a requested step is unsafe while the repository is live.
        :raises RepositoryBusyError: if another packer holds the lock.
        """
        steps = {"pack_loose": pack_loose, "do_repack": do_repack, "clean_storage": clean_storage}
        options = {**steps, "do_vacuum": do_vacuum, "compress": compress, "incremental_cleanup": incremental_cleanup}
        if dry_run or _logger.isEnabledFor(_REPORT):
            planned = _dictionary(super().maintain(True, live, **options))
            _log(planned)
            if dry_run:
                return planned
        return _dictionary(super().maintain(False, live, **options))


def _dictionary(report: MaintenanceReport) -> dict[str, dict[str, int]]:
    return {step.name: {"objects": step.objects, "size": step.size} for step in report.steps}


def _log(planned: dict[str, dict[str, int]]) -> None:
    if step := planned.get("pack_loose"):
        size = step["size"] / _MEGABYTE
        _logger.log(_REPORT, f"Packing all loose files ({step['objects']} files occupying {size} MB) ...")
    if step := planned.get("do_repack"):
        _logger.log(_REPORT, f"Re-packing all pack files ({step['objects']} files in packs) ...")
    if "clean_storage" in planned:
        vacuum = "do_vacuum" in planned
        _logger.log(_REPORT, f"Cleaning the repository database (with `vacuum={vacuum}`) ...")


@dataclass(frozen=True)
class SandboxFolder:
    """The folder of a sandbox.

    :ivar abspath: the absolute path of the folder.
    """

    abspath: str


class SandboxRepositoryBackend(SyncRepository):
    """A repository in a temporary folder, which is deleted with this object. It starts no event loop and no thread.

    :param filepath: the folder in which to create the sandbox; by default the system's folder for temporary files.
    """

    def __init__(self, filepath: str | None = None) -> None:
        self._sandbox_repository = SandboxRepository(filepath, Inline())
        super().__init__(self._sandbox_repository)

    def __del__(self) -> None:
        """Delete the sandbox folder if it exists."""
        if "_resources" in self.__dict__:  # it is missing if the constructor has raised
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sandbox_repository.backend.parent,)

    def __str__(self) -> str:
        folder = self._sandbox_repository.folder
        return f"SandboxRepository: {folder or '<uninitialised>'}"

    @property
    def sandbox(self) -> SandboxFolder:
        """The sandbox folder, created on first use."""
        self.initialise()
        return SandboxFolder(str(self._sandbox_repository.folder))
