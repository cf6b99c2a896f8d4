"""Failures of storage: full disks, I/O errors, lost permissions, too many open files."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import subprocess
import sys
import textwrap

import pytest

from helpers import flip_packed, loose_file, run_on_small_file_system, sha256
from objrepo import CorruptObjectError, DiskRepository, RepositoryError
from objrepo.disk import pack_files, session
from objrepo.disk.index import Index
from objrepo.offload import Inline
from objrepo.sync.runner import InPlace
from objrepo.testing.fixtures import content_of
from processes import drop_capabilities

call = InPlace().call


class Faults:
    """Counts the system calls that change a folder, and makes one of them fail."""

    def __init__(self, folder, monkeypatch):
        self.folder = str(folder)
        self.calls = 0
        self.fail_at = 0
        self.number = errno.ENOSPC
        for name in ("fsync", "replace", "rename", "link", "mkdir"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))
        real_open = builtins.open

        def opened(path, mode="r", *arguments, **options):
            inside = isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)
            if not inside or "b" not in mode or not {"w", "a", "x"} & set(mode):
                return real_open(path, mode, *arguments, **options)
            self.count(path)
            file = FailingFile(path, mode.replace("b", ""), opener=options.get("opener"))
            file.count = self.count
            buffered = (arguments[0] if arguments else options.get("buffering", -1)) != 0
            return io.BufferedWriter(file) if buffered else file

        monkeypatch.setattr(builtins, "open", opened)

    def failing(self, function):
        def call_or_fail(*arguments, **options):
            # Errors of the system name the path that was passed, and none if a descriptor was passed.
            self.count(*(argument for argument in arguments[:1] if not isinstance(argument, int)))
            return function(*arguments, **options)

        return call_or_fail

    def count(self, *path):
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), *map(os.fspath, path))

    @contextlib.contextmanager
    def at(self, call_number):
        self.calls, self.fail_at = 0, call_number
        try:
            yield
        finally:
            self.fail_at = 0


class FailingFile(io.FileIO):
    def write(self, data):
        self.count()
        return super().write(data)


@pytest.fixture
def repo(tmp_path):
    repo = DiskRepository(tmp_path / "repository", Inline())
    call(repo.__aenter__)
    call(repo.initialise)
    return repo


def put_in_batch(repo, contents):
    with InPlace().enter(repo.batch()) as batch:
        return call(batch.put_many, contents)


def put_unflushed(repo, contents):
    unflushed = DiskRepository(repo.path, Inline(), durable=False)
    call(unflushed.__aenter__)
    return [call(unflushed.put, content) for content in contents]


WRITES = {
    "put": lambda repo, n: [call(repo.put, b"new %d" % n)],
    "put large": lambda repo, n: [call(repo.put, content_of(2_000_000, n % 250))],
    "put in one commit": lambda repo, n: [call(repo.put, content) for content in (b"new %d" % n, content_of(10, 3))],
    "put unflushed": lambda repo, n: put_unflushed(repo, [b"new %d" % n, content_of(10, 3)]),
    "put_many": lambda repo, n: call(repo.put_many, [b"new %d" % n, b"and %d" % n, content_of(100_000, n % 250)]),
    "batch": lambda repo, n: put_in_batch(repo, [b"new %d %d" % (n, each) for each in range(1100)]),
    "maintain": lambda repo, n: call(repo.maintain) and [],
    "maintain alone": lambda repo, n: call(repo.maintain, False, False) and [],
    "delete": lambda repo, n: call(repo.delete_many, call(repo.put_many, [b"to go %d" % n, b"to go"])) or [],
}


class TestWriting:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    @pytest.mark.parametrize("name", WRITES)
    def test_each_failing_system_call_raises_and_loses_nothing(self, repo, monkeypatch, name, number):
        monkeypatch.setattr(session, "orders_metadata", lambda folder: name == "put in one commit")
        contents = {call(repo.put, content_of(size, 3)): content_of(size, 3) for size in (10, 90_000)}
        small = [b"%d" % each for each in range(10)]
        contents |= dict(zip(call(repo.put_many, small), small, strict=True))
        faults = Faults(repo.path, monkeypatch)
        faults.number = number
        failed = 0
        for fail_at in range(1, 200):
            if name.startswith("maintain"):
                call(repo.put_many, [b"hole %d" % fail_at, b"more %d" % fail_at])
                call(repo.delete_many, call(repo.put_many, [b"hole %d" % fail_at]))
                call(repo.put, b"loose %d" % fail_at)
            with faults.at(fail_at):
                try:
                    keys = WRITES[name](repo, fail_at)
                except (OSError, RepositoryError) as error:
                    failed += 1
                    assert str(repo.path) in str(error), f"{error!r} does not name the path"
                    assert os.strerror(number) in str(error)
                    keys = []
                reached = faults.calls >= fail_at
            for key in keys:
                call(repo.get, key, True)
            assert os.listdir(repo.path / "sandbox") == []
            assert [entry for entry in os.listdir(repo.path / "packs") if not entry.isdecimal()] == []
            for key, content in contents.items():
                assert call(repo.get, key) == content
            assert call(repo.verify).damaged == ()
            if not reached:
                break
        if name.startswith("maintain") and number == errno.ENOSPC:
            assert failed == 0, "a step that fails with ENOSPC is repeated after the others"
        else:
            assert failed >= 3
        for key in WRITES[name](repo, 1000):
            call(repo.get, key, True)

    def test_an_index_that_cannot_grow_raises_and_stores_nothing(self, repo, monkeypatch):
        old = call(repo.put_many, [b"%d" % number for number in range(10)])
        real = Index._connect

        def full(self, *arguments):
            connection = real(self, *arguments)
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

        monkeypatch.setattr(Index, "_connect", full)
        call(repo.__aexit__, None, None, None)
        call(repo.__aenter__)
        contents = [b"new %d" % number for number in range(1000)]
        with pytest.raises(RepositoryError, match=r"packs\.idx.*full"):
            call(repo.put_many, contents)
        assert not any(call(repo.has_many, [sha256(content) for content in contents]))
        assert all(call(repo.has_many, old))
        monkeypatch.undo()
        call(repo.__aexit__, None, None, None)
        call(repo.__aenter__)
        assert len(call(repo.put_many, contents)) == 1000
        assert call(repo.verify).damaged == ()

    def test_a_full_file_system_loses_nothing(self, tmp_path):
        """A small file system is mounted and filled."""
        script = """
            import errno, os, sys
            from objrepo import DiskRepository, RepositoryError
            from objrepo.offload import Inline
            from objrepo.sync.runner import InPlace
            call = InPlace().call
            repo = DiskRepository(sys.argv[1] + "/repository", Inline())
            call(repo.__aenter__)
            call(repo.initialise)
            stored, refused = {}, 0
            for number in range(1000):
                contents = [b"%d %d" % (number, each) * 900 for each in range(5)]
                for put in (lambda: call(repo.put_many, contents), lambda: [call(repo.put, contents[0] * 9)]):
                    try:
                        keys = put()
                    except (OSError, RepositoryError) as error:
                        assert "No space left" in str(error) or "is full" in str(error), error
                        assert sys.argv[1] in str(error)
                        refused += 1
                    else:
                        stored |= dict(zip(keys, contents if len(keys) > 1 else [contents[0] * 9]))
                if refused > 20:
                    break
            assert refused and stored
            for live in (True, False):
                try:
                    call(repo.maintain, False, live)
                except (OSError, RepositoryError) as error:
                    assert "No space left" in str(error) or "is full" in str(error), error
            assert all(call(repo.get, key, True) == content for key, content in stored.items())
            assert call(repo.verify).damaged == ()
            half = list(stored)[::2]
            try:
                call(repo.delete_many, half)
            except RepositoryError as error:
                assert "is full" in str(error), error
            os.unlink(sys.argv[1] + "/ballast")
            call(repo.delete_many, [key for key in half if call(repo.has, key)])
            call(repo.maintain, False, False)
            rest = [key for key in stored if key not in half]
            assert all(call(repo.get, key, True) == stored[key] for key in rest)
            call(repo.put, b"there is space again")
            assert call(repo.verify).damaged == ()
            print(len(stored), refused)
        """
        run_on_small_file_system(tmp_path, script, "dd if=/dev/zero of=ballast bs=1M count=2 2>&1 &&")

    def test_a_file_system_that_becomes_read_only_stays_readable(self, tmp_path):
        script = """
            import os, subprocess, sys
            from objrepo import DiskRepository, RepositoryError
            from objrepo.offload import Inline
            from objrepo.sync.runner import InPlace
            call = InPlace().call
            repo = DiskRepository(sys.argv[1] + "/repository", Inline())
            call(repo.__aenter__)
            call(repo.initialise)
            keys = [call(repo.put, b"loose"), *call(repo.put_many, [b"one", b"two"])]
            call(repo.__aexit__, None, None, None)
            subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
            call(repo.__aenter__)
            uses = [lambda: call(repo.put, b"new"), lambda: call(repo.put_many, [b"new", b"newer"]),
                    lambda: call(repo.maintain), lambda: call(repo.delete, keys[0]), lambda: call(repo.erase)]
            for use in uses:
                try:
                    use()
                except (OSError, RepositoryError) as error:
                    assert "Read-only file system" in str(error) or "readonly" in str(error), repr(error)
                    assert sys.argv[1] in str(error), repr(error)
                else:
                    sys.exit("no error was raised")
            assert [call(repo.get, key, True) for key in keys] == [b"loose", b"one", b"two"]
            assert call(repo.verify).damaged == ()
            assert call(repo.info).objects == 3
        """
        run_on_small_file_system(tmp_path, script)

    def test_lost_permissions_raise_and_objects_stay_readable(self, tmp_path):
        script = """
            import os, sys
            from objrepo import DiskRepository
            from objrepo.offload import Inline
            from objrepo.sync.runner import InPlace
            call = InPlace().call
            repo = DiskRepository(sys.argv[1], Inline())
            call(repo.__aenter__)
            call(repo.initialise)
            keys = [call(repo.put, b"loose"), *call(repo.put_many, [b"one", b"two"])]
            for folder, _, names in os.walk(sys.argv[1]):
                os.chmod(folder, 0o500)
                for name in names:
                    os.chmod(folder + "/" + name, 0o400)
            uses = [lambda: call(repo.put, b"new"), lambda: call(repo.put_many, [b"new", b"newer"]),
                    lambda: call(repo.maintain), lambda: call(repo.delete, keys[0])]
            for use in uses:
                try:
                    use()
                except PermissionError as error:
                    assert sys.argv[1] in str(error)
                except Exception as error:
                    assert "readonly" in str(error), repr(error)
                else:
                    sys.exit("no error was raised")
            assert [call(repo.get, key, True) for key in keys] == [b"loose", b"one", b"two"]
            os.chmod(sys.argv[1] + "/packs/1000000", 0)
            repo = DiskRepository(sys.argv[1], Inline())
            call(repo.__aenter__)
            try:
                call(repo.get, keys[1])
            except PermissionError as error:
                assert "packs/1000000" in str(error)
            else:
                sys.exit("no error was raised")
            assert call(repo.get, keys[0]) == b"loose"
            print("done")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "repository")],
            preexec_fn=drop_capabilities,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "done\n", done.stderr

    def test_too_many_open_files(self, tmp_path):
        script = """
            import sys, os
            from objrepo import DiskRepository, RepositoryError
            from objrepo.offload import Inline
            from objrepo.sync.runner import InPlace
            import objrepo.disk.maintenance, objrepo.disk.container, filelock
            call = InPlace().call
            repo = DiskRepository(sys.argv[1], Inline())
            call(repo.__aenter__)
            call(repo.initialise)
            keys = [call(repo.put, b"loose"), *call(repo.put_many, [b"one", b"two"])]
            call(repo.__aexit__, None, None, None)
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            failed = 0
            for spare in range(12):
                call(repo.__aenter__)
                uses = [lambda: call(repo.get, keys[1]), lambda: call(repo.put, b"new"), lambda: call(repo.maintain)]
                uses += [lambda: call(repo.put_many, [b"new", b"newer"]), lambda: call(repo.get, keys[0])]
                for use in uses:
                    try:
                        use()
                    except (OSError, RepositoryError) as error:
                        failed += 1
                        assert "oo many open files" in str(error) or "unable to open" in str(error), repr(error)
                call(repo.__aexit__, None, None, None)
                os.close(taken.pop())
            call(repo.__aenter__)
            assert [call(repo.get, key, True) for key in keys] == [b"loose", b"one", b"two"]
            assert call(repo.verify).damaged == ()
            print(failed > 5)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "repository")],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "True\n", done.stderr


class TestReading:
    @pytest.mark.parametrize("size", [10, 70_000, 400_000])
    @pytest.mark.parametrize("where", ["loose", "packed"])
    def test_read_errors_name_object_and_file(self, repo, monkeypatch, size, where):
        content = content_of(size)
        if where == "loose":
            key, fine = call(repo.put, content), call(repo.put, b"fine")
        else:
            key, fine = call(repo.put_many, [content, b"fine"])
            call(repo.maintain)
        call(repo.get, fine)
        broken = True

        def failing(*_):
            if broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*_)

        if where == "packed":
            real = pack_files.read_at
            for module in ("reader", "bulk_reader"):
                monkeypatch.setattr(f"objrepo.disk.{module}.read_at", failing)
        real_open = builtins.open

        def opened(path, mode="r", *arguments, **options):
            inside = isinstance(path, str) and path.startswith(str(repo.path)) and mode == "rb" and broken
            if not inside or path.endswith(".json"):
                return real_open(path, mode, *arguments, **options)
            file = UnreadableFile(path, "r", opener=options.get("opener"))
            file.broken = lambda: broken
            return file

        monkeypatch.setattr(builtins, "open", opened)
        for use in (
            lambda: call(repo.get, key),
            lambda: call(repo.get, key, True),
            lambda: read_all(repo, key),
            lambda: stream_all(repo, [key]),
        ):
            with pytest.raises(OSError, match="Input/output error") as caught:
                use()
            assert key in str(caught.value), "the error names the object"
            assert caught.value.filename, "the error names the file"
        damaged = {item.key: item.reason for item in call(repo.verify).damaged}
        assert "Input/output error" in damaged[key]
        broken = False
        assert call(repo.get, key, True) == content
        assert call(repo.get, fine, True) == b"fine"

    def test_intact_objects_beside_damaged_ones_stay_readable(self, repo):
        contents = [b"%d" % number * 100 for number in range(50)]
        keys = call(repo.put_many, contents)
        call(repo.put, b"loose")
        flip_packed(repo.path, keys[20])
        os.truncate(repo.path / "packs" / "1000000", sum(map(len, contents[:40])) + 5)
        damaged = {keys[20], *keys[40:]}
        assert {item.key for item in call(repo.verify).damaged} == damaged
        for key, content in zip(keys, contents, strict=True):
            if key in damaged:
                with pytest.raises(CorruptObjectError) as caught:
                    call(repo.get, key, True)
                assert caught.value.key == key
            else:
                assert call(repo.get, key, True) == content
        seen = {}
        with pytest.raises(CorruptObjectError):
            stream_all(repo, keys, seen)
        assert list(seen) == keys[:40], "objects before the damage are returned"

    def test_a_loose_file_of_another_length_raises_corrupt_object_error(self, repo):
        content = content_of(400_000)
        key = call(repo.put, content)
        path = loose_file(repo.path, key)
        for damaged in (content[:-1], content + b"!", b""):
            path.write_bytes(damaged)
            for use in (lambda: call(repo.get, key, True), lambda: read_all(repo, key, check=True)):
                with pytest.raises(CorruptObjectError, match="hashes to"):
                    use()
        call(repo.put, content)
        assert call(repo.get, key, True) == content, "another put repairs it"


class UnreadableFile(io.FileIO):
    def readinto(self, buffer):
        if self.broken():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)

    def read(self, size=-1):
        if self.broken():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


def read_all(repo, key, check=False):
    async def read():
        async with repo.open(key, check=check) as stream:
            return await stream.read()

    return call(read)


def stream_all(repo, keys, seen=None):
    async def read():
        async with repo.stream(keys) as objects:
            async for key, stream in objects:
                content = await stream.read()
                if seen is not None:
                    seen[key] = content

    return call(read)
