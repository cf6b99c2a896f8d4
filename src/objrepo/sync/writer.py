"""`SyncWriter`: what `create` returns without an event loop."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from objrepo.errors import RepositoryClosedError
from objrepo.protocol import ObjectWriter
from objrepo.sync.docstrings import documented_as
from objrepo.sync.runner import CoroutineRunner
from objrepo.with_only import WithOnly


@documented_as(ObjectWriter)
class SyncWriter(WithOnly):
    """A new object that is written piece by piece, by one thread at a time.

    ``with repo.create() as writer`` stores the object when the block is left; if the block raises, nothing is stored.
    """

    _usage = "repo.create() as writer"

    def __init__(self, runner: CoroutineRunner, writer: ObjectWriter) -> None:
        self._runner = runner
        self._writer = writer
        self._context: AbstractContextManager[ObjectWriter] | None = None

    @property
    def key(self) -> str:
        """The key of the object, once ``with`` was left.

        :raises ValueError: before that, and if nothing was stored.
        """
        return self._writer.key

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._writer.size

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        if self._context is None:
            raise RepositoryClosedError("the writer is not open: use `with repo.create() as writer`")
        return self._runner.call(self._writer.write, chunk)

    def __enter__(self) -> Self:
        context = self._runner.enter(self._writer)
        context.__enter__()
        self._context = context
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.__exit__(exc_type, exc, traceback)
