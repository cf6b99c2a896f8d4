"""`copy` and `export` for callers without an event loop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from objrepo.exporting import export as async_export
from objrepo.reports import CopyReport, ProgressCallback
from objrepo.sync.repository import SyncRepository, call_with
from objrepo.sync.sources import sync_keys
from objrepo.transfer import copy as async_copy


def copy(
    source: SyncRepository,
    target: SyncRepository,
    keys: Iterable[str] | None = None,
    *,
    delete: bool = False,
    deletions: int | None = None,
    check: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> CopyReport:
    """Copy the objects that the target does not have.

    If both repositories have keys of the same format, and these are hashes, only missing objects are copied: after an
    interruption, call it again to continue. Otherwise every object is copied, and the report has its new key. Objects
    that are damaged in the source are reported and not copied.

    :param source: the repository to read from.
    :param target: the repository to write to. If one of the two is used through a portal, both are.
    :param keys: the objects to copy; None copies all.
    :param delete: whether to delete the objects of the target that the source does not have.
    :param deletions: with ``delete``, their expected number, as a ``dry_run`` reports it.
    :param check: whether to read every copied object back from the target and compare it.
    :param dry_run: whether only to count what would be copied and deleted.
    :param progress: called with the number of objects that were compared.
    :return: how many objects were copied and deleted, and which are damaged.
    :raises TypeError: if a repository is not a :class:`SyncRepository`, or the keys are async.
    :raises ObjectNotFoundError: if the source does not have one of ``keys``.
    :raises CorruptObjectError: with ``check``, if the target returns a different content than was stored.
    :raises ValueError: if the number of objects to delete is not ``deletions``; then none is deleted. Or if ``delete``
        is combined with ``keys``, or with repositories that have different keys.
    """
    return call_with(
        partial(
            async_copy,
            keys=sync_keys(keys),
            delete=delete,
            deletions=deletions,
            check=check,
            dry_run=dry_run,
            progress=progress,
        ),
        source,
        target,
    )


def export(
    source: SyncRepository,
    path: str | os.PathLike[str],
    keys: Iterable[str] | None = None,
    *,
    compress: bool = False,
    update: bool = False,
    check: bool = False,
    progress: ProgressCallback | None = None,
) -> CopyReport:
    """Write objects to a zip or a tar, each as a member ``repo/KEY``.

    The file gets its name when it is complete and durable. If the export fails or is interrupted, there is no file;
    with ``update``, the objects written by then remain in ``.NAME.partial``, and the next call continues there. If keys
    are hashes, contents are compared with them; damaged objects are reported and not written.

    :param source: the repository to read from.
    :param path: the file; a tar if its name ends in ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2`` or ``.tar.xz``, else
        a zip.
    :param keys: the objects to write; None writes all.
    :param compress: whether to deflate the objects in a zip. The compression of a tar follows from its name.
    :param update: whether to add the missing objects to an existing zip, whose members all remain. The file is replaced
        when the new one is complete: meanwhile both need space.
    :param check: whether to read the whole zip back and compare it before it gets its name.
    :param progress: called with the number of objects that were compared.
    :return: how many objects were written, and which are damaged.
    :raises TypeError: if the repository is not a :class:`SyncRepository`, or the keys are async.
    :raises FileExistsError: if the file exists, without ``update``.
    :raises ObjectNotFoundError: if the source does not have one of ``keys``.
    :raises CorruptObjectError: with ``check``, if the file returns a different content than was written.
    :raises RepositoryBusyError: if another process or thread updates the same file.
    :raises OSError: if the file cannot be written.
    :raises ValueError: if ``compress``, ``update`` or ``check`` is given for a tar, or the name is that of a tar with
        another compression.
    """
    return call_with(
        partial(
            async_export,
            path=path,
            keys=sync_keys(keys),
            compress=compress,
            update=update,
            check=check,
            progress=progress,
        ),
        source,
    )
