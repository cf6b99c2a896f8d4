"""`SyncRepository`: every method of an async repository, and the names that AiiDA documents, without an event loop."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeVar, cast

from objrepo.disk import DiskRepository, ObjectLocation
from objrepo.errors import RepositoryClosedError
from objrepo.offload import Inline, runs_in_place
from objrepo.protocol import AsyncRepository, SyncSource
from objrepo.reports import (
    CopyReport,
    MaintenanceReport,
    ProgressCallback,
    RepairReport,
    RepositoryInfo,
    Statistics,
    VerifyReport,
)
from objrepo.streams import next_objects
from objrepo.sync.aiida_abc import AbstractRepositoryBackend
from objrepo.sync.docstrings import documented_as
from objrepo.sync.files import WHOLE_BYTES, object_reader, whole_reader
from objrepo.sync.runner import CoroutineRunner, InPlace, ThroughPortal
from objrepo.sync.sources import sync_source, sync_sources
from objrepo.sync.writer import SyncWriter
from objrepo.url import open_repository as open_async_repository
from objrepo.with_only import with_only

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_KEY_PAGE_SIZE: Final = 1000


def open_repository(url: str | os.PathLike[str]) -> SyncRepository:
    """Return the repository at a path or URL. It is open until it is closed, and starts no event loop.

    :param url: as for :func:`objrepo.open_repository`: ``PATH``, ``s3://BUCKET/PREFIX``, ``memory:``, ….
    :return: the repository, which need not exist: see :meth:`SyncRepository.initialise`. ``with`` closes it.
    :raises TypeError: if ``url`` is neither a ``str`` nor a path.
    :raises ValueError: if the scheme is unknown, or the rest of the URL is invalid.
    """
    return SyncRepository(open_async_repository(url, Inline()))


@documented_as(AsyncRepository, DiskRepository)
class SyncRepository(AbstractRepositoryBackend):
    """An :class:`~objrepo.AsyncRepository` for callers without an event loop, as :func:`open_repository` returns it.

    It has the methods of the async repository, with the same parameters, results and errors, and the names that AiiDA
    documents, such as :meth:`put_object_from_filelike`. An async source is a :class:`TypeError`. ``repair``,
    ``locate``, ``keys_with_prefix``, ``prefetch`` and ``statistics`` are an :class:`AttributeError` where the
    repository does not have them.

    A repository with an :class:`~objrepo.offload.Inline` offload runs on the caller's thread. It is open from the
    start until :meth:`close`, starts no thread and no event loop, and may be used by many threads at the same time,
    inside a running event loop, and in a child process after ``fork``.

    Any other repository runs in the event loop of a portal's thread and is open inside ``with`` only. An exception that
    interrupts a call, such as ``KeyboardInterrupt``, cancels the call. A child process that was forked meanwhile gets a
    :class:`~objrepo.RepositoryError`.

    :param repository: the repository; it need not have been entered.
    :param portal: a portal for a repository that needs one; by default, ``with`` starts one and stops it again.
    :raises TypeError: if the repository is something else, such as a path.
    """

    def __init__(self, repository: AsyncRepository, portal: BlockingPortal | None = None) -> None:
        if isinstance(repository, type) or not hasattr(repository, "__aenter__"):
            raise TypeError(
                f"a SyncRepository needs an async repository, such as DiskRepository(path, Inline()), not "
                f"{_shown(repository)}: for a path or URL, use objrepo.sync.open_repository(path)"
            )
        if not (portal is None or hasattr(portal, "start_task_soon")):
            raise TypeError(f"portal must be an anyio.from_thread.BlockingPortal, not {_shown(portal)}")
        self._repository = repository
        self._portal = portal
        self._open_runner: CoroutineRunner | None = None
        self._resources = ExitStack()
        if runs_in_place(repository):
            self._enter()

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self._repository}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._repository,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._repository}>"  # `str` of a subclass may read the disk

    # -- opening and closing ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._open_runner is None:
            self._enter()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections, files and a portal that was started. ``with`` opens them again.

        Objects that are open are closed. A writer or a batch whose block was not left stores nothing.
        """
        self._open_runner = None
        self._resources.close()

    @property
    def _runner(self) -> CoroutineRunner:
        if self._open_runner is None:
            raise RepositoryClosedError(f"{self._repository} is not open: use it inside `with`")
        return self._open_runner

    def _enter(self) -> None:
        with ExitStack() as resources:
            runner: CoroutineRunner
            if runs_in_place(self._repository):
                runner = InPlace()
            else:
                from anyio.from_thread import start_blocking_portal

                portal = self._portal or resources.enter_context(start_blocking_portal())
                runner = ThroughPortal(portal, self._repository)
                if portal is not self._portal:
                    resources.callback(runner.stop)
            resources.enter_context(runner.enter(self._repository))
            self._resources = resources.pop_all()
            self._open_runner = runner

    # -- the repository as a whole -----------------------------------------------------------------------------------

    @property
    def uuid(self) -> str | None:
        """The unique identifier of the repository; None if it has none or does not exist yet."""
        return self._runner.call(self._repository.uuid)

    @property
    def key_format(self) -> str:
        """The format of the keys: ``'sha256'``, ``'sha1'`` or ``'uuid4'``."""
        return self._runner.call(self._repository.key_format)

    @property
    def is_initialised(self) -> bool:
        """Whether the repository exists."""
        return self._runner.call(self._repository.is_initialised)

    def initialise(self, **kwargs: Any) -> None:
        """Create the repository, or do nothing if it exists.

        :param kwargs: options of the backend, such as those of :meth:`objrepo.DiskRepository.initialise`.
        :raises ValueError: if an option is invalid or contradicts the existing repository.
        :raises TypeError: if the backend has no such option.
        :raises OSError: if the repository cannot be created.
        """
        self._runner.call(partial(self._repository.initialise, **kwargs))

    def info(self, detailed: bool = False) -> RepositoryInfo:
        return self._runner.call(self._repository.info, detailed)

    def maintain(self, dry_run: bool = False, live: bool = True, **kwargs: Any) -> MaintenanceReport:
        """Do the work that keeps a repository fast and small.

        :param dry_run: whether to report only what would be done.
        :param live: whether others may be using the repository; then only safe work is done.
        :param kwargs: options of the backend, such as those of :meth:`objrepo.DiskRepository.maintain`.
        :return: what was done, or with ``dry_run`` would be done.
        :raises ValueError: if work is requested that is not safe while the repository is live.
        :raises TypeError: if the backend has no such option.
        :raises RepositoryBusyError: if another process is maintaining the repository.
        :raises OSError: if the storage fails.
        """
        return self._runner.call(partial(self._repository.maintain, dry_run, live, **kwargs))

    def verify(self, progress: ProgressCallback | None = None, quick: bool = False) -> VerifyReport:
        return self._runner.call(self._repository.verify, progress, quick)

    def erase(self) -> None:
        self._runner.call(self._repository.erase)

    # -- writing -----------------------------------------------------------------------------------------------------

    def put(self, source: SyncSource) -> str:
        return self._runner.call(self._repository.put, sync_source(source))

    def put_many(self, sources: Iterable[SyncSource], progress: ProgressCallback | None = None) -> list[str]:
        return self._runner.call(self._repository.put_many, sync_sources(sources), progress)

    def create(self) -> SyncWriter:
        return SyncWriter(self._runner, self._repository.create())

    @with_only("repo.batch() as batch")
    def batch(self) -> Iterator[SyncRepository]:
        runner = self._runner
        with runner.enter(self._repository.batch()) as batch:
            yield _around(batch, runner)

    def delete(self, key: str) -> None:
        self._runner.call(self._repository.delete, key)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._runner.call(self._repository.delete_many, keys)

    # -- reading -----------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        return self._runner.call(self._repository.has, key)

    def has_many(self, keys: Iterable[str]) -> list[bool]:
        return self._runner.call(self._repository.has_many, keys)

    def get(self, key: str, check: bool | None = None) -> bytes:
        return self._runner.call(self._repository.get, key, check)

    def size(self, key: str) -> int:
        return self._runner.call(self._repository.size, key)

    def hash(self, key: str) -> str:
        return self._runner.call(self._repository.hash, key)

    @with_only("repo.open(key) as file")
    def open(
        self, key: str, offset: int = 0, length: int | None = None, check: bool | None = None
    ) -> Iterator[io.BufferedReader]:
        """Open an object for reading: ``with repo.open(key) as file``.

        :param key: the object.
        :param offset: where the range begins, in bytes; past the end, the file is empty.
        :param length: the maximum length of the range in bytes; None reads to the end.
        :param check: whether to compare the hash of the content with the key, where keys are hashes; None as for
            :meth:`get`. A file that is read in sequence raises :class:`CorruptObjectError` at its end at the latest if
            the bytes are not those of the key. A range cannot be compared: the default leaves it unchecked.
        :return: a context manager for a seekable ``io.BufferedReader``, whose positions count from the offset.
        :raises ValueError: on entering, if the offset or length is negative, or if a range is given with
            ``check=True``.
        :raises TypeError: on entering, if one of these is of a wrong type.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) on entering, if the object does not exist.
        :raises CorruptObjectError: on entering or while reading, if its stored bytes are damaged.
        :raises RepositoryBusyError: on entering, if another process locks the index for too long.
        :raises OSError: on entering or while reading, if it cannot be read.
        """
        runner = self._runner
        opening = self._repository.open(key, offset, length, check)
        with runner.enter(opening) as stream, object_reader(runner, stream) as reader:
            yield reader

    def stream(self, keys: Iterable[str], check: bool | None = None) -> Iterator[tuple[str, io.BufferedReader]]:
        """Iterate over many objects in the order that is fastest to read: ``for key, file in repo.stream(keys)``.

        :param keys: the objects; one that is given twice comes once.
        :param check: as for :meth:`open`. A small object is compared before its step returns it.
        :return: an iterator over keys and files, each an ``io.BufferedReader``. Each step, and leaving the loop, closes
            the file of the step before.
        :raises TypeError: in the first step, if a key is no ``str``.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) in the first step, naming every missing key; in a later
            one, if an object was deleted since.
        :raises CorruptObjectError: in a step, or while reading, if stored bytes are damaged.
        :raises OSError: if an object cannot be read.
        """
        runner = self._runner
        with runner.enter(self._repository.stream(keys, check)) as objects:
            while True:
                small, large, error = runner.call(next_objects, objects, WHOLE_BYTES)
                for key, _, content, _ in small:
                    reader = whole_reader(key, content)
                    try:
                        yield key, reader
                    finally:
                        reader.close()  # `with` takes a tenth of the time of a step
                if error is not None:
                    raise error
                if large is not None:
                    with object_reader(runner, large) as reader:
                        yield large.key, reader
                elif not small:
                    return

    def keys(self) -> Iterator[str]:
        call = self._runner.call
        keys: Any = self._repository.keys()
        try:
            while page := call(_next_keys, keys):
                yield from page
        finally:
            if hasattr(keys, "aclose"):
                call(keys.aclose)

    # -- what only some repositories have ----------------------------------------------------------------------------

    def repair(
        self,
        dry_run: bool = False,
        live: bool = True,
        *,
        source: SyncRepository | None = None,
        timeout: float = 0,
        progress: ProgressCallback | None = None,
    ) -> RepairReport:
        def repair(_: AsyncRepository, source: AsyncRepository | None = None) -> Awaitable[RepairReport]:
            given = {"source": source, "timeout": timeout, "progress": progress}
            options = {name: value for name, value in given.items() if value}  # buckets have none of them
            return cast("Awaitable[RepairReport]", self._method("repair")(dry_run, live, **options))

        return call_with(repair, self) if source is None else call_with(repair, self, source)

    def locate(self, key: str) -> ObjectLocation:
        location: ObjectLocation = self._runner.call(self._method("locate"), key)
        return location

    def keys_with_prefix(self, prefix: str) -> list[str]:
        keys: list[str] = self._runner.call(self._method("keys_with_prefix"), prefix)
        return keys

    def prefetch(self, keys: Iterable[str], progress: ProgressCallback | None = None) -> CopyReport:
        """Fetch objects into a cache; see :class:`~objrepo.CachedRepository`.

        :param keys: the objects. If they are more than the cache can hold, the later ones evict the earlier ones.
        :param progress: called after each object.
        :return: how many objects were fetched, and which are damaged in the origin.
        :raises ObjectNotFoundError: if there is no such object.
        :raises RepositoryUnavailableError: if the origin is unavailable.
        """
        report: CopyReport = self._runner.call(self._method("prefetch"), keys, progress)
        return report

    def statistics(self) -> Statistics:
        statistics: Statistics = self._method("statistics")()
        return statistics

    def _method(self, name: str) -> Any:
        method = getattr(self._repository, name, None)
        if method is None:
            raise AttributeError(f"{type(self._repository).__name__} has no method {name!r}")
        return method

    # -- the names that AiiDA documents ------------------------------------------------------------------------------

    def _put_object_from_filelike(self, handle: BinaryIO) -> str:
        return self.put(handle)

    def has_objects(self, keys: list[str]) -> list[bool]:
        return self.has_many(keys)

    def has_object(self, key: str) -> bool:
        return self.has(key)

    def list_objects(self) -> Iterator[str]:
        return self.keys()

    def get_info(self, detailed: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the repository as a dictionary: the fields of what :meth:`info` returns.

        :param detailed: whether to include the sizes, which takes longer.
        :param kwargs: options of the backend.
        """
        return dataclasses.asdict(self._runner.call(partial(self._repository.info, detailed, **kwargs)))

    def get_object_content(self, key: str) -> bytes:
        return self.get(key)

    def get_object_hash(self, key: str) -> str:
        return self.hash(key)

    def iter_object_streams(self, keys: Iterable[str]) -> Iterator[tuple[str, BinaryIO]]:
        return self.stream(keys)

    def delete_objects(self, keys: list[str]) -> None:
        self.delete_many(keys)

    def delete_object(self, key: str) -> None:
        self.delete(key)


def _around(repository: AsyncRepository, runner: CoroutineRunner) -> SyncRepository:
    """Return the facade of a repository that the runner has entered."""
    facade = SyncRepository.__new__(SyncRepository)
    facade._repository, facade._portal, facade._open_runner = repository, None, runner  # noqa: SLF001  (of the same module)
    facade._resources = ExitStack()  # noqa: SLF001
    return facade


def call_with(function: Callable[..., Awaitable[T]], *facades: SyncRepository) -> T:
    """Call a coroutine function with the async repositories of facades, and return its result.

    It runs in place if all of them do, else in the loop of a portal, where what runs in place runs as well.

    :raises TypeError: if one is not a :class:`SyncRepository`.
    """
    for facade in facades:
        if not isinstance(facade, SyncRepository):
            raise TypeError(f"pass a repository of objrepo.sync.open_repository(path), not {_shown(facade)}")
    runners = [facade._runner for facade in facades]  # noqa: SLF001  (of the same module)
    runner = next((runner for runner in runners if isinstance(runner, ThroughPortal)), runners[0])
    return runner.call(function, *(facade._repository for facade in facades))  # noqa: SLF001


def _shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else repr(value)


async def _next_keys(keys: AsyncIterator[str]) -> list[str]:
    """Return the next keys: one call for many keys, as each call has a cost."""
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == _KEY_PAGE_SIZE:
            break
    return page
