"""`ForwardingRepository`: the base of repositories that add something to another repository."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from objrepo.protocol import AsyncRepository

__all__ = ("ForwardingRepository",)

P = ParamSpec("P")
T = TypeVar("T")


def _forwarded(
    method: Callable[Concatenate[AsyncRepository, P], T],
) -> Callable[Concatenate[ForwardingRepository, P], T]:
    """Return a method that calls the method of the same name of the other repository."""
    name = method.__name__

    @functools.wraps(method)
    def forward(self: ForwardingRepository, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = getattr(self._repository, name)(*args, **kwargs)
        return result

    return forward


class ForwardingRepository(AsyncRepository):
    """Forwards every method of the protocol to another repository; a subclass overrides what it does differently.

    :param repository: the repository that does the work. Entering and leaving this one enters and leaves it.
    """

    def __init__(self, repository: AsyncRepository) -> None:
        self._repository = repository

    def __repr__(self) -> str:
        return f"<{self}>"

    def __copy__(self) -> Self:
        return deepcopy(self)  # the other repository is copied too, so that the copy is closed

    async def __aenter__(self) -> Self:
        await self._repository.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._repository.__aexit__(exc_type, exc, traceback)

    initialise = _forwarded(AsyncRepository.initialise)
    is_initialised = _forwarded(AsyncRepository.is_initialised)
    uuid = _forwarded(AsyncRepository.uuid)
    key_format = _forwarded(AsyncRepository.key_format)
    put = _forwarded(AsyncRepository.put)
    put_many = _forwarded(AsyncRepository.put_many)
    create = _forwarded(AsyncRepository.create)
    has = _forwarded(AsyncRepository.has)
    has_many = _forwarded(AsyncRepository.has_many)
    get = _forwarded(AsyncRepository.get)
    size = _forwarded(AsyncRepository.size)
    hash = _forwarded(AsyncRepository.hash)
    open = _forwarded(AsyncRepository.open)
    send_object = _forwarded(AsyncRepository.send_object)
    stream = _forwarded(AsyncRepository.stream)
    keys = _forwarded(AsyncRepository.keys)
    delete = _forwarded(AsyncRepository.delete)
    delete_many = _forwarded(AsyncRepository.delete_many)
    info = _forwarded(AsyncRepository.info)
    maintain = _forwarded(AsyncRepository.maintain)
    verify = _forwarded(AsyncRepository.verify)
    erase = _forwarded(AsyncRepository.erase)
