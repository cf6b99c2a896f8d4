"""`DiskBatch`: many small objects by appends to one pack, one fsync, and one transaction of the index.

The pack stays locked while the batch is open, so other writers of groups use another one. A note in the container's
folder says where the batch began in the pack: what a killed process has appended is removed by the next maintenance.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from objrepo.batch import BatchBackend
from objrepo.disk.group_commit import append, insert, own_pack, put_group, without_packed
from objrepo.disk.index import RawRow
from objrepo.disk.pack_files import read_at
from objrepo.disk.repack import cut_off
from objrepo.disk.session import ContainerSession, SessionPool
from objrepo.errors import CorruptObjectError, RepositoryError
from objrepo.streams import BATCH_OBJECTS

if TYPE_CHECKING:
    from objrepo.backend import Backend

_MAX_ROWS: Final = 100_000
"""How many objects a batch commits together at the most; they take 40 MB of memory."""


class DiskBatch(BatchBackend):
    """A batch of a container.

    :param backend: the container's backend.
    :param sessions: the sessions of that backend.
    """

    def __init__(self, backend: Backend, sessions: SessionPool) -> None:
        super().__init__(backend)
        self._sessions = sessions
        self._process = os.getpid()
        self._rows: dict[str, RawRow] = {}
        self._packed: set[str] = set()  # objects that were in the repository when they were put
        self._pack: _LockedPack | None = None
        self._failed = False

    def commit(self) -> None:
        super().commit()
        with self._storing, self._sessions.check_out() as session:
            self._require_intact()
            self._commit_rows(session)

    def close(self) -> None:
        super().close()
        with self._storing, self._lock:
            pack, self._pack = self._pack, None
            self._rows.clear()
            if pack is not None and self._process == os.getpid():
                with suppress(OSError, RepositoryError), self._sessions.check_out() as session:
                    # Bytes that `insert` has left may belong to rows that recovery finds; maintenance removes the rest.
                    if not self._failed or pack.size() <= pack.start:
                        cut_off(session, pack.number, pack.start)
                        pack.note.unlink(missing_ok=True)
            if pack is not None:
                pack.close()

    def store(self, objects: dict[str, bytes]) -> None:
        if self._process != os.getpid():
            raise RepositoryError(
                f"the batch of {self._backend.location} was open when this process was forked: open one after the fork"
            )
        self._require_intact()
        with self._sessions.check_out() as session:
            _require_format(session, objects)
            objects = {key: content for key, content in objects.items() if key not in self._rows}
            new = without_packed(session, objects)
            self._packed.update(objects.keys() - new.keys())
            if new:
                if self._pack is None:
                    self._pack = _LockedPack(session)
                rows = append(self._pack.file, self._pack.number, new)
                with self._lock:
                    self._rows.update((row[0], row) for row in rows)
            is_full = self._pack is not None and self._pack.size() >= session.config.pack_size_target
            if is_full or len(self._rows) + len(self._packed) >= _MAX_ROWS:
                self._commit_rows(session)

    def _commit_rows(self, session: ContainerSession) -> None:
        """Make what was appended durable and insert its rows; one thread at a time calls it."""
        _require_format(session, chain(self._packed, self._rows))
        if deleted := self._packed - session.index.present(self._packed):
            raise RepositoryError(
                f"an object of {session.layout.folder} was deleted after it was put in a batch: {min(deleted)}; "
                "the batch is not stored, put its objects again"
            )
        self._packed.clear()
        if self._pack is None:
            return
        rows = list(self._rows.values())
        self._failed = True  # until the rows are inserted: an error may have cut their bytes off the pack
        if not insert(session, self._pack.file, self._pack.start, rows):
            for start in range(0, len(rows), BATCH_OBJECTS):
                put_group(session, [self._content(row) for row in rows[start : start + BATCH_OBJECTS]])
        with self._lock:
            self._rows.clear()
            self._pack.note.unlink(missing_ok=True)
            self._pack.close()
            self._pack = None
        self._failed = False

    def _require_intact(self) -> None:
        if self._failed:
            raise RepositoryError(
                f"a part of the batch of {self.location} could not be stored, as an earlier error says: put all its "
                "objects again, in another batch"
            )

    def is_uncommitted(self, key: str) -> bool:
        return super().is_uncommitted(key) or key in self._rows

    def uncommitted(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._rows:
                return self._content(self._rows[key])
            return super().uncommitted(key)

    def uncommitted_keys(self) -> set[str]:
        with self._lock:
            return super().uncommitted_keys().union(self._rows)

    def forget(self, key: str) -> None:
        with self._lock:
            super().forget(key)
            self._rows.pop(key, None)
            self._packed.discard(key)

    def _content(self, row: RawRow) -> bytes:
        assert self._pack is not None, "rows belong to the pack that is open"
        content = read_at(self._pack.file.fileno(), row[3], row[2])
        if len(content) < row[3]:
            raise CorruptObjectError(row[0], f"the pack {self._pack.file.name!r} ends before the object does")
        return content


def _require_format(session: ContainerSession, keys: Iterable[str]) -> None:
    """Refuse keys of a container that another one with another hash type has replaced.

    :raises RepositoryError: if the container has other keys.
    """
    if not all(map(session.matches, islice(keys, 1))):  # they are all of one format
        raise RepositoryError(
            f"the repository at {session.layout.folder} was replaced by one with {session.config.hash_type} keys while "
            "a batch was open: nothing of it is stored, put its objects again"
        )


class _LockedPack:
    """A pack that is locked and open for appending.

    :ivar number: its number.
    :ivar file: the file.
    :ivar start: its size before the batch.
    :ivar note: says so to maintenance, in case this process is killed.
    """

    def __init__(self, session: ContainerSession) -> None:
        with ExitStack() as resources:
            self.number, self.file = resources.enter_context(own_pack(session))
            self.start = self.size()
            self.note = session.layout.append_note(self.number, self.start)
            self.note.touch()
            self.close = resources.pop_all().close

    def size(self) -> int:
        """Return the present size in bytes."""
        return os.fstat(self.file.fileno()).st_size
