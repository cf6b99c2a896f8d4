"""The filesystem for fsspec: objects by key, new files by name, and snapshots."""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import anyio
import fsspec
import pytest

from helpers import flip, loose_file, sha256
from objrepo import (
    CorruptObjectError,
    DiskRepository,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryClosedError,
    RepositoryError,
)
from objrepo.fsspec import ObjectFileSystem
from objrepo.sync import open_repository
from objrepo.testing.fixtures import content_of

CONTENT = content_of(10_000_000)


def stored(folder, *contents):
    """Store objects; return their keys."""

    async def main():
        async with DiskRepository(folder) as repo:
            await repo.initialise()
            return await repo.put_many(contents)

    return anyio.run(main)


@pytest.fixture
def options(folder):
    return {"repository": str(folder)}


@pytest.fixture
def files(folder, options):
    stored(folder)
    return fsspec.filesystem("objrepo", skip_instance_cache=True, **options)


def test_it_is_found_by_its_protocol(files):
    assert type(files) is ObjectFileSystem


def test_objects_are_files(folder, files):
    small, large, empty = stored(folder, b"small", CONTENT, b"")
    assert sorted(files.ls("", detail=False)) == sorted([small, large, empty])
    assert sorted(each["name"] for each in files.ls("objrepo://")) == sorted([small, large, empty])
    assert files.ls(small) == [{"name": small, "size": 5, "type": "file", "key": small}]
    assert files.ls(small, detail=False) == [small]
    assert files.info(f"objrepo://{large}") == {"name": large, "size": len(CONTENT), "type": "file", "key": large}
    assert files.isdir("")
    assert files.isfile(small)
    assert files.exists(empty)
    assert not files.exists("0" * 64)
    assert files.ukey(f"objrepo://{small}") == small
    assert files.cat([small, empty]) == {small: b"small", empty: b""}
    with files.open(large) as file:
        assert file.read(10) == CONTENT[:10]
        file.seek(-10, 2)
        assert file.read() == CONTENT[-10:]
        file.seek(0)
        assert file.read() == CONTENT
    with files.open(small, "r") as file:
        assert file.read() == "small"
    assert fsspec.open(f"objrepo://{small}", repository=str(folder)).open().read() == b"small"


@pytest.mark.parametrize(
    ("start", "end"), [(0, 3), (2, None), (None, 2), (-2, None), (1, -1), (3, 2), (100, 200), (0, 0), (None, None)]
)
def test_ranges(folder, files, start, end):
    [key] = stored(folder, b"content")
    assert files.cat_file(key, start, end) == b"content"[start:end]


def test_a_missing_object_raises_not_found(files):
    for call in (files.info, files.cat_file, files.ls, files.open):
        with pytest.raises(ObjectNotFoundError):
            call("0" * 64)


@pytest.mark.parametrize("prefix", ["", "/", "objrepo://", "objrepo:///"])
def test_a_key_may_have_slashes_in_front(folder, files, prefix):
    [key] = stored(folder, b"content")
    assert files.cat(prefix + key) == b"content"
    assert files.cat([prefix + key]) == {key: b"content"}
    assert files.info(prefix + key)["name"] == key
    assert files.ls(prefix, detail=False) == files.find(prefix) == files.glob(prefix + "*") == [key]
    assert files.exists(prefix + key)
    assert files.du(prefix) == files.size(prefix + key) == len(b"content")
    assert list(files.walk(prefix)) == [("", [], [key])]
    assert fsspec.open(f"objrepo:///{key}", repository=str(folder)).open().read() == b"content"


@pytest.mark.parametrize(
    "write",
    [
        lambda files, key, local: files.open(key, "wb"),
        lambda files, key, local: files.open(key, "ab"),
        lambda files, key, local: files.open(key, "xb"),
        lambda files, key, local: files.open(key, "r+b"),
        lambda files, key, local: files.pipe(key, b""),
        lambda files, key, local: files.pipe({key: b""}),
        lambda files, key, local: files.pipe_file(key, b""),
        lambda files, key, local: files.write_bytes(key, b""),
        lambda files, key, local: files.write_text(key, ""),
        lambda files, key, local: files.touch(key),
        lambda files, key, local: files.touch(key, truncate=False),
        lambda files, key, local: files.touch(f"{key}/name"),
        lambda files, key, local: files.pipe("news/name", b""),
        lambda files, key, local: files.mv(key, "new/b"),
        lambda files, key, local: files.mkdir("a"),
        lambda files, key, local: files.makedir("a"),
        lambda files, key, local: files.makedirs("a/b"),
        lambda files, key, local: files.makedirs("", exist_ok=True),
        lambda files, key, local: files.mkdirs("a", exist_ok=True),
        lambda files, key, local: files.rmdir("a"),
        lambda files, key, local: files.rm(key),
        lambda files, key, local: files.rm("", recursive=True),
        lambda files, key, local: files.rm_file(key),
        lambda files, key, local: files.delete(key),
        lambda files, key, local: files.cp_file(key, "b"),
        lambda files, key, local: files.copy(key, "b"),
        lambda files, key, local: files.cp("", "b"),
        lambda files, key, local: files.mv(key, "b"),
        lambda files, key, local: files.mv("", "b"),
        lambda files, key, local: files.rename(key, "b"),
        lambda files, key, local: files.put(str(local), "b"),
        lambda files, key, local: files.put(str(local.parent), "b"),
        lambda files, key, local: files.upload(str(local), "b", recursive=True),
        lambda files, key, local: files.put_file(local, "b"),
        lambda files, key, local: files.put_file(local.parent, "b"),
        lambda files, key, local: files.get_mapper("a", create=True),
        lambda files, key, local: files.get_mapper().__setitem__("a", b""),
    ],
)
def test_every_method_that_writes_elsewhere_raises(folder, files, tmp_path, write):
    [key] = stored(folder, b"content")
    (tmp_path / "source").mkdir()
    local = tmp_path / "source" / "file"
    local.write_bytes(b"new")
    with pytest.raises(OSError, match="read-only") as caught:
        write(files, key, local)
    assert caught.value.errno == errno.EROFS
    assert files.ls("", detail=False) == [key]
    assert files.cat(key) == b"content"
    assert files.find("new") == []


def test_the_error_names_the_target(files):
    with pytest.raises(OSError, match=r"objects are read-only: write to objrepo://new/NAME.*'target'"):
        files.put_file("source", "target")
    with pytest.raises(OSError, match=r"read-only.*'target'"):
        files.put(lpath="source", rpath="target", recursive=True)


def test_the_repository_is_an_option_or_in_the_environment(folder, options, monkeypatch):
    [key] = stored(folder, b"content")
    monkeypatch.setenv("OBJREPO", str(folder))
    assert ObjectFileSystem(skip_instance_cache=True).cat(key) == b"content"
    with pytest.raises(ValueError, match="nonsense"):
        ObjectFileSystem("nonsense:x")
    again = pickle.loads(pickle.dumps(fsspec.filesystem("objrepo", **options)))
    assert again.cat(key) == b"content", "as dask sends it to its workers"


class TestNewFiles:
    def test_a_file_is_stored_and_named_when_it_is_closed(self, folder, files):
        with files.open("objrepo://new/folder/a.bin", "wb") as file:
            assert (file.write(b"con"), file.write(memoryview(b"tent")), file.tell()) == (3, 4, 7)
            file.flush()
            assert not files.exists("new/folder/a.bin")
        key = sha256(b"content")
        assert files.info("new/folder/a.bin") == {
            "name": "new/folder/a.bin", "size": 7, "type": "file", "key": key,
        }  # fmt: skip
        assert files.ukey("objrepo://new/folder/a.bin") == key
        assert files.cat("new/folder/a.bin") == files.cat(key) == b"content"
        assert files.ls("", detail=False) == [key]
        with pytest.raises(ValueError, match=r"new/folder/a\.bin, which is closed"):
            file.write(b"more")

    def test_folders(self, files):
        for name in ("new/a/1", "new/a/b/2", "new/3"):
            files.pipe(name, name.encode())
        files.makedirs("new/empty/inner", exist_ok=True)
        assert files.ls("new/a", detail=False) == ["new/a/1", "new/a/b"]
        assert files.find("objrepo://new") == ["new/3", "new/a/1", "new/a/b/2"]
        assert files.glob("objrepo://new/*/*") == ["new/a/1", "new/a/b", "new/empty/inner"]
        assert files.isdir("new/empty/inner")
        assert files.du("new") == 21
        assert files.info("new/a") == {"name": "new/a", "size": 0, "type": "directory"}
        with pytest.raises(FileExistsError):
            files.mkdir("new/a")
        with pytest.raises(OSError, match="not empty"):
            files.rmdir("new/a")
        with pytest.raises(NotADirectoryError):
            files.rmdir("new/3")
        files.rmdir("new/empty/inner")
        files.rm("new/a", recursive=True)
        files.rm("objrepo://new/3")
        assert files.find("new", withdirs=True) == ["new", "new/empty"]
        with pytest.raises(FileNotFoundError, match="new/3"):
            files.cat("new/3")
        files.rm("new", recursive=True)
        assert files.ls("new") == []
        assert len(list(files.ls(""))) == 3, "objects stay"

    def test_a_name_can_stand_for_another_object(self, files):
        files.pipe("new/name", b"old")
        with files.open("new/name", cache_type="none") as old:
            assert old.read(1) == b"o"
            files.pipe("new/name", b"young")
            assert old.read() == b"ld"
            assert pickle.loads(pickle.dumps(old)).read() == b""
        assert files.cat("new/name") == b"young"
        files.mv("objrepo://new/name", "new/name")
        files.mv("new/name", "new/other")
        assert files.find("new") == ["new/other"]
        files.cp(f"objrepo://{sha256(b'old')}", "objrepo://new/name")
        assert files.cat(["new/name", "new/other"]) == {"new/name": b"old", "new/other": b"young"}
        with pytest.raises(FileNotFoundError):
            files.cp("0" * 64, "new/missing")

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("new/a", "new/a/b"),
            ("new/a", "new/a/b/c"),
            ("new/a", "new"),
            ("objrepo://new/a/", "new/"),
            ("new/a/x", "new/a"),
            ("new/a/*", "new/a"),
            ("new/*", "new/a"),
            (["new/a/x", "new/a/y"], ["new/z", "new/a/y"]),
            (["new/a/x"], "new/a"),
        ],
    )
    def test_nothing_is_moved_to_or_into_itself(self, files, source, target):
        files.pipe({"new/a/x": b"1", "new/a/y": b"2", "new/b": b"3"})
        with pytest.raises(OSError, match="cannot be moved to itself, or into itself"):
            files.mv(source, target, recursive=True)
        assert files.find("new") == ["new/a/x", "new/a/y", "new/b"]

    @pytest.mark.parametrize(
        ("name", "mode", "error"),
        [
            ("new/file", "ab", io.UnsupportedOperation),
            ("new/file", "r+b", io.UnsupportedOperation),
            ("new/file", "a", io.UnsupportedOperation),
            ("new/file", "xb", FileExistsError),
            ("new/file/inner", "wb", NotADirectoryError),
            ("new/folder", "wb", IsADirectoryError),
            ("new", "wb", IsADirectoryError),
            ("new/../file", "wb", ValueError),
            ("new/folder//other", "wb", ValueError),
            ("new/.", "wb", ValueError),
            ("new/a\0b", "wb", ValueError),
            ("new/a\ud800", "wb", ValueError),
            ("new/folder", "rb", IsADirectoryError),
            ("new", "rb", IsADirectoryError),
            ("new/file/inner", "rb", NotADirectoryError),
        ],
    )
    def test_what_cannot_be_opened(self, files, name, mode, error):
        files.pipe({"new/file": b"content", "new/folder/other": b"content"})
        with pytest.raises(error):
            files.open(name, mode)
        assert files.find("new") == ["new/file", "new/folder/other"]

    def test_text_and_compression(self, files, options):
        with files.open("new/text", "w", encoding="utf-16") as file:
            file.write("a\nb")
        assert files.cat("new/text").decode("utf-16") == "a\nb"
        with fsspec.open("objrepo://new/text.gz", "wt", compression="infer", **options) as file:
            file.write("packed")
        with files.open("new/text.gz", "rt", compression="infer") as file:
            assert file.read() == "packed"
        with pytest.raises(io.UnsupportedOperation, match=r"fsspec\.open"):
            files.open("new/text.gz", "wb", compression="gzip")

    def test_a_large_file_is_not_kept_in_memory(self, files):
        piece = content_of(1024 * 1024)
        tracemalloc.start()
        try:
            with files.open("new/large", "wb") as file:
                for _ in range(40):
                    file.write(piece)
            assert tracemalloc.get_traced_memory()[1] < 16 * 1024**2
        finally:
            tracemalloc.stop()
        assert files.size("new/large") == 40 * 1024**2

    def test_local_files_and_folders(self, files, tmp_path):
        (tmp_path / "source" / "inner").mkdir(parents=True)
        (tmp_path / "source" / "inner" / "file").write_bytes(b"content")
        files.put(str(tmp_path / "source"), "objrepo://new/copy", recursive=True)
        files.put_file(tmp_path / "source" / "inner" / "file", "new/file")
        assert files.find("new") == ["new/copy/inner/file", "new/file"]
        files.get("objrepo://new/copy", str(tmp_path / "back"), recursive=True)
        assert (tmp_path / "back" / "inner" / "file").read_bytes() == b"content"

    def test_a_mapper(self, files):
        mapper = files.get_mapper("objrepo://new/mapper", create=True)
        mapper["a/b"] = b"content"
        assert dict(mapper) == {"a/b": b"content"}
        del mapper["a/b"]
        assert not list(mapper)


class BrokenError(Exception):
    pass


def raised_in_with(files, options):
    with files.open("new/name", "wb") as file:
        file.write(CONTENT)
        raise BrokenError


def raised_in_with_of_text(files, options):
    with files.open("new/name", "w") as file:
        file.write("text")
        raise BrokenError


def raised_in_with_of_fsspec(files, options):
    with fsspec.open("objrepo://new/name", "wb", **options) as file:
        file.write(b"content")
        raise BrokenError


def raised_in_with_of_a_compressed_text(files, options):
    with fsspec.open("objrepo://new/name", "wt", compression="gzip", **options) as file:
        file.write("text")
        raise BrokenError


def closed_in_finally(files, options):
    file = files.open("new/name", "wb")
    try:
        file.write(b"content")
        raise BrokenError
    finally:
        file.close()


def raised_by_a_generator(files, options):
    def pieces():
        with files.open("new/name", "wb") as file:
            while True:
                file.write((yield))

    generator = pieces()
    next(generator)
    generator.send(b"content")
    generator.close()
    raise BrokenError


def dropped(files, options):
    files.open("new/name", "wb").write(CONTENT)
    raise BrokenError


def dropped_text(files, options):
    files.open("new/name", "w").write("text")
    raise BrokenError


def dropped_buffered(files, options):
    io.BufferedWriter(files.open("new/name", "wb")).write(b"content")
    raise BrokenError


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize(
    "write",
    [
        raised_in_with,
        raised_in_with_of_text,
        raised_in_with_of_fsspec,
        raised_in_with_of_a_compressed_text,
        closed_in_finally,
        raised_by_a_generator,
        dropped,
        dropped_text,
        dropped_buffered,
    ],
)
def test_a_file_that_is_not_written_to_its_end_is_not_stored(files, options, write):
    files.pipe("new/name", b"before")
    with pytest.raises(BrokenError):
        write(files, options)
    gc.collect()
    assert files.cat("new/name") == b"before"
    assert files.ls("", detail=False) == [sha256(b"before")]


def test_a_file_is_stored_while_an_earlier_exception_is_handled(files, caplog):
    early = files.open("new/early", "wb")
    explicit = files.open("new/explicit", "wb")
    try:
        raise BrokenError
    except BrokenError:
        files.pipe("new/report", b"what happened")
        with explicit:
            explicit.write(b"content")
        early.close()
    assert files.find("new") == ["new/explicit", "new/report"]
    [record] = caplog.records
    assert (record.levelno, "new/early is not stored" in record.message) == (logging.WARNING, True)


class TestSnapshots:
    NAMES = ("a", "folder/b", "folder/new\nline", "back\\slash", "\udcff", "# hash", "ü")

    def test_a_snapshot_is_a_folder(self, files, tmp_path):
        for name in self.NAMES:
            files.pipe(f"new/x/{name}", ascii(name).encode())
        key = files.snapshot("objrepo://new/x")
        files.rm("new", recursive=True)
        assert sorted(files.find(key)) == sorted(f"{key}/{name}" for name in self.NAMES)
        for name in self.NAMES:
            assert files.cat(f"objrepo://{key}/{name}") == ascii(name).encode()
            assert files.size(f"{key}/{name}") == len(ascii(name))
        assert files.ls(f"{key}/folder", detail=False) == [f"{key}/folder/b", f"{key}/folder/new\nline"]
        assert files.isdir(key)
        assert files.isdir(f"{key}/folder")
        assert not files.exists(f"{key}/c")
        files.get(f"objrepo://{key}", str(tmp_path / "back"), recursive=True)
        assert (tmp_path / "back" / "folder" / "b").read_bytes() == b"'folder/b'"

    def test_the_list_is_one_of_sha256sum(self, files, tmp_path):
        for name in self.NAMES:
            (tmp_path / "back" / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / "back" / name).write_bytes(name.encode(errors="surrogateescape"))
            files.put_file(tmp_path / "back" / name, f"new/{name}")
        content = files.cat(files.snapshot())
        assert content.startswith(b"# objrepo: files by name\n")
        assert content.splitlines()[1:] == sorted(content.splitlines()[1:], key=lambda line: line.split(b"  ", 1)[1])
        checked = subprocess.run(["sha256sum", "-c", "--strict"], input=content, cwd=tmp_path / "back", check=False)
        assert checked.returncode == 0

    def test_equal_files_have_equal_snapshots(self, files):
        for order in ("ab", "ba"):
            for name in order:
                files.pipe(f"new/{order}/{name}", name.encode())
        assert files.snapshot("new/ab") == files.snapshot("new/ba")
        assert files.snapshot("new/ab/a") == sha256(b"a"), "the key of a file is that of its object"
        assert files.snapshot(files.snapshot("new/ab") + "/b") == sha256(b"b")

    def test_a_snapshot_can_be_changed_into_another(self, files):
        files.pipe({"new/1/a": b"a", "new/1/x/b": b"b"})
        first = files.snapshot("new/1")
        files.cp(first, "new/2", recursive=True)
        files.pipe("new/2/x/b", b"changed")
        second = files.snapshot("new/2")
        assert files.cat(f"{first}/x/b") == b"b"
        assert files.cat(f"{second}/x/b") == b"changed"
        assert files.ukey(f"{first}/a") == files.ukey(f"{second}/a")
        assert files.checksum(f"{first}/x/b") != files.checksum(f"{second}/x/b")

    def test_there_is_nothing_to_list(self, files):
        files.mkdir("new/empty")
        for path in ("new", "new/empty"):
            with pytest.raises(FileNotFoundError, match="there is no file in the folder"):
                files.snapshot(path)
        with pytest.raises(FileNotFoundError, match="new/missing"):
            files.snapshot("new/missing")

    def test_another_object_is_no_folder(self, folder, files):
        [key] = stored(folder, b"content")
        with pytest.raises(NotADirectoryError, match="not a list"):
            files.cat(f"{key}/name")
        with pytest.raises(ObjectNotFoundError):
            files.cat(f"{'0' * 64}/name")

    @pytest.mark.parametrize(
        "line", ["{key}  ../../x", "{key}  a/./b", "{key}  a//b", "{key}", "nonsense", "\\{key}  a\\x"]
    )
    def test_a_malformed_list_is_refused(self, folder, files, tmp_path, line):
        content = "# objrepo: files by name\n{key}  good\n" + line + "\n"
        [key] = stored(folder, content.replace("{key}", "0" * 64).encode())
        with pytest.raises(ValueError, match=r"invalid name|without a key and a name"):
            files.get(key, str(tmp_path / "back"), recursive=True)
        assert not (tmp_path / "back").exists()
        assert files.cat(key).decode().startswith("# objrepo"), "its bytes can be read"

    def test_a_damaged_list_is_refused(self, folder, files):
        files.pipe("new/name", b"content")
        key = files.snapshot()
        flip(loose_file(folder, key), 30)
        with pytest.raises(CorruptObjectError):
            files.ls(key)
        with pytest.raises(CorruptObjectError):
            files.cat(f"{key}/name")

    def test_many_lists(self, files):
        keys = []
        for number in range(40):
            files.pipe("new/number", b"%d" % number)
            keys.append(files.snapshot())
        assert [files.cat(f"{key}/number") for key in keys] == [b"%d" % number for number in range(40)]
        assert len(files.session._opened.lists) == 16


class TestTransactions:
    def test_files_are_stored_together(self, folder, files):
        with files.transaction:
            files.pipe({f"new/{number}": b"%d" % number for number in range(3)})
            assert files.cat("new/1") == b"1", "it reads what it writes"
            assert list(open_repository(folder).keys()) == []
            key = files.snapshot()
        assert open_repository(folder).has_many([sha256(b"%d" % number) for number in range(3)]) == [True] * 3
        assert files.cat(f"{key}/2") == b"2"

    def test_an_exception_takes_the_names_back(self, files):
        files.pipe({"new/changed": b"before", "new/removed": b"before"})
        late = None
        with pytest.raises(BrokenError), files.transaction:
            files.pipe({"new/added": b"added", "new/changed": b"1"})
            files.pipe("new/changed", b"2")
            files.rm("new/removed")
            late = files.open("new/late", "wb")
            raise BrokenError
        with pytest.raises(RepositoryClosedError):
            late.close()
        assert files.cat(files.find("new")) == {"new/changed": b"before", "new/removed": b"before"}
        assert files.ls("", detail=False) == [sha256(b"before")]
        files.pipe("new/after", b"after")
        assert files.cat("new/after") == b"after"

    def test_a_file_that_is_closed_after_its_transaction_is_not_stored(self, files):
        with files.transaction:
            file = files.open("new/late", "wb")
        with pytest.raises(RepositoryClosedError, match="has ended: begin another one"):
            file.close()
        assert not files.exists("new/late")

    def test_a_missing_repository(self, tmp_path):
        files = ObjectFileSystem(str(tmp_path / "missing"))
        for _ in range(2):
            with pytest.raises(NotInitialisedError), files.transaction:
                pass
        with pytest.raises(NotInitialisedError):
            files.pipe("new/name", b"content")
        assert files.ls("new") == []

    def test_it_can_be_begun_and_ended(self, folder, files):
        files.start_transaction()
        files.pipe("new/name", b"content")
        with pytest.raises(ValueError, match="has begun"):
            files.start_transaction()
        assert list(open_repository(folder).keys()) == []
        files.end_transaction()
        assert list(open_repository(folder).keys()) == [sha256(b"content")]
        with files.transaction:
            files.pipe("new/other", b"content")


class TestProcessesAndThreads:
    def test_the_filesystems_of_a_process_share_the_names(self, files, folder, options):
        with ThreadPoolExecutor(4) as pool:
            others = list(pool.map(lambda number: fsspec.filesystem("objrepo", number=number, **options), range(4)))
            for number, other in enumerate(others):
                other.pipe(f"new/{number}", b"content")
        assert files.find("new") == [f"new/{number}" for number in range(4)]
        assert ObjectFileSystem(os.path.relpath(folder)).find("new") == files.find("new")
        assert ObjectFileSystem(f"checked:{folder}").find("new") == []

    @pytest.mark.usefixtures("frozen_heap")
    def test_the_names_outlive_the_filesystem(self, folder):
        stored(folder)
        ObjectFileSystem(str(folder), skip_instance_cache=True).pipe("new/name", b"content")
        gc.collect()
        assert ObjectFileSystem(str(folder), skip_instance_cache=True).cat("new/name") == b"content"

    def test_many_threads_write(self, files):
        barrier = threading.Barrier(8)

        def write(thread):
            barrier.wait()
            for number in range(20):
                files.pipe(f"new/{number}/{thread}", b"%d" % number)
                files.pipe(f"new/temporary/{thread}", b"")
                files.rm(f"new/temporary/{thread}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        assert len(files.find("new")) == 160
        assert files.cat("new/7/3") == b"7"

    PROGRAM = """
import pickle, sys
files = pickle.load(sys.stdin.buffer)
print(files.cat(sys.argv[1]).decode())
for call in (lambda: files.cat("new/name"), lambda: files.pipe("new/other", b""), lambda: files.snapshot(),
             lambda: pickle.loads(pickle.dumps(files)).ls("new")):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
own = type(files)(*files.storage_args, **{**files.storage_options, "_process_id": None})
own.pipe("new/name", b"of the other process")
print(own.snapshot("new/name"))
"""

    def test_another_process_reads_snapshots_and_does_not_write(self, files):
        files.pipe("new/name", b"content")
        assert pickle.loads(pickle.dumps(files)).cat("new/name") == b"content", "in the same process it has the names"
        program = [sys.executable, "-W", "error", "-c", self.PROGRAM, f"{files.snapshot()}/name"]
        done = subprocess.run(program, input=pickle.dumps(files), capture_output=True, check=False)
        first, *errors, key = done.stdout.decode().splitlines()
        assert (done.returncode, done.stderr, first) == (0, b"", "content")
        assert len(errors) == 4
        assert all(line.startswith("RepositoryError objrepo://new belongs to the process that") for line in errors)
        assert key == sha256(b"of the other process")
        assert files.cat("new/name") == b"content"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    def test_a_forked_child_does_not_write(self, files, options):
        files.pipe("new/name", b"content")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests of this process have started threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                files.pipe("new/name", b"lost")
            except RepositoryError:
                own = fsspec.filesystem("objrepo", **options)
                status = 0 if own.ls("new") == [] and own.pipe("new/name", b"own") is None else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert files.cat("new/name") == b"content"
