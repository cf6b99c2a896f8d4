"""Corrupt the files of a repository in random ways, and use it.

    python tests/crash/mutate.py [--count N] [--seed N]

Whatever the files contain: nothing outside of the repository is opened or changed, nothing hangs or exhausts the
memory, verified reads return right bytes, and failures are documented errors.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  (imported before the fork)
from checking import in_child
from disk_objectstore import Container

from objrepo import DiskRepository, RepositoryError
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace

SECONDS = 60  # `delete` waits 30 seconds for a lock
MEMORY = 2 * 1024**3

call = InPlace().call

NUMBERS = [-1, 0, 1, 7, 255, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 10**30, 1.5, 1e300]
STRANGE = [
    *NUMBERS,
    None,
    True,
    "",
    "..",
    "../../outside/secret",
    "/etc/passwd",
    "é" * 5,
    "a" * 64,
    "'; DROP TABLE x",
    b"\xff\x00",
    [],
    {},
]
COLUMNS = ["hashkey", "compressed", "size", "offset", "length", "pack_id"]


def prepare(root: Path) -> dict[str, bytes]:
    """Make a repository, and files outside of it."""
    repo = DiskRepository(root / "repository", Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    contents = [b"loose", b"large" * 100_000]
    keys = [call(repo.put, content) for content in contents]
    small = [b"%d" % number * 30 for number in range(20)]
    keys += call(repo.put_many, small)
    with Container(root / "repository") as container:
        packed = [b"compressed %d" % number * 50 for number in range(5)] + [b"0" * 500_000]
        keys += container.add_objects_to_pack(packed, compress=True)
    call(repo.__aexit__, None, None, None)
    (root / "outside").mkdir()
    (root / "outside" / "secret").write_bytes(b"secret")
    (root / "outside" / ("a" * 62)).write_bytes(b"secret")
    (root / "outside" / "0").write_bytes(b"secret" * 1000)
    return dict(zip(keys, contents + small + packed, strict=True))


class Mutation:
    """One change of the files of a repository."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.folder = root / "repository"
        self.rng = rng

    def apply(self) -> None:
        """Apply one or more random changes."""
        kinds = [self.config, self.config_bytes, self.rows, self.rows, self.rows, self.schema, self.bytes_of_a_file]
        kinds += [self.bytes_of_a_file, self.replace_file, self.replace_file, self.lock, self.journal]
        for _ in range(self.rng.choice([1, 1, 1, 3])):
            self.rng.choice(kinds)()

    def config(self) -> None:
        path = self.folder / "config.json"
        if not path.is_file() or path.is_symlink():
            return
        with contextlib.suppress(ValueError, OSError, RecursionError, TypeError):
            values = json.loads(path.read_bytes())
            values[self.rng.choice([*values, "new"])] = self.rng.choice([v for v in STRANGE if type(v) is not bytes])
            path.write_text(json.dumps(values))

    def config_bytes(self) -> None:
        options = [
            b"",
            b"[" * 100_000,
            b"{}",
            b"null",
            b"\xff\xfe",
            b'{"container_version": 1}',
            b"1" * 10_000,
            os.urandom(100),
        ]
        path = self.folder / "config.json"
        if path.is_file() and not path.is_symlink():
            path.write_bytes(self.rng.choice(options))

    def rows(self) -> None:
        value = self.rng.choice([value for value in STRANGE if not isinstance(value, list | dict)])
        if isinstance(value, int) and abs(value) >= 2**63:
            value = float(value)
        where = self.rng.choice(["", " WHERE id % 3 = 1", " WHERE id = 5", " WHERE compressed"])
        statement = f"UPDATE OR IGNORE db_object SET {self.rng.choice(COLUMNS)} = ?{where}"
        self.execute(statement, value)

    def schema(self) -> None:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
        self.execute(
            self.rng.choice(
                [
                    "DROP TABLE db_object",
                    "ALTER TABLE db_object RENAME TO other",
                    "ALTER TABLE db_object DROP COLUMN size",
                    "ALTER TABLE db_object ADD COLUMN more TEXT",
                    "CREATE TRIGGER t AFTER INSERT ON db_object BEGIN DELETE FROM db_object; END",
                    f"CREATE VIEW v AS {endless} i FROM n",
                    "PRAGMA user_version = 7",
                    "CREATE TABLE other (x)",
                ]
            )
        )
        if self.rng.random() < 0.3:
            self.execute("DROP TABLE IF EXISTS db_object")
            columns = ", ".join(f"i AS {name}" for name in ["id", *COLUMNS])
            self.execute(f"CREATE VIEW db_object AS {endless} {columns} FROM n")

    def execute(self, statement: str, *values: Any) -> None:
        with contextlib.suppress(sqlite3.Error, OSError, OverflowError):
            if not (self.folder / "packs.idx").is_file():
                return
            connection = sqlite3.connect(self.folder / "packs.idx", isolation_level=None)
            try:
                connection.execute(statement, values)
            finally:
                connection.close()

    def some_file(self) -> Path:
        names = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        likely = [path for path in names if path.name in {"packs.idx", "config.json"} or path.parent.name == "packs"]
        return self.rng.choice([*names, *likely * 3])

    def bytes_of_a_file(self) -> None:
        path = self.some_file()
        data = bytearray(path.read_bytes())
        kind = self.rng.choice(["flip", "flip", "cut", "longer", "replace"])
        if kind == "flip" and data:
            for _ in range(self.rng.choice([1, 10, 100])):
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        elif kind == "cut":
            del data[self.rng.randrange(len(data) + 1) :]
        elif kind == "longer":
            data += os.urandom(self.rng.choice([1, 5000]))
        else:
            data = bytearray(os.urandom(len(data)))
        path.write_bytes(data)

    def replace_file(self) -> None:
        """Replace a file or directory by something of another type."""
        folders = [path for path in self.folder.rglob("*") if path.is_dir() and not path.is_symlink()]
        path = self.rng.choice([self.some_file(), self.some_file(), self.rng.choice(folders)])
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        outside = self.root / "outside"
        targets = [outside, outside / "secret", Path("/etc/passwd"), Path("/dev/zero"), Path("loop"), self.folder]
        kind = self.rng.choice(["link", "link", "pipe", "nothing", "folder", "file"])
        if kind == "link":
            path.symlink_to(self.rng.choice(targets))
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "file":
            path.write_bytes(b"file")

    def lock(self) -> None:
        name = self.rng.choice(["maintain.lock", "writer-1000000.lock", "packs/0.lock", "packs/-1", "packs/-1.lock"])
        path = self.folder / name
        if path.exists() or path.is_symlink() or not path.parent.is_dir():
            return
        kind = self.rng.choice(["link", "dangling", "folder", "pipe", "file"])
        if kind in {"link", "dangling"}:
            path.symlink_to(self.root / "outside" / ("secret" if kind == "link" else "new"))
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(b"file")

    def journal(self) -> None:
        path = self.folder / f"packs.idx{self.rng.choice(['-wal', '-shm', '-journal'])}"
        if not os.path.lexists(path):
            path.write_bytes(os.urandom(5000))


def uses(repo: DiskRepository, contents: dict[str, bytes]) -> list[Callable[[], object]]:
    """Return the operations on a repository."""

    async def read_all() -> None:
        for key in contents:
            async with repo.open(key, check=True) as stream:
                assert b"".join([chunk async for chunk in stream]) == contents[key]

    async def stream_all() -> None:
        async with repo.stream(contents) as objects:
            async for _, stream in objects:
                await stream.read()

    async def list_all() -> None:
        async for key in repo.keys():
            assert key.isalnum()

    def get(key: str) -> None:
        call(repo.get, key)
        assert call(repo.get, key, True) == contents[key]
        call(repo.size, key)

    new = [b"new 1", b"new 2"]
    return [
        *(partial(get, key) for key in contents),
        lambda: call(repo.has_many, list(contents)),
        lambda: call(read_all),
        lambda: call(stream_all),
        lambda: call(list_all),
        lambda: call(repo.info, True),
        lambda: call(repo.verify),
        lambda: call(repo.verify, None, True),
        lambda: call(lambda: repo.repair(dry_run=True, live=False)),
        lambda: call(repo.put, new[0]),
        lambda: call(repo.put_many, new),
        lambda: call(repo.maintain),
        lambda: call(lambda: repo.repair(live=False)),
        lambda: call(repo.maintain, False, False),
        lambda: call(repo.delete_many, list(contents)[:3]),
        lambda: call(repo.uuid),
        lambda: call(repo.erase),
    ]


def state_of(folder: Path) -> list[tuple[str, bytes]]:
    """Return the names and contents of the files in a directory."""
    return sorted((path.name, path.read_bytes()) for path in folder.iterdir())


def try_out(root: Path, contents: dict[str, bytes], seed: str) -> None:
    """Mutate a repository and use it."""
    Mutation(root, random.Random(seed)).apply()
    before = state_of(root / "outside")
    allowed = (str(root / "repository"), f"{root}{os.sep}.repository.")
    opened: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and str(root) in arguments[0]:
            if not arguments[0].startswith(allowed) and arguments[0] != str(root):  # which `erase` fsyncs
                opened.append(arguments[0])
        elif event == "open" and arguments[0] in {"/etc/passwd", "/dev/zero"}:
            opened.append(arguments[0])

    sys.addaudithook(watch)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    repo = DiskRepository(root / "repository", Inline())
    call(repo.__aenter__)
    for use in uses(repo, contents):
        with contextlib.suppress(RepositoryError, OSError):
            use()
    assert not opened, opened
    assert state_of(root / "outside") == before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutation, to repeat it")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "template"
        template.mkdir()
        contents: dict[str, bytes] = {}
        # In a child process, so that this one never opens the index.
        assert in_child(lambda: (Path(name) / "keys").write_text(repr(prepare(template))) and None) == 0
        contents = eval((Path(name) / "keys").read_text())
        for number in range(arguments.first, arguments.first + arguments.count):
            seed = f"{arguments.seed} {number}"
            root = Path(name) / "root"
            shutil.copytree(template, root)
            status = in_child(lambda seed=seed, root=root: try_out(root, contents, seed))
            if status != 0:
                failed.append(seed)
                print(f"mutation {seed!r}: ended with {status}", flush=True)
            shutil.rmtree(root)
    print(f"{arguments.count} mutations, {len(failed)} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
