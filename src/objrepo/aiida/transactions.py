"""`TransactionalRepository`: a repository whose objects are stored at the end of a transaction of the database."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from objrepo.errors import RepositoryError
from objrepo.forwarding import ForwardingRepository
from objrepo.protocol import AsyncRepository, ObjectWriter, Source
from objrepo.reports import ProgressCallback
from objrepo.sync import DiskObjectStoreRepositoryBackend, SyncRepository
from objrepo.sync.runner import InPlace


class Transaction:
    """What one thread puts between the begin and the end of a transaction: a batch, opened by the first write.

    :ivar reader: the batch, or the repository as long as no batch is open.
    :ivar ended: whether the transaction has ended.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._repository = repository
        self.reader: AsyncRepository = repository
        self._batch = ExitStack()
        self._failed = False
        self.ended: bool = False

    def writer(self) -> AsyncRepository:
        """Return the batch."""
        if self.reader is self._repository:
            self.reader = self._batch.enter_context(InPlace().enter(self._repository.batch()))
        return self.reader

    def store(self) -> None:
        """Make durable and visible to all what was put.

        :raises RepositoryError: if that failed before: objects that were put are missing.
        """
        if self._failed:
            raise RepositoryError(
                f"{self._repository} could not store files of this transaction, as an earlier error says: roll it back"
            )
        self._failed = True
        self.reader = self._repository
        self._batch.close()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.ended = True
        if exc_type is None:
            self.store()
        else:
            self._batch.__exit__(exc_type, exc, traceback)


class _TransactionRepository(ForwardingRepository):
    """Forwards to the batch of the calling thread's transaction, and outside of one to the repository.

    :param repository: a repository with an ``Inline`` offload.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._without_transaction = repository
        self._thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._without_transaction, name)  # such as `offload` and `repair`

    def __str__(self) -> str:
        return str(self._without_transaction)

    @property
    def transaction(self) -> Transaction | None:
        """The transaction of the calling thread."""
        transaction: Transaction | None = getattr(self._thread, "transaction", None)
        # The thread that ends a transaction may be another one: it is, where a generator that holds one is collected.
        return None if transaction is None or transaction.ended else transaction

    @contextmanager
    def in_transaction(self) -> Iterator[Transaction]:
        """Begin a transaction of the calling thread, or join the one that it has."""
        if joined := self.transaction:
            yield joined
            return
        with Transaction(self._without_transaction) as self._thread.transaction:
            yield self._thread.transaction

    @property
    def _repository(self) -> AsyncRepository:  # type: ignore[override]
        transaction = self.transaction
        return self._without_transaction if transaction is None else transaction.reader

    @property
    def _writer(self) -> AsyncRepository:
        transaction = self.transaction
        return self._without_transaction if transaction is None else transaction.writer()

    async def __aenter__(self) -> Self:
        await self._without_transaction.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._without_transaction.__aexit__(exc_type, exc, traceback)

    async def put(self, source: Source) -> str:
        return await self._writer.put(source)

    async def put_many(
        self, sources: Iterable[Source] | AsyncIterable[Source], progress: ProgressCallback | None = None
    ) -> list[str]:
        return await self._writer.put_many(sources, progress)

    def create(self) -> ObjectWriter:
        return self._writer.create()

    def batch(self) -> AbstractAsyncContextManager[AsyncRepository]:
        return self._writer.batch()


class TransactionalRepository(SyncRepository):
    """A repository whose objects are stored at the end of a transaction, and outside of one at once.

    :param repository: a repository with an ``Inline`` offload.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._plain = repository
        self._transactions = _TransactionRepository(repository)
        super().__init__(self._transactions)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._plain,)

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a transaction of the calling thread, or join the one that it has."""
        return self._transactions.in_transaction()


class TransactionalDiskRepository(DiskObjectStoreRepositoryBackend, TransactionalRepository):
    """AiiDA's class for a folder, with transactions."""
