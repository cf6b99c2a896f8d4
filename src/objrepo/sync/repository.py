"""`SyncRepository`: AiiDA's documented interface for any async repository."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from objrepo.errors import RepositoryClosedError
from objrepo.protocol import AsyncRepository, ObjectStream
from objrepo.streams import BATCH_BYTES, BATCH_OBJECTS, ObjectIterator
from objrepo.sync.aiida_abc import AbstractRepositoryBackend
from objrepo.sync.files import WHOLE_BYTES, object_reader, whole_reader
from objrepo.sync.runner import CoroutineRunner, InPlace, ThroughPortal

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ("SyncRepository",)

_KEY_PAGE_SIZE: Final = 1000


class SyncRepository(AbstractRepositoryBackend):
    """An :class:`~objrepo.AsyncRepository` for callers without an event loop.

    A repository with an :class:`~objrepo.offload.Inline` offload runs on the caller's thread. It is open from the
    start until :meth:`close`, starts no thread and no event loop, and may be used by many threads at the same time,
    inside a running event loop, and in a child process after ``fork``.

    Any other repository runs in the event loop of a portal's thread and is open inside ``with`` only. An exception that
    interrupts a call, such as ``KeyboardInterrupt``, cancels the call. A child process that was forked meanwhile gets a
    :class:`~objrepo.RepositoryError`.

    The methods raise the errors of the async methods.

    :param repository: the repository; it need not have been entered.
    :param portal: a portal for a repository that needs one; by default, ``with`` starts one and stops it again.
    """

    def __init__(self, repository: AsyncRepository, portal: BlockingPortal | None = None) -> None:
        self._repository = repository
        self._portal = portal
        self._open_runner: CoroutineRunner | None = None
        self._resources = ExitStack()
        if self._runs_inline:
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
        """Close connections, files and a portal that was started. ``with`` opens them again."""
        self._open_runner = None
        self._resources.close()

    @property
    def _runs_inline(self) -> bool:
        return not getattr(getattr(self._repository, "offload", None), "concurrent", True)

    @property
    def _runner(self) -> CoroutineRunner:
        if self._open_runner is None:
            raise RepositoryClosedError(f"{self._repository} is not open: use it inside `with`")
        return self._open_runner

    def _enter(self) -> None:
        with ExitStack() as resources:
            runner: CoroutineRunner
            if self._runs_inline:
                runner = InPlace()
            else:
                from anyio.from_thread import start_blocking_portal

                portal = self._portal or resources.enter_context(start_blocking_portal())
                runner = ThroughPortal(portal, self._repository)
            resources.enter_context(runner.enter(self._repository))
            self._resources = resources.pop_all()
            self._open_runner = runner

    # -- the documented interface ------------------------------------------------------------------------------------

    @property
    def uuid(self) -> str | None:
        """The unique identifier of the repository; None if it has none or does not exist yet."""
        return self._runner.call(self._repository.uuid)

    @property
    def key_format(self) -> str | None:
        """The format of the keys, such as ``'sha256'``."""
        return self._runner.call(self._repository.key_format)

    def initialise(self, **kwargs: Any) -> None:
        """Create the repository; do nothing if it exists.

        :param kwargs: options of the backend, such as those of :meth:`objrepo.DiskRepository.initialise`.
        :raises ValueError: if the repository exists with other options.
        """
        self._runner.call(lambda: self._repository.initialise(**kwargs))

    @property
    def is_initialised(self) -> bool:
        """Whether the repository exists."""
        return self._runner.call(self._repository.is_initialised)

    def erase(self) -> None:
        """Delete the repository and all its resources; do nothing if it does not exist."""
        self._runner.call(self._repository.erase)

    def _put_object_from_filelike(self, handle: BinaryIO) -> str:
        return self._runner.call(self._repository.put, handle)

    def has_objects(self, keys: list[str]) -> list[bool]:
        """Return for each key whether the object exists, in the order of the keys."""
        return self._runner.call(self._repository.has_many, keys)

    def has_object(self, key: str) -> bool:
        """Return whether an object exists."""
        return self._runner.call(self._repository.has, key)

    def list_objects(self) -> Iterable[str]:
        """Iterate over the keys of all objects, each once, with bounded memory."""
        call = self._runner.call
        keys: Any = self._repository.keys()
        try:
            while page := call(_next_keys, keys):
                yield from page
        finally:
            if hasattr(keys, "aclose"):
                call(keys.aclose)

    def get_info(self, detailed: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the repository as a dictionary: the fields of :class:`~objrepo.reports.RepositoryInfo`.

        :param detailed: whether to include the sizes, which takes longer.
        :param kwargs: options of the backend.
        """
        return dataclasses.asdict(self._runner.call(lambda: self._repository.info(detailed, **kwargs)))

    def maintain(self, dry_run: bool = False, live: bool = True, **kwargs: Any) -> Any:
        """Run the maintenance of the repository.

        :param dry_run: whether to only report what would be done.
        :param live: whether other processes may be using the repository; steps that are unsafe then are not run.
        :param kwargs: options of the backend, such as those of :meth:`objrepo.DiskRepository.maintain`.
        :return: a dictionary from the names of the steps to their numbers of objects and bytes.
        :raises RepositoryBusyError: if another process is maintaining the repository.
        """
        report = self._runner.call(lambda: self._repository.maintain(dry_run, live, **kwargs))
        return {step.name: {"objects": step.objects, "size": step.size} for step in report.steps}

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object for reading.

        :param key: the key of the object.
        :return: a context manager for an ``io.BufferedReader``, which it closes.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if the object does not exist.
        """
        runner = self._runner
        with runner.enter(self._repository.open(key)) as stream, object_reader(runner, stream) as reader:
            yield reader

    def get_object_content(self, key: str) -> bytes:
        """Return the content of an object.

        :param key: the key of the object.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if the object does not exist.
        """
        return self._runner.call(self._repository.get, key)

    def iter_object_streams(self, keys: Iterable[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Iterate over objects in the order that is fastest to read; each object comes once.

        :param keys: the keys of the objects.
        :return: an iterator over pairs of a key and an ``io.BufferedReader``, which is closed when the iterator
            advances.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) before the first object, if objects do not exist; it
            names all of them.
        """
        runner = self._runner
        with runner.enter(self._repository.stream(keys)) as objects:
            while True:
                small, large, error = runner.call(_next_objects, objects)
                for key, content in small:
                    with whole_reader(key, content) as reader:
                        yield key, reader
                if error is not None:
                    raise error
                if large is not None:
                    with object_reader(runner, large) as reader:
                        yield large.key, reader
                elif not small:
                    return

    def get_object_hash(self, key: str) -> str:
        """Return the SHA-256 of an object as 64 hexadecimal digits, for every key format.

        :param key: the key of the object.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if the object does not exist.
        """
        return self._runner.call(self._repository.hash, key)

    def delete_objects(self, keys: list[str]) -> None:
        """Delete objects.

        :param keys: the keys of the objects; a key may be given twice.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if objects do not exist; it names all of them, and
            nothing is deleted.
        """
        self._runner.call(self._repository.delete_many, keys)


async def _next_objects(
    objects: AsyncIterator[tuple[str, ObjectStream]],
) -> tuple[list[tuple[str, bytes]], ObjectStream | None, Exception | None]:
    """Return the next small objects, and the large object or the error that follows them."""
    if isinstance(objects, ObjectIterator) and (whole := await objects.small_objects()):
        return whole, None, None
    small: list[tuple[str, bytes]] = []
    size = 0
    try:
        async for key, stream in objects:
            if stream.size > WHOLE_BYTES:
                return small, stream, None
            small.append((key, await stream.read()))
            size += stream.size
            if len(small) == BATCH_OBJECTS or size >= BATCH_BYTES:
                break
    except Exception as error:  # noqa: BLE001  (raised after the objects before it)
        return small, None, error
    return small, None, None


async def _next_keys(keys: AsyncIterator[str]) -> list[str]:
    """Return the next keys: one call for many keys, as each call has a cost."""
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == _KEY_PAGE_SIZE:
            break
    return page
