"""What operations on a whole repository tell: its state, the work done on it, the damage found in it, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
)


_SHOWN_AT_MOST: Final = 50


class HTMLTableMixin:
    """A report that notebooks show as a table."""

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{_as_html(value)}</td></tr>" for name, value in vars(self).items())
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"


def _as_html(value: object) -> str:
    if isinstance(value, HTMLTableMixin):
        return value._repr_html_()
    if isinstance(value, tuple):
        shown = "".join(f"<li>{_as_html(each)}</li>" for each in value[:_SHOWN_AT_MOST])
        more = f"<li>and {len(value) - _SHOWN_AT_MOST:,} more</li>" if len(value) > _SHOWN_AT_MOST else ""
        return f"<ul>{shown}{more}</ul>" if value else "none"
    from html import escape  # notebooks only, and it is not small

    return escape(f"{value:,}" if type(value) is int else str(value))


@dataclass(frozen=True, kw_only=True)
class RepositoryInfo(HTMLTableMixin):
    """The state of a repository.

    :ivar location: where it is, for people to read.
    :ivar uuid: its unique identifier, None where it has none.
    :ivar key_format: what its keys look like, such as ``'sha256'``.
    :ivar objects: how many different objects it holds.
    :ivar size: their bytes, each object counted once and uncompressed; None unless details were asked for.
    """

    location: str
    uuid: str | None = None
    key_format: str
    objects: int
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Statistics(HTMLTableMixin):
    """What a repository object is doing at the moment, and has done since it was made.

    :ivar location: where the repository is, for people to read.
    :ivar users: how many have entered it and not left it.
    :ivar workers_busy: how many blocking calls are at work.
    :ivar calls_waiting: how many wait for a worker, or for others with whom they travel.
    :ivar open_objects: how many objects are open that hold a file.
    :ivar idle_connections: how many sets of connections and files are kept warm between calls.
    :ivar batches: how many hops to a worker were made for those who waited at the same moment.
    :ivar batched_calls: how many calls travelled with these, so that the two tell how large a batch was.
    :ivar cache_hits: how many reads a cache has answered; None where there is no cache.
    :ivar cache_misses: how many it has not.
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
    """One kind of work on a repository.

    :ivar name: the switch of ``maintain`` that asks for it, such as ``'pack_loose'``.
    :ivar objects: how many objects it concerns.
    :ivar size: their bytes.
    """

    name: str
    objects: int
    size: int


@dataclass(frozen=True)
class MaintenanceReport(HTMLTableMixin):
    """What ``maintain`` did, or with ``dry_run`` would do.

    :ivar dry_run: whether nothing was changed.
    :ivar steps: the work in its order; empty where a backend needs none.
    """

    dry_run: bool
    steps: tuple[MaintenanceStep, ...] = ()


@dataclass(frozen=True)
class DamagedObject(HTMLTableMixin):
    """An object whose stored bytes are not what they should be.

    :ivar key: its key.
    :ivar reason: what is wrong with it.
    """

    key: str
    reason: str


@dataclass(frozen=True)
class Leftover(HTMLTableMixin):
    """Something that takes space and belongs to no object; it does no harm to any.

    :ivar kind: such as ``'temporary file'``, ``'orphaned bytes'``, ``'lock'``.
    :ivar path: the file that it is, or is in.
    :ivar size: how many bytes it takes.
    """

    kind: str
    path: str
    size: int


@dataclass(frozen=True)
class VerifyReport(HTMLTableMixin):
    """The result of reading every object back.

    :ivar objects: how many objects were read.
    :ivar size: how many bytes they have.
    :ivar damaged: those that are damaged, in the order in which they were found.
    :ivar leftovers: what was left behind by deletions and by whoever was interrupted. A write that is under way at the
        moment has its temporary file and its lock here, too.
    """

    objects: int
    size: int
    damaged: tuple[DamagedObject, ...]
    leftovers: tuple[Leftover, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


@dataclass(frozen=True)
class RepairStep(HTMLTableMixin):
    """One thing that ``repair`` did.

    :ivar action: ``'restored'`` for an object of which another copy was intact, ``'refilled'`` for one that came from
        another repository, ``'quarantined'`` for one that is gone but for its damaged bytes, ``'recovered'`` for an
        interrupted repack, ``'removed'`` for a file or lock that was left over.
    :ivar subject: the key or path.
    :ivar reason: what was wrong with it.
    """

    action: Literal["restored", "refilled", "quarantined", "recovered", "removed"]
    subject: str
    reason: str


@dataclass(frozen=True)
class RepairReport(HTMLTableMixin):
    """What ``repair`` did, or with ``dry_run`` would do.

    :ivar dry_run: whether nothing was changed.
    :ivar steps: the work in its order; empty where nothing was wrong.
    """

    dry_run: bool
    steps: tuple[RepairStep, ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """The keys of the objects that could not be restored; what is left of them is in the quarantine."""
        return tuple(step.subject for step in self.steps if step.action == "quarantined")


@dataclass(frozen=True, kw_only=True)
class CopyReport(HTMLTableMixin):
    """What ``copy`` did, or with ``dry_run`` would do.

    :ivar dry_run: whether nothing was changed.
    :ivar objects: how many objects were looked at.
    :ivar copied: how many of them the target did not have, and has now.
    :ivar size: their bytes.
    :ivar deleted: how many objects of the target the source does not have, if these were to be deleted.
    :ivar damaged: the objects that were not copied, as their bytes in the source are not those of their keys.
    :ivar renamed: which key became which, where the two repositories have different keys; else empty.
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
        """Whether everything is there now."""
        return not self.damaged


@dataclass(frozen=True)
class Progress:
    """How far a long operation has come.

    :ivar step: what is being done, such as ``'pack_loose'``.
    :ivar done: how much of it is done.
    :ivar total: how much there is to do, None where that is not known.
    :ivar unit: what is counted.
    """

    step: str
    done: int
    total: int | None
    unit: Literal["objects", "bytes", "steps"]


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""Called now and then by a long operation, on a worker thread or in the caller's task: it must be quick and
thread-safe. What it raises ends the operation."""
