"""A tour of the sync API, on each backend; and its signatures are those of the async protocol."""

from __future__ import annotations

import inspect
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager

import pytest
from anyio.abc import ByteReceiveStream

import objrepo
from helpers import flip, loose_file, sha256
from objrepo import (
    AsyncRepository,
    CachedRepository,
    CorruptObjectError,
    DiskRepository,
    MemoryRepository,
    ObjectNotFoundError,
    ObjectWriter,
    ReadOnlyError,
    RepositoryClosedError,
    S3Repository,
)
from objrepo.instrumentation import InstrumentedRepository
from objrepo.offload import Inline, Threads
from objrepo.sync import SyncRepository, SyncWriter, copy, export, open_repository
from objrepo.testing.fixtures import BAD_KEYS, NOT_STRINGS, content_of
from s3_server import s3_server

LARGE = content_of(1_500_000)


@contextmanager
def on_s3(offload):
    with s3_server() as server:
        yield SyncRepository(S3Repository(**server.options, prefix="tour", offload=offload))


@contextmanager
def cached(tmp_path, offload):
    cache = DiskRepository(tmp_path / "cache", offload)
    yield SyncRepository(CachedRepository(cache, MemoryRepository(offload), max_bytes=10_000_000))


@contextmanager
def plain(repository):
    yield repository


BACKENDS = {
    "disk": lambda tmp_path: plain(open_repository(tmp_path / "repository")),
    "memory": lambda tmp_path: plain(open_repository("memory:")),
    "sandbox": lambda tmp_path: plain(open_repository(f"sandbox:{tmp_path}")),
    "cached": lambda tmp_path: cached(tmp_path, Inline()),
    "s3": lambda tmp_path: on_s3(Inline()),
    "instrumented": lambda tmp_path: plain(
        SyncRepository(InstrumentedRepository(MemoryRepository(Inline()), lambda operation: None))
    ),
    "disk through a portal": lambda tmp_path: plain(SyncRepository(DiskRepository(tmp_path / "repository"))),
    "s3 through a portal": lambda tmp_path: on_s3(Threads()),
    "cached through a portal": lambda tmp_path: cached(tmp_path, Threads()),
}


@pytest.fixture(params=BACKENDS)
def repo(request, tmp_path):
    with BACKENDS[request.param](tmp_path) as repository, repository as repo:
        repo.initialise()
        yield repo


@pytest.fixture
def disk(tmp_path):
    with open_repository(tmp_path / "disk") as repo:
        repo.initialise()
        yield repo


async def async_chunks():
    yield b"chunk"


class AsyncFile:
    async def read(self, size=-1):
        return b""


class AnyioStream(ByteReceiveStream):
    async def receive(self, max_bytes=65536):
        return b"chunk"

    async def aclose(self):
        pass


class TestTour:
    def test_put_takes_every_source_but_async_ones(self, repo, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(LARGE)
        with open(path, "rb") as file:
            file.seek(5)
            sources = [b"bytes", bytearray(b"bytearray"), memoryview(b"view"), path, file, io.BytesIO(b"")]
            sources.append(chunk for chunk in (b"an ", b"iterable"))
            contents = [b"bytes", b"bytearray", b"view", LARGE, LARGE[5:], b"", b"an iterable"]
            assert [repo.get(repo.put(source)) for source in sources] == contents

    @pytest.mark.parametrize("source", [async_chunks, AsyncFile, AnyioStream])
    def test_async_sources_raise_type_error_and_nothing_is_stored(self, repo, source):
        async_source = source()
        with pytest.raises(TypeError, match="a sync repository cannot read an async source"):
            repo.put(async_source)
        with pytest.raises(TypeError, match="use the async repository"):
            repo.put_many([b"first", async_source])
        assert list(repo.keys()) == []
        with pytest.raises(TypeError, match="async source"):
            repo.put_many(each for each in (b"first", async_source))
        assert {repo.get(key) for key in repo.keys()} <= {b"first"}

    def test_an_async_iterable_of_sources_raises_type_error(self, repo):
        with pytest.raises(TypeError, match="async source"):
            repo.put_many(async_chunks())
        assert list(repo.keys()) == []

    def test_put_many_and_its_progress(self, repo, tmp_path):
        (tmp_path / "file").write_bytes(b"a file")
        seen = []
        keys = repo.put_many([tmp_path / "file", b"bytes", LARGE, io.BytesIO(b"memory")], progress=seen.append)
        assert [repo.get(key) for key in keys] == [b"a file", b"bytes", LARGE, b"memory"]
        assert (seen[-1].done, seen[-1].total) == (4, 4)
        assert repo.put_many(b"%d" % number for number in range(0)) == []
        many = repo.put_many(b"%d" % number for number in range(1500))
        assert repo.get(many[-1]) == b"1499"

    def test_questions(self, repo):
        key = repo.put(LARGE)
        absent = repo.put(b"deleted")
        repo.delete(absent)
        assert repo.has(key) is True
        assert repo.has_many([key, absent, *BAD_KEYS, *NOT_STRINGS]) == [True] + [False] * (
            1 + len(BAD_KEYS) + len(NOT_STRINGS)
        )
        assert repo.size(key) == len(LARGE)
        assert repo.hash(key) == sha256(LARGE)
        assert repo.get(key, check=True) == LARGE
        assert list(repo.keys()) == [key]
        assert repo.is_initialised is True
        assert repo.key_format in ("sha256", "uuid4")
        assert repo.uuid is None or isinstance(repo.uuid, str)
        for use in (repo.get, repo.size, repo.hash, repo.delete, lambda key: repo.open(key).__enter__()):
            with pytest.raises(ObjectNotFoundError, match=absent):
                use(absent)
            with pytest.raises(TypeError):
                use(7)
        for use in (repo.stream, repo.delete_many):
            with pytest.raises(ObjectNotFoundError) as caught:
                list(use([key, absent]) or ())
            assert caught.value.keys == (absent,)

    @pytest.mark.parametrize("content", [b"0123456789", LARGE], ids=["small", "large"])
    def test_open_gives_a_seekable_file_of_a_range(self, repo, content):
        key = repo.put(content)
        with repo.open(key, offset=2, length=5) as file:
            assert type(file) is io.BufferedReader
            assert file.read() == content[2:7]
            assert file.seek(-2, os.SEEK_END) == 3
            assert file.read(1) == content[5:6]
            assert file.tell() == 4
        assert file.closed
        with repo.open(key, len(content) + 1) as file:
            assert file.read() == b""
        with repo.open(key, check=True) as file:
            assert file.read() == content
        with pytest.raises(ValueError, match="negative"), repo.open(key, -1):
            pass
        with pytest.raises(ValueError, match="range"), repo.open(key, 1, check=True):
            pass
        with pytest.raises(TypeError), repo.open(key, "1"):
            pass

    def test_stream_is_an_iterator_of_keys_and_files(self, repo):
        contents = [LARGE, b"", b"small", LARGE[1:]]
        keys = repo.put_many(contents)
        found = {}
        files = []
        for key, file in repo.stream(keys):
            assert all(earlier.closed for earlier in files), "a file lives until the next step"
            assert type(file) is io.BufferedReader
            found[key] = file.read()
            files.append(file)
        assert all(file.closed for file in files)
        assert found == dict(zip(keys, contents, strict=True))
        for _, file in repo.stream(keys):  # noqa: B007  (it is used after the loop)
            break
        assert file.closed, "leaving the loop closes the file"
        with pytest.raises(TypeError):
            next(repo.stream([7]))

    def test_create(self, repo):
        for pieces in ([], [b"piece"], [b"a", bytearray(LARGE), memoryview(b"b")]):
            with repo.create() as writer:
                assert [writer.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
                with pytest.raises(ValueError, match="no key"):
                    writer.key  # noqa: B018
            assert repo.get(writer.key) == b"".join(map(bytes, pieces))
            assert writer.size == repo.size(writer.key)
            with pytest.raises(RepositoryClosedError, match=r"use `with repo\.create\(\) as writer`"):
                writer.write(b"late")
            with pytest.raises(RepositoryClosedError, match="create another one"):
                writer.__enter__()

    def test_what_needs_with_says_so(self, repo):
        key = repo.put(b"content")
        with pytest.raises(AttributeError, match=r"use `with repo.open\(key\) as file`: this has no 'read' by itself"):
            repo.open(key).read()
        with pytest.raises(TypeError, match=r"use `with repo.open\(key\) as file`"):
            list(repo.open(key))
        with pytest.raises(AttributeError, match=r"use `with repo.batch\(\) as batch`"):
            repo.batch().put(b"content")
        with pytest.raises(RepositoryClosedError, match=r"use `with repo.create\(\) as writer`"):
            repo.create().write(b"content")
        with pytest.raises(TypeError, match=r"use `with repo.create\(\) as writer`"):
            iter(repo.create())

    @pytest.mark.parametrize("source", ["text", io.StringIO("text"), 7])
    def test_the_error_of_a_source_offers_what_a_sync_program_has(self, repo, source):
        for call in (repo.put, lambda source: repo.put_many([source]), lambda source: repo.put_many(iter([source]))):
            with pytest.raises(TypeError, match=r"in binary mode, or an iterable of bytes$"):
                call(source)
        with pytest.raises(TypeError, match="not one str: use put for it"):
            repo.put_many("text")

    def test_a_writer_that_fails_stores_nothing(self, repo):
        for content in (b"small", LARGE):
            with pytest.raises(ZeroDivisionError), repo.create() as writer:
                writer.write(content)
                raise ZeroDivisionError
            with pytest.raises(ValueError, match="no key"):
                writer.key  # noqa: B018
            with pytest.raises(TypeError, match="bytes"), repo.create() as writer:
                writer.write("text")
        assert list(repo.keys()) == []

    def test_batch(self, repo):
        with repo.batch() as batch:
            assert type(batch) is SyncRepository
            keys = [batch.put(b"%d" % number) for number in range(100)] + batch.put_many([b"x", LARGE])
            assert batch.get(keys[7]) == b"7"
            with batch.open(keys[-1], 3, 4) as file:
                assert file.read() == LARGE[3:7]
            assert batch.has_many(keys) == [True] * 102
        assert [repo.get(key) for key in (keys[7], keys[-1])] == [b"7", LARGE]
        assert sorted(repo.keys()) == sorted(keys)
        with pytest.raises(RepositoryClosedError):
            batch.put(b"late")
        assert repo.put(b"x"), "the repository stays open"

    def test_a_batch_that_fails_is_not_stored_where_objects_wait(self, repo, request):
        with pytest.raises(ZeroDivisionError), repo.batch() as batch:
            key = batch.put(b"small")
            raise ZeroDivisionError
        waits = request.node.callspec.params["repo"].startswith(("disk", "s3"))
        assert repo.has(key) is not waits

    def test_deletion(self, repo):
        keys = repo.put_many([b"a", b"b", b"c"])
        repo.delete(keys[0])
        repo.delete_many([keys[1], keys[1]])
        assert list(repo.keys()) == [keys[2]]

    def test_care(self, repo):
        repo.put(b"content")
        assert repo.info().objects in (1, None)
        assert repo.info(detailed=True).size in (7, None)
        seen = []
        assert repo.verify(progress=seen.append).ok
        assert seen[-1].done == 1
        assert repo.verify(quick=True).objects == 1
        assert repo.maintain(dry_run=True).dry_run
        assert isinstance(repo.maintain(), objrepo.reports.MaintenanceReport)
        assert repo.statistics().users == 1
        with pytest.raises(TypeError, match="option"):
            repo.initialise(no_such_option=True)
        repo.erase()
        repo.initialise()
        assert list(repo.keys()) == []

    def test_copy_and_export(self, repo, disk, tmp_path):
        contents = [b"%d" % number for number in range(1200)] + [LARGE]
        if isinstance(repo._repository, S3Repository):  # the server lists one page
            contents = contents[1000:]
        keys = repo.put_many(contents)
        seen = []
        planned = copy(repo, disk, dry_run=True)
        assert (planned.copied, planned.dry_run) == (len(contents), True)
        report = copy(repo, disk, check=True, progress=seen.append)
        assert report.copied == len(contents)
        assert seen[-1].done == len(contents)
        assert {disk.get(key) for key in disk.keys()} == set(contents)
        assert copy(disk, repo, [sha256(LARGE)]).objects == 1
        for name in ("all.zip", "all.tar"):
            assert export(repo, tmp_path / name).copied == len(list(repo.keys()))
        with zipfile.ZipFile(tmp_path / "all.zip") as archive, tarfile.open(tmp_path / "all.tar") as tar:
            assert archive.read(f"repo/{keys[-1]}") == LARGE == tar.extractfile(f"repo/{keys[-1]}").read()
        with open_repository(tmp_path / "all.zip") as archive:
            self.read_archive(archive, keys[-1])
        with pytest.raises(FileExistsError):
            export(repo, tmp_path / "all.zip")

    def read_archive(self, archive, key):
        assert archive.get(key, check=True) == LARGE
        with archive.open(key, 2, 3) as file:
            assert file.read() == LARGE[2:5]
        assert {key for key, file in archive.stream(archive.keys()) if file.read() == LARGE} >= {key}
        assert archive.verify().ok
        with pytest.raises(ReadOnlyError):
            archive.put(b"content")

    def test_the_names_that_aiida_documents_are_the_same_methods(self, repo, tmp_path):
        (tmp_path / "file").write_bytes(LARGE)
        key = repo.put_object_from_file(tmp_path / "file")
        small = repo.put_object_from_filelike(io.BytesIO(b"small"))
        assert repo.get_object_content(key) == repo.get(key) == LARGE
        assert repo.has_object(key)
        assert repo.has_objects([small, "absent"]) == [True, False]
        assert {key: file.read() for key, file in repo.iter_object_streams([key, small])} == {
            key: LARGE,
            small: b"small",
        }
        assert set(repo.list_objects()) == {key, small}
        assert repo.get_object_hash(key) == sha256(LARGE)
        assert repo.get_info()["key_format"] == repo.key_format
        repo.delete_object(key)
        repo.delete_objects([small])
        assert list(repo.keys()) == []


def test_copy_deletes_only_as_many_as_expected(disk):
    with open_repository("memory:") as source:
        source.put(b"content")
        disk.put(b"extraneous")
        with pytest.raises(ValueError, match="pass deletions=1"):
            copy(source, disk, delete=True)
        assert copy(source, disk, delete=True, deletions=1).deleted == 1
        assert [disk.get(key) for key in disk.keys()] == [b"content"]


def test_repair_and_locate(disk, tmp_path):
    key = disk.put(b"content")
    assert disk.locate(key).key == key
    assert disk.keys_with_prefix(key[:7]) == [key]
    flip(loose_file(tmp_path / "disk", key), 3)
    assert [damaged.key for damaged in disk.verify().damaged] == [key]
    with pytest.raises(CorruptObjectError):
        disk.get(key, check=True)
    for threads in (False, True):
        with SyncRepository(MemoryRepository(Threads() if threads else Inline())) as source:
            source.put(b"content")
            assert disk.repair(dry_run=True, source=source).steps[0].action == "refilled"
    with open_repository("memory:") as source:
        source.put(b"content")
        assert disk.repair(source=source).lost == ()
    assert disk.get(key, check=True) == b"content"
    assert disk.repair().steps == ()


def test_prefetch(tmp_path):
    with cached(tmp_path, Inline()) as repository, repository as repo:
        repo.initialise()
        keys = repo.put_many([b"a", LARGE])
        assert repo.prefetch(keys).copied == 2
        assert repo.get(keys[0]) == b"a"
        assert repo.statistics().cache_hits == 1


def test_methods_that_a_repository_does_not_have_raise_attribute_error():
    repo = open_repository("memory:")
    for use in (repo.repair, lambda: repo.locate("key"), lambda: repo.prefetch([])):
        with pytest.raises(AttributeError, match="MemoryRepository has no method"):
            use()


def test_wrong_arguments_raise_type_error_that_says_what_to_pass(tmp_path, disk):
    for wrong in ("path", tmp_path, disk, DiskRepository, None):
        with pytest.raises(TypeError, match=r"use objrepo\.sync\.open_repository\(path\)"):
            SyncRepository(wrong)
    with pytest.raises(TypeError, match="BlockingPortal"):
        SyncRepository(MemoryRepository(), "portal")
    with pytest.raises(TypeError, match="path or a URL"):
        open_repository(7)
    with pytest.raises(ValueError, match="unknown scheme"):
        open_repository("nothing:here")
    for wrong in ("path", tmp_path, MemoryRepository(Inline()), SyncRepository, None):
        for use in (
            lambda wrong=wrong: copy(wrong, disk),
            lambda wrong=wrong: copy(disk, wrong),
            lambda wrong=wrong: export(wrong, tmp_path / "file.zip"),
            lambda wrong=wrong: disk.repair(source=wrong) if wrong is not None else copy(wrong, wrong),
        ):
            with pytest.raises(TypeError, match=r"objrepo\.sync\.open_repository\(path\)"):
                use()
    for use in (lambda: copy(disk, disk, async_chunks()), lambda: export(disk, tmp_path / "file.zip", async_chunks())):
        with pytest.raises(TypeError, match="async keys"):
            use()
    assert not (tmp_path / "file.zip").exists()
    for source in ("text", 7, None, io.StringIO("text"), {"a": 1}):
        with pytest.raises(TypeError):
            disk.put(source)
        with pytest.raises(TypeError):
            disk.put_many([b"first", source])
    for sources in (7, None, "text", b"bytes"):
        with pytest.raises(TypeError):
            disk.put_many(sources)
    assert list(disk.keys()) == []


class TestCopyBetweenRunners:
    """In place or through portals, of either or both."""

    @pytest.mark.parametrize("offloads", [(Inline, Threads), (Threads, Inline), (Threads, Threads)])
    def test_every_object_is_copied(self, tmp_path, offloads):
        first, second = (
            SyncRepository(DiskRepository(tmp_path / str(number), offload())) for number, offload in enumerate(offloads)
        )
        with first as source, second as target:
            source.initialise()
            target.initialise()
            keys = source.put_many([b"small", LARGE])
            assert copy(source, target, check=True).copied == 2
            assert [target.get(key) for key in keys] == [b"small", LARGE]

    def test_a_closed_repository_raises(self, tmp_path, disk):
        with pytest.raises(RepositoryClosedError, match="inside `with`"):
            copy(disk, SyncRepository(DiskRepository(tmp_path / "other")))


def test_nothing_starts_a_thread_or_a_loop(tmp_path):
    script = f"""
import asyncio, sys, threading
from pathlib import Path
def refuse(*_):
    raise AssertionError("a loop is started")
asyncio.base_events.BaseEventLoop.__init__ = refuse
from objrepo.sync import open_repository, copy, export
folder = Path({str(tmp_path)!r})
with open_repository(folder / "repository") as repo, open_repository("memory:") as other:
    repo.initialise()
    repo.put_many([b"bytes", bytes(2_000_000), Path({__file__!r})])
    with repo.batch() as batch:
        batch.put(b"more")
    with repo.create() as writer:
        writer.write(bytes(3_000_000))
    assert copy(repo, other, check=True).copied == 5
    assert export(repo, folder / "all.zip", check=True).copied == 5
    assert repo.verify().ok
    repo.maintain(live=False)
    repo.repair()
with open_repository(folder / "all.zip") as archive:
    assert len(list(archive.stream(archive.keys()))) == 5
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
print("trio" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


class TestSignatures:
    """The sync methods are the async ones: names, parameters, defaults and results, as both classes have them."""

    WITHOUT_MEANING = {"send_object"}
    """It sends to an async stream."""

    PROPERTIES = {"uuid", "key_format", "is_initialised"}
    RESULTS = {
        "AbstractAsyncContextManager[AsyncRepository]": "Iterator[SyncRepository]",  # a generator of `contextmanager`
        "AbstractAsyncContextManager[ObjectStream]": "Iterator[io.BufferedReader]",
        "AbstractAsyncContextManager[AsyncIterator[tuple[str, ObjectStream]]]": (
            "Iterator[tuple[str, io.BufferedReader]]"
        ),
        "AsyncIterator[str]": "Iterator[str]",
        "ObjectWriter": "SyncWriter",
    }
    PARAMETERS = {"Iterable[Source] | AsyncIterable[Source]": "Iterable[SyncSource]", "Source": "SyncSource"}

    @staticmethod
    def public(cls):
        return {name for name in dir(cls) if not name.startswith("_")}

    def signature(self, function):
        signature = inspect.signature(function)
        kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        parameters = {
            # `*args` of the protocol takes nothing; names of options are the backend's.
            name: (parameter.kind, parameter.default, self.translated(parameter.annotation, self.PARAMETERS))
            for name, parameter in signature.parameters.items()
            if parameter.kind not in kinds
        }
        return parameters, self.translated(signature.return_annotation, self.RESULTS)

    @staticmethod
    def translated(annotation, table):
        for old, new in table.items():
            annotation = new if annotation == old else annotation
        return annotation.replace("AsyncRepository", "SyncRepository") if isinstance(annotation, str) else annotation

    def test_every_method_of_the_protocol_is_there(self):
        assert self.public(AsyncRepository) - self.public(SyncRepository) == self.WITHOUT_MEANING
        assert self.public(ObjectWriter) == self.public(SyncWriter)

    @pytest.mark.parametrize("name", sorted(public(AsyncRepository) - WITHOUT_MEANING - PROPERTIES))
    def test_parameters_defaults_and_results(self, name):
        assert self.signature(getattr(SyncRepository, name)) == self.signature(getattr(AsyncRepository, name))

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (DiskRepository, "repair"),
            (DiskRepository, "locate"),
            (DiskRepository, "keys_with_prefix"),
            (CachedRepository, "prefetch"),
        ],
    )
    def test_methods_of_some_repositories(self, kind, name):
        assert self.signature(getattr(SyncRepository, name)) == self.signature(getattr(kind, name))

    @pytest.mark.parametrize("name", sorted(PROPERTIES))
    def test_properties(self, name):
        assert (
            self.signature(getattr(SyncRepository, name).fget)[1] == self.signature(getattr(AsyncRepository, name))[1]
        )

    def test_the_writer(self):
        assert self.signature(SyncWriter.write) == self.signature(ObjectWriter.write)

    @pytest.mark.parametrize("name", ["copy", "export"])
    def test_functions(self, name):
        parameters, result = self.signature(getattr(objrepo, name))
        parameters.pop("offload", None)  # it runs in place
        kind, default, annotation = parameters["keys"]
        parameters["keys"] = kind, default, annotation.replace("Iterable[str] | AsyncIterable[str]", "Iterable[str]")
        assert self.signature(getattr(objrepo.sync, name)) == (parameters, result)

    def test_no_result_is_untyped(self):
        for name in self.public(SyncRepository) - {"get_info"}:  # AiiDA's dictionary
            member = inspect.getattr_static(SyncRepository, name)
            function = member.fget if isinstance(member, property) else getattr(SyncRepository, name)
            result = inspect.signature(function).return_annotation
            assert isinstance(result, str), name
            assert "Any" not in result, name


class TestDocstrings:
    @pytest.mark.parametrize("function", [copy, export, open_repository, SyncWriter.write] + [
        getattr(SyncRepository, name) for name in sorted(TestSignatures.public(AsyncRepository))
        if name not in TestSignatures.PROPERTIES | TestSignatures.WITHOUT_MEANING
    ], ids=lambda function: function.__name__)  # fmt: skip
    def test_help_is_whole_and_of_sync_methods(self, function):
        text = inspect.getdoc(function)
        for name in inspect.signature(function).parameters:
            assert f":param {name}:" in text or name in ("self", "chunk")
        assert ":raises " in text
        for word in ("async ", "await", "ancel", "task"):
            assert word not in text, text
