"""The command that stores files: put."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fnmatch import fnmatchcase
from itertools import groupby, islice
from typing import Any, BinaryIO, Final

import click

from objrepo.cli.context import Failures, is_json, is_quiet, json_option, print_report, standard_input, with_repository
from objrepo.cli.progress import Reporter, reporter, size_of
from objrepo.disk import DiskRepository
from objrepo.errors import with_path
from objrepo.key_list import list_line
from objrepo.protocol import AsyncRepository
from objrepo.reports import Progress, count_of
from objrepo.sync.runner import InPlace

_BATCH_FILES: Final = 200
"""The files that are open at the same time: every system allows a process at least 256."""
_HASHED_BESIDE_BYTES: Final = 128 * 1024


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="Skip files and directories whose name matches a shell pattern."
)
@click.option("-z", "--null", is_flag=True, help="End lines in NUL, and do not escape names.")
@json_option
@with_repository
async def put(repository: AsyncRepository, paths: tuple[str, ...], exclude: tuple[str, ...], null: bool) -> int:
    """Store files, and print their keys as sha256sum does.

    PATH is a file, a directory with all files in it, or - for standard input. The repository is initialised if it does
    not exist. In a directory, symbolic links and special files are skipped and reported; a PATH that is one is read.
    Files that cannot be read are reported, and the others are stored.

    \b
    objrepo put README.md src --exclude build
    objrepo put photos > photos.sha256
    tar c photos | objrepo put -
    """
    if paths.count("-") > 1:
        raise click.UsageError("standard input can be read only once: give - only once")
    stdin = standard_input() if "-" in paths else None
    if not any(path == "-" or os.path.lexists(path) for path in paths):  # no repository is created for nothing
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), paths[0])
    await repository.initialise()
    fail = Failures()
    walk = _Walk(paths, exclude, repository)
    at_terminal = sys.stderr is not None and sys.stderr.isatty() and not is_quiet()
    with reporter() as report:
        key_format = await repository.key_format() if at_terminal or is_json() else None
        tally = _Tally(repository, key_format, report, walk.size() if at_terminal else None)
        for batch in _batches(walk.files(fail)):
            for path, source, key in await _store(repository, batch, tally, stdin, fail):
                report.hide()
                row = {"key": key, "path": path, "size": source.size, "new": source.is_new}
                line = f"{key}  {path}" if null else list_line(key, path)
                print_report(row, line, end="\0" if null else "\n")
        if at_terminal or report.has_shown:
            click.echo(tally, err=True)
    return fail.status


class _Tally:
    """Counts the objects and bytes of a `put`.

    :param key_format: of the repository; None if it is not to be found out which objects are new, for which each file
        is hashed once more.
    :param report: shows how many bytes have been read.
    :param total: how many bytes there are; None if unknown.
    """

    def __init__(
        self, repository: AsyncRepository, key_format: str | None, report: Reporter, total: int | None
    ) -> None:
        self._repository = repository
        self._key_format = key_format
        self._report = report
        self._total = total
        self._batch: set[str] = set()
        self.hashing = ThreadPoolExecutor(1)
        self._read = self._size = self._new_size = self._objects = self._new = 0

    def hasher(self) -> Any:
        """Return a hasher that computes the key; None if it is not needed, or if keys are no hashes."""
        return None if self._key_format in (None, "uuid4") else hashlib.new(self._key_format)

    def is_new(self, key: str) -> bool:
        """Return whether the repository does not have an object, which is about to be stored."""
        is_new = key not in self._batch and not InPlace().call(self._repository.has, key)
        self._batch.add(key)
        return is_new

    def read(self, size: int) -> None:
        """Count bytes that were read."""
        self._read += size
        total = None if self._total is None else max(self._total, self._read)  # files may grow
        self._report(Progress("put", self._read, total, "bytes"))

    def stored(self, sources: Iterable[_Source]) -> None:
        """Count a batch that was stored."""
        self._batch.clear()
        for source in sources:
            self._objects += 1
            self._size += source.size
            self._new += source.is_new
            self._new_size += source.size if source.is_new else 0

    def __str__(self) -> str:
        all_files = f"{count_of(self._objects, 'file')}, {size_of(self._size)}"
        if self._key_format is None:
            return all_files
        new = f"{count_of(self._new, 'new object')}, {size_of(self._new_size)}"
        return f"{all_files}: {new}; {self._objects - self._new:,} stored already"


class _Source:
    """A file that is hashed while it is read: at its end it is known whether the repository has the object.

    :ivar size: how many bytes were read.
    :ivar is_new: whether the repository did not have the object.
    """

    def __init__(self, path: str, file: BinaryIO, tally: _Tally) -> None:
        self._path = path
        self._file = file
        self._tally = tally
        self._hasher = tally.hasher()
        self._hashing: Future[None] | None = None
        self.size = 0
        self.is_new = True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        with with_path(self._path):
            data = self._file.read(size)
        if data:
            self.size += len(data)
            self._tally.read(len(data))
            self._hash(data)
        elif self._hasher is not None:
            self._hash(b"")
            self.is_new, self._hasher = self._tally.is_new(self._hasher.hexdigest()), None
        return data

    def _hash(self, data: bytes) -> None:
        """Hash some bytes; many of them by another thread, while the repository hashes and writes the same ones."""
        if self._hashing is not None:
            self._hashing = self._hashing.result()
        if self._hasher is not None and len(data) < _HASHED_BESIDE_BYTES:
            self._hasher.update(data)
        elif self._hasher is not None:
            self._hashing = self._tally.hashing.submit(self._hasher.update, data)


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield files in batches. One whose reads may block, such as a pipe, is a batch of its own."""
    for alone, group in groupby(paths, lambda path: path == "-" or not os.path.isfile(path)):  # noqa: PTH113
        while batch := list(islice(group, 1 if alone else _BATCH_FILES)):
            yield batch


async def _store(
    repository: AsyncRepository, paths: list[str], tally: _Tally, stdin: BinaryIO | None, fail: Failures
) -> list[tuple[str, _Source, str]]:
    """Store a batch of files; return the path, the source and the key of each one that can be opened."""
    opened: list[tuple[str, _Source]] = []
    with ExitStack() as closing:
        for path in paths:
            try:
                file: Any = stdin if path == "-" else closing.enter_context(open(path, "rb", buffering=0))
            except OSError as error:
                fail(error)
            else:
                opened.append((path, _Source(path, file, tally)))
        sources = [source for _, source in opened]
        if len(sources) == 1:  # `put` stores it as a loose file, as AiiDA does
            keys = [await repository.put(sources[0])]
        else:
            keys = await repository.put_many(sources)
    tally.stored(sources)
    return [(path, source, key) for (path, source), key in zip(opened, keys, strict=True)]


class _Walk:
    """The files that paths name: those of a directory in order, without the files of the repository."""

    def __init__(self, paths: Iterable[str], exclude: Iterable[str], repository: AsyncRepository) -> None:
        self._paths = paths
        self._patterns = [pattern.rstrip("/") for pattern in exclude]
        self._own = os.path.realpath(repository.path) if isinstance(repository, DiskRepository) else None

    def size(self) -> int | None:
        """Return the size of all files in bytes, None if it is unknown."""
        size = 0
        for path in self.files(Failures(silent=True)):
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError:
                continue
            if path == "-" or not stat.S_ISREG(status.st_mode):
                return None
            size += status.st_size
        return size

    def files(self, fail: Failures) -> Iterator[str]:
        """Yield the paths of the files."""
        for path in self._paths:
            if path == "-" or not os.path.isdir(path):  # noqa: PTH112  (a str is printed as it was given)
                if not self._is_excluded(path):
                    yield path
                continue
            for folder, folders, names in os.walk(path, onerror=fail):
                if os.path.realpath(folder) == self._own:
                    folders.clear()
                    continue
                files = [os.path.join(folder, name) for name in sorted([*names, *folders])]
                folders[:] = sorted(each for each in folders if not self._is_excluded(os.path.join(folder, each)))
                for file in files:
                    if not self._is_excluded(file) and self._is_regular(file, fail):
                        yield file

    def _is_excluded(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}") for pattern in self._patterns)

    def _is_regular(self, path: str, fail: Failures) -> bool:
        """Say whether to store a file of a directory, and report one that is not stored."""
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:  # it was removed
            fail(error)
            return False
        if stat.S_ISLNK(mode):
            fail.warn(f"skipped {path}: it is a symbolic link")
        elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            fail.warn(f"skipped {path}: it is not a regular file")
        return stat.S_ISREG(mode)
