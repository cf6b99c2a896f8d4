"""The results of operations on a whole repository, and their progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = (
    "CopyReport",
    "DamagedObject",
    "Leftover",
    "MaintenanceReport",
    "MaintenanceStep",
    "Progress",
    "ProgressCallback",
    "RepairReport",
    "RepairStep",
    "RepositoryInfo",
    "Statistics",
    "VerifyReport",
    "count_of",
    "note_read",
    "watching_reads",
)


_MAX_ITEMS_SHOWN: Final = 50


def count_of(number: int, noun: str) -> str:
    """Return a number with a noun, such as ``1 object`` or ``2,000 objects``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class HTMLTableMixin:
    """Notebooks show an instance as a table."""

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{_as_html(value)}</td></tr>" for name, value in vars(self).items())
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


def _as_html(value: object) -> str:
    if isinstance(value, HTMLTableMixin):
        return value._repr_html_()
    if isinstance(value, tuple):
        shown = "".join(f"<li>{_as_html(each)}</li>" for each in value[:_MAX_ITEMS_SHOWN])
        more = f"<li>and {len(value) - _MAX_ITEMS_SHOWN:,} more</li>" if len(value) > _MAX_ITEMS_SHOWN else ""
        return f"<ul>{shown}{more}</ul>" if value else "none"
    from html import escape  # imported late: only notebooks need it

    return escape(f"{value:,}" if type(value) is int else str(value))


@dataclass(frozen=True, kw_only=True)
class RepositoryInfo(HTMLTableMixin):
    """The state of a repository.

    :ivar location: the kind of the repository, and its path or URL, as text.
    :ivar uuid: its unique identifier; None if it has none.
    :ivar key_format: the format of its keys, such as ``'sha256'``.
    :ivar objects: the number of objects.
    :ivar size: the sum of their uncompressed sizes in bytes; None without ``detailed=True``.
    """

    location: str
    uuid: str | None = None
    key_format: str
    objects: int
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Statistics(HTMLTableMixin):
    """The present state of a repository object, and its counters since it was created.

    :ivar location: the kind of the repository, and its path or URL, as text.
    :ivar users: how many ``async with`` blocks use it.
    :ivar workers_busy: how many blocking calls are running.
    :ivar calls_waiting: how many calls wait for a worker or for their batch.
    :ivar open_objects: how many open objects hold a file.
    :ivar idle_connections: how many sessions of connections and files are kept for the next call.
    :ivar batches: how many thread calls executed a batch of concurrent calls.
    :ivar batched_calls: how many calls these batches contained; divided by ``batches`` it is the mean batch size.
    :ivar cache_hits: how many reads a cache has answered; None without a cache.
    :ivar cache_misses: how many reads it has not answered; None without a cache.
    """

    location: str
    users: int
    workers_busy: int = 0
    calls_waiting: int = 0
    open_objects: int = 0
    idle_connections: int = 0
    batches: int = 0
    batched_calls: int = 0
    cache_hits: int | None = None
    cache_misses: int | None = None


@dataclass(frozen=True)
class MaintenanceStep(HTMLTableMixin):
    """One step of maintenance.

    :ivar name: the option of ``maintain`` that requests it, such as ``'pack_loose'``.
    :ivar objects: how many objects it processes.
    :ivar size: the sum of their sizes in bytes.
    """

    name: str
    objects: int
    size: int


@dataclass(frozen=True)
class MaintenanceReport(HTMLTableMixin):
    """The result of ``maintain``.

    :ivar dry_run: whether the steps were only planned, and nothing was changed.
    :ivar steps: the steps in their order; empty if nothing is to do.
    """

    dry_run: bool
    steps: tuple[MaintenanceStep, ...] = ()


@dataclass(frozen=True)
class DamagedObject(HTMLTableMixin):
    """A damaged object.

    :ivar key: its key; of a file that lists objects, such as a pack in a bucket, its name.
    :ivar reason: how it is damaged.
    """

    key: str
    reason: str


@dataclass(frozen=True)
class Leftover(HTMLTableMixin):
    """Used space that belongs to no object, as deletions and interrupted operations leave it. It is harmless.

    :ivar kind: such as ``'temporary file'``, ``'orphaned bytes'``, ``'lock'``.
    :ivar path: the file, or the file that contains the bytes.
    :ivar size: the size in bytes.
    """

    kind: str
    path: str
    size: int


@dataclass(frozen=True)
class VerifyReport(HTMLTableMixin):
    """The result of ``verify``.

    :ivar objects: how many objects were read.
    :ivar size: the sum of their sizes in bytes.
    :ivar damaged: the damaged objects, in the order of their detection.
    :ivar leftovers: the space that deletions and interrupted operations left unused. The temporary file and the lock
        of a concurrent write are listed, too.
    """

    objects: int
    size: int
    damaged: tuple[DamagedObject, ...]
    leftovers: tuple[Leftover, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no object is damaged."""
        return not self.damaged


@dataclass(frozen=True)
class RepairStep(HTMLTableMixin):
    """One change by ``repair``.

    :ivar action: ``'restored'``: an object, from another copy of it; ``'refilled'``: an object, from another
        repository; ``'quarantined'``: the damaged bytes of an object without an intact copy; ``'recovered'``: a pack,
        after an interrupted repack, or the log of a bucket; ``'removed'``: a leftover file or lock; ``'skipped'``: an
        object or file that cannot be read or moved, and was not changed.
    :ivar subject: the key or path.
    :ivar reason: why it was changed.
    """

    action: Literal["restored", "refilled", "quarantined", "recovered", "removed", "skipped"]
    subject: str
    reason: str


@dataclass(frozen=True)
class RepairReport(HTMLTableMixin):
    """The result of ``repair``.

    :ivar dry_run: whether the steps were only planned, and nothing was changed.
    :ivar steps: the changes in their order; empty if nothing was damaged or left over.
    """

    dry_run: bool
    steps: tuple[RepairStep, ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """The keys of the objects that could not be restored. Their damaged bytes are in the quarantine."""
        return tuple(step.subject for step in self.steps if step.action == "quarantined")


@dataclass(frozen=True, kw_only=True)
class CopyReport(HTMLTableMixin):
    """The result of ``copy`` and of ``export``.

    :ivar dry_run: whether objects were only counted, and nothing was changed.
    :ivar objects: how many objects of the source were compared with the target.
    :ivar copied: how many of them were missing in the target, and were copied.
    :ivar size: the sum of their sizes in bytes.
    :ivar deleted: how many objects, which the source does not have, were deleted from the target.
    :ivar damaged: the objects that were not copied, because they are damaged in the source.
    :ivar renamed: the new key of each copied object by its old one, if the two repositories have different keys; else
        empty.
    """

    dry_run: bool = False
    objects: int
    copied: int
    size: int
    deleted: int = 0
    damaged: tuple[DamagedObject, ...]
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def ok(self) -> bool:
        """Whether no object is damaged, so that every object was copied."""
        return not self.damaged


@dataclass(frozen=True)
class Progress:
    """The progress of a long operation.

    :ivar step: the present step, such as ``'pack_loose'``.
    :ivar done: how many units are done.
    :ivar total: how many units there are; None if unknown.
    :ivar unit: the unit.
    """

    step: str
    done: int
    total: int | None
    unit: Literal["objects", "bytes", "steps"]


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""A function that a long operation calls from time to time, on a worker thread or in the caller's task. It must be fast
and thread-safe. An exception that it raises ends the operation."""


_reads: Final[ContextVar[ProgressCallback | None]] = ContextVar("objrepo_reads", default=None)


@contextmanager
def watching_reads(callback: ProgressCallback) -> Iterator[None]:
    """Have a function called while the ``with`` block, or a task or worker thread that it starts, reads large objects.

    :param callback: called after each piece; the step is the key of the object or names a file of objects, ``done`` is
        where the piece ends, ``total`` the size.
    """
    token = _reads.set(callback)
    try:
        yield
    finally:
        _reads.reset(token)


def note_read(key: str, done: int, total: int) -> None:
    """Report to :func:`watching_reads` that a piece of an object has been read.

    :param key: the object, or the name of a file.
    :param done: where the piece ends, in bytes.
    :param total: the size of the object, or of the range that is read, in bytes.
    """
    callback = _reads.get()
    if callback is not None:
        callback(Progress(key, done, total, "bytes"))
