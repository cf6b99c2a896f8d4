"""`SyncRepository`: any async repository behind the documented interface."""

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

_KEYS_AT_ONCE: Final = 1000


class SyncRepository(AbstractRepositoryBackend):
    """An :class:`~objrepo.AsyncRepository` for callers without an event loop.

    A repository that runs :class:`~objrepo.offload.Inline` is driven right here: it is open at once and until
    ``close``, starts no thread and no loop, and may be used by many threads at the same time, inside a running loop,
    and in a child after ``fork``. Any other repository goes through a portal to an event loop and is open inside
    ``with`` only, so that the thread of that loop does not outlive it.

    Errors are those of the async methods.

    :param repository: the repository; nobody else needs to have entered it.
    :param portal: the portal to use where one is needed; unless given, ``with`` starts one, and ends it again.
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._repository}>"  # which looks at no disk, as `str` may

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
        """Close connections, files and the portal that was started. May be called again, and followed by ``with``."""
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
        """The unique identifier of the repository, None where it has none or does not exist yet."""
        return self._runner.call(self._repository.uuid)

    @property
    def key_format(self) -> str | None:
        """What the keys look like, such as ``'sha256'``."""
        return self._runner.call(self._repository.key_format)

    def initialise(self, **kwargs: Any) -> None:
        """Make the repository, or do nothing where it is made already; see :meth:`AsyncRepository.initialise`."""
        self._runner.call(lambda: self._repository.initialise(**kwargs))

    @property
    def is_initialised(self) -> bool:
        """Whether the repository exists."""
        return self._runner.call(self._repository.is_initialised)

    def erase(self) -> None:
        """Delete the repository with every resource that it made. What is not there is no error."""
        self._runner.call(self._repository.erase)

    def _put_object_from_filelike(self, handle: BinaryIO) -> str:
        return self._runner.call(self._repository.put, handle)

    def has_objects(self, keys: list[str]) -> list[bool]:
        """Say of each key whether its object is there, in the order of the keys."""
        return self._runner.call(self._repository.has_many, keys)

    def has_object(self, key: str) -> bool:
        """Say whether an object is there."""
        return self._runner.call(self._repository.has, key)

    def list_objects(self) -> Iterable[str]:
        """Iterate over the keys of all objects, each once, in bounded memory."""
        call = self._runner.call
        keys: Any = self._repository.keys()
        try:
            while page := call(_next_keys, keys):
                yield from page
        finally:
            if hasattr(keys, "aclose"):
                call(keys.aclose)

    def get_info(self, detailed: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the repository: the fields of what :meth:`AsyncRepository.info` returns.

        :param detailed: whether to sum up the sizes too, which takes longer.
        :param kwargs: nothing that is known here.
        """
        return dataclasses.asdict(self._runner.call(lambda: self._repository.info(detailed, **kwargs)))

    def maintain(self, dry_run: bool = False, live: bool = True, **kwargs: Any) -> Any:
        """Do the work that keeps a repository fast and small; see :meth:`AsyncRepository.maintain`.

        :param dry_run: only say what would be done.
        :param live: whether others may be using the repository; then only what is safe is done.
        :param kwargs: the backend's own options.
        :return: a dictionary that names each step, with the objects and the bytes that it concerns.
        """
        report = self._runner.call(lambda: self._repository.maintain(dry_run, live, **kwargs))
        return {step.name: {"objects": step.objects, "size": step.size} for step in report.steps}

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """Open an object for reading.

        :return: a context manager for an ``io.BufferedReader``, closed on leaving.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if there is no such object.
        """
        runner = self._runner
        with runner.enter(self._repository.open(key)) as stream, object_reader(runner, stream) as reader:
            yield reader

    def get_object_content(self, key: str) -> bytes:
        """Return the whole content of an object.

        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if there is no such object.
        """
        return self._runner.call(self._repository.get, key)

    def iter_object_streams(self, keys: Iterable[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Iterate over objects in the order that is fastest; one that is given twice comes once.

        :return: an iterator over keys and readers (``io.BufferedReader``), each closed by the next step.
        :raises ObjectNotFoundError: (a ``FileNotFoundError``) naming every missing key, before the first object.
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
        """Return the SHA-256 of an object as 64 hexadecimal digits, whatever the key format.

        :raises ObjectNotFoundError: (a ``FileNotFoundError``) if there is no such object.
        """
        return self._runner.call(self._repository.hash, key)

    def delete_objects(self, keys: list[str]) -> None:
        """Delete objects; one that is given twice is deleted once.

        :raises ObjectNotFoundError: (a ``FileNotFoundError``) naming every missing key; then nothing was deleted.
        """
        self._runner.call(self._repository.delete_many, keys)


async def _next_objects(
    objects: AsyncIterator[tuple[str, ObjectStream]],
) -> tuple[list[tuple[str, bytes]], ObjectStream | None, Exception | None]:
    """Take some small objects at once, and the large one or the error that comes after them."""
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
    except Exception as error:  # noqa: BLE001  (it is raised once its turn has come)
        return small, None, error
    return small, None, None


async def _next_keys(keys: AsyncIterator[str]) -> list[str]:
    """Take some keys at once, as each call of a coroutine has its price."""
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == _KEYS_AT_ONCE:
            break
    return page
