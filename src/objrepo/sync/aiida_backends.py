"""The two documented backends, with the constructors, strings and dictionaries that AiiDA knows them by."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from objrepo.disk import DiskInfo, DiskRepository
from objrepo.offload import Inline
from objrepo.sandbox import SandboxRepository
from objrepo.sync.repository import SyncRepository

if TYPE_CHECKING:
    from disk_objectstore import Container

__all__ = ("DiskObjectStoreRepositoryBackend", "SandboxFolder", "SandboxRepositoryBackend")

_MEGABYTE: Final = 1024**2
_REPORT: Final = 23
"""The level, between INFO and WARNING, at which aiida-core 2.9 tells its users what it does."""

# The logger that aiida-core writes to in this place: `verdi storage maintain` shows what it is told.
_logger = logging.getLogger("aiida.storage.disk_object_store")


class DiskObjectStoreRepositoryBackend(SyncRepository):
    """A repository in the folder of a ``disk_objectstore.Container``, without a loop and without a thread.

    :param container: the container; only its folder is used, by connections of the repository's own.
    :raises TypeError: if it is no container.
    """

    def __init__(self, container: Container) -> None:
        from disk_objectstore import Container

        if not isinstance(container, Container):
            raise TypeError(f"container must be a disk_objectstore.Container, not {type(container).__name__}")
        self._container = container
        super().__init__(DiskRepository(container.get_folder(), Inline()))

    def __str__(self) -> str:
        if self.is_initialised:
            return f"DiskObjectStoreRepository: {self.uuid} | {self._container.get_folder()}"
        return "DiskObjectStoreRepository: <uninitialised>"

    def get_info(self, detailed: bool = False) -> dict[str, Any]:  # type: ignore[override]
        """Return the configuration and the number of objects and, if asked for, sizes in units of 1024² bytes.

        The dictionary is that of aiida-core 2.9.
        """
        info = self._runner.call(self._repository.info, detailed)
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
    ) -> dict[str, Any]:
        """Pack loose objects and, when nobody else uses the repository, rewrite packs and index without holes.

        A step that is None is taken wherever it is safe. What is done is also logged, as aiida-core logs it.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only what is safe is done.
        :param pack_loose: whether to move loose objects into packs.
        :param do_repack: whether to rewrite packs without what was deleted.
        :param clean_storage: whether to remove loose files of packed objects.
        :param do_vacuum: whether to rewrite the index.
        :param compress: whether packing compresses the objects that are worth it.
        :param incremental_cleanup: whether loose files go as soon as their pack is written, or only with
            ``clean_storage``; the document does not have it, aiida-core 2.9 does.
        :return: a dictionary that names each step, with the objects and the bytes that it concerns.
        :raises ValueError: if something is asked for that is not safe while the repository is live.
        :raises RepositoryBusyError: if another packer is at work.
        """
        steps = {"pack_loose": pack_loose, "do_repack": do_repack, "clean_storage": clean_storage}
        options = {**steps, "do_vacuum": do_vacuum, "compress": compress, "incremental_cleanup": incremental_cleanup}
        if dry_run or _logger.isEnabledFor(_REPORT):
            planned: dict[str, Any] = super().maintain(True, live, **options)
            _report(planned)
            if dry_run:
                return planned
        result: dict[str, Any] = super().maintain(False, live, **options)
        return result


def _report(planned: dict[str, Any]) -> None:
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

    :ivar abspath: its absolute path.
    """

    abspath: str


class SandboxRepositoryBackend(SyncRepository):
    """A repository in a temporary folder, without a loop and without a thread; the folder goes when this goes.

    :param filepath: in which folder to make the sandbox; None takes the system's folder for temporary files.
    """

    def __init__(self, filepath: str | None = None) -> None:
        self._sandbox_repository = SandboxRepository(filepath, Inline())
        super().__init__(self._sandbox_repository)

    def __del__(self) -> None:
        """Delete the sandbox folder, if it was made and still exists."""
        if "_resources" in self.__dict__:  # else the constructor has failed
            self.close()

    def __str__(self) -> str:
        folder = self._sandbox_repository.folder
        return f"SandboxRepository: {folder or '<uninitialised>'}"

    @property
    def sandbox(self) -> SandboxFolder:
        """The sandbox folder, made if it is not there yet."""
        self.initialise()
        return SandboxFolder(str(self._sandbox_repository.folder))
