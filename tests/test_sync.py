"""The sync facade: the documented interface, without an event loop, in one, in threads and in child processes."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import csv
import hashlib
import inspect
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import numpy
import pytest
import trio
from anyio.from_thread import start_blocking_portal
from disk_objectstore import CompressMode, Container

import objrepo
from objrepo import DiskRepository, MemoryRepository, SandboxRepository
from objrepo.offload import Inline, Threads
from objrepo.sync import (
    AbstractRepositoryBackend,
    DiskObjectStoreRepositoryBackend,
    SandboxRepositoryBackend,
    SyncRepository,
)
from objrepo.testing.fixtures import BAD_KEYS, NOT_STRINGS, content_of

CONTENT = content_of(1_500_000)


def disk_backend(tmp_path, **options):
    backend = DiskObjectStoreRepositoryBackend(Container(tmp_path / "container"))
    backend.initialise(**options)
    return backend


def packed_backend(tmp_path):
    """A repository that packs, compressed, what is put before each reading."""
    backend = disk_backend(tmp_path)
    packing = threading.Lock()

    class Packed(SyncRepository):
        def _put_object_from_filelike(self, handle):
            key = super()._put_object_from_filelike(handle)
            with packing, Container(tmp_path / "container") as container:
                container.pack_all_loose(compress=CompressMode.YES)
                container.clean_storage()
            return key

    return Packed(backend._repository)


BACKENDS = {
    "disk": disk_backend,
    "packed": packed_backend,
    "sandbox": lambda tmp_path: SandboxRepositoryBackend(str(tmp_path)),
    "memory": lambda tmp_path: SyncRepository(MemoryRepository(Inline())),
    "disk through a portal": lambda tmp_path: SyncRepository(DiskRepository(tmp_path / "container", Threads())),
    "sandbox through a portal": lambda tmp_path: SyncRepository(SandboxRepository(tmp_path, Threads(2))),
}


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    with BACKENDS[request.param](tmp_path) as backend:
        backend.initialise()
        yield backend


def put(backend, content):
    return backend.put_object_from_filelike(io.BytesIO(content))


class TestDocumentedInterface:
    """Row by row, as aiida-core's documentation has it."""

    ABSTRACT = {
        "_put_object_from_filelike", "delete_objects", "erase", "get_info", "has_objects", "initialise",
        "is_initialised", "iter_object_streams", "key_format", "list_objects", "maintain", "uuid",
    }  # fmt: skip
    SIGNATURES = {
        "_put_object_from_filelike": "(self, handle)",
        "delete_object": "(self, key)",
        "delete_objects": "(self, keys)",
        "erase": "(self)",
        "get_info": "(self, detailed=False, **kwargs)",
        "get_object_content": "(self, key)",
        "get_object_hash": "(self, key)",
        "has_object": "(self, key)",
        "has_objects": "(self, keys)",
        "initialise": "(self, **kwargs)",
        "is_readable_byte_stream": "(handle)",
        "iter_object_streams": "(self, keys)",
        "list_objects": "(self)",
        "maintain": "(self, dry_run=False, live=True, **kwargs)",
        "open": "(self, key)",
        "put_object_from_file": "(self, filepath)",
        "put_object_from_filelike": "(self, handle)",
    }
    OF_DISK = {
        "__init__": "(self, container, *, check=False)",
        "__str__": "(self)",
        "get_info": "(self, detailed=False)",
        # `incremental_cleanup` is aiida-core 2.9's; the document ends before it.
        "maintain": "(self, dry_run=False, live=True, pack_loose=None, do_repack=None, clean_storage=None, "
        "do_vacuum=None, compress=False, incremental_cleanup=True)",
    }
    OF_SANDBOX = {"__init__": "(self, filepath=None)", "__str__": "(self)", "__del__": "(self)"}
    OF_BOTH = {"open": "(self, key, offset=0, length=None, check=None)"}
    """More than the document has, as `check` of the constructor: called as it says, they do what it says."""
    PROPERTIES = ("is_initialised", "key_format", "uuid")

    @staticmethod
    def signature(function):
        bare = inspect.signature(function)
        parameters = [p.replace(annotation=p.empty) for p in bare.parameters.values()]
        return str(bare.replace(parameters=parameters, return_annotation=bare.empty))

    @pytest.mark.parametrize(
        ("cls", "signatures"),
        [
            (AbstractRepositoryBackend, SIGNATURES),
            (DiskObjectStoreRepositoryBackend, SIGNATURES | OF_DISK | OF_BOTH),
            (SandboxRepositoryBackend, SIGNATURES | OF_SANDBOX | OF_BOTH),
        ],
    )
    def test_names_signatures_and_defaults(self, cls, signatures):
        assert {name: self.signature(getattr(cls, name)) for name in signatures} == signatures
        for name in self.PROPERTIES:
            assert isinstance(inspect.getattr_static(cls, name), property)
        assert isinstance(inspect.getattr_static(cls, "is_readable_byte_stream"), staticmethod)
        assert all(inspect.getdoc(getattr(cls, name)) for name in signatures if not name.startswith("_"))

    def test_the_abstract_methods(self):
        assert AbstractRepositoryBackend.__abstractmethods__ == self.ABSTRACT
        for cls in (DiskObjectStoreRepositoryBackend, SandboxRepositoryBackend):
            assert issubclass(cls, AbstractRepositoryBackend)
            assert cls.__abstractmethods__ == frozenset()
        assert isinstance(inspect.getattr_static(SandboxRepositoryBackend, "sandbox"), property)
        with pytest.raises(TypeError, match="abstract"):
            AbstractRepositoryBackend()

    def test_is_readable_byte_stream(self, tmp_path):
        says = AbstractRepositoryBackend.is_readable_byte_stream
        with open(tmp_path / "file", "wb+") as binary, tempfile.TemporaryFile("w+") as text:
            assert says(binary)
            assert not says(text)
        assert not says(io.BytesIO())
        assert not says(tmp_path)


class ThirdParty(AbstractRepositoryBackend):
    """A backend of a third party: the abstract methods only."""

    uuid = None
    key_format = "sha256"
    is_initialised = True

    def __init__(self):
        self.objects = {}

    def initialise(self, **kwargs):
        pass

    def erase(self):
        self.objects.clear()

    def _put_object_from_filelike(self, handle):
        content = handle.read()
        key = hashlib.sha256(content).hexdigest()
        self.objects[key] = content
        return key

    def has_objects(self, keys):
        return [key in self.objects for key in keys]

    def list_objects(self):
        return list(self.objects)

    def get_info(self, detailed=False, **kwargs):
        return {}

    def maintain(self, dry_run=False, live=True, **kwargs):
        pass

    def iter_object_streams(self, keys):
        for key in keys:
            yield key, io.BytesIO(self.objects[key])

    def delete_objects(self, keys):
        super().delete_objects(keys)
        for key in keys:
            del self.objects[key]


def test_a_third_party_backend_inherits_the_other_methods(tmp_path):
    backend = ThirdParty()
    (tmp_path / "file").write_bytes(CONTENT)
    key = backend.put_object_from_file(tmp_path / "file")
    assert backend.put_object_from_file(str(tmp_path / "file")) == key == put(backend, CONTENT)
    assert backend.has_object(key)
    with backend.open(key) as handle:
        assert handle.read() == CONTENT
    assert backend.get_object_content(key) == CONTENT
    assert backend.get_object_hash(key) == key
    with pytest.raises(FileNotFoundError, match="gone"):
        backend.delete_objects([key, "gone"])
    backend.delete_object(key)
    for use in (backend.get_object_content, backend.delete_object, backend.get_object_hash):
        with pytest.raises(FileNotFoundError, match=key):
            use(key)


def test_aiida_accepts_the_backends_once_it_is_imported(monkeypatch):
    """With a stand-in for AiiDA's module; the test with AiiDA itself is in `tests/engines`."""
    module = types.ModuleType("aiida.repository.backend.abstract")
    backends = [ThirdParty(), SandboxRepositoryBackend(), SyncRepository(MemoryRepository(Inline()))]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert [backend.__class__ for backend in backends] == [type(backend) for backend in backends]
    module.AbstractRepositoryBackend = abc.ABCMeta("AbstractRepositoryBackend", (), {})
    assert all(isinstance(backend, module.AbstractRepositoryBackend) for backend in backends)
    assert not isinstance(MemoryRepository(), module.AbstractRepositoryBackend)


class TestEveryBackend:
    def test_a_round_trip(self, backend, tmp_path):
        assert isinstance(backend, AbstractRepositoryBackend)
        assert backend.is_initialised
        path = tmp_path / "file"
        path.write_bytes(CONTENT)
        keys = [backend.put_object_from_file(path), put(backend, b""), put(backend, b"content")]
        with open(path, "rb", buffering=0) as file, tempfile.TemporaryFile("w+b") as temporary:
            file.seek(5)
            keys.append(backend.put_object_from_filelike(file))
            keys.append(backend.put_object_from_filelike(temporary))
        contents = [CONTENT, b"", b"content", CONTENT[5:], b""]
        assert [backend.get_object_content(key) for key in keys] == contents
        assert backend.has_objects(keys) == [True] * 5
        assert sorted(backend.list_objects()) == sorted(set(keys))
        assert backend.get_object_hash(keys[2]) == hashlib.sha256(b"content").hexdigest()
        streams = {key: stream.read() for key, stream in backend.iter_object_streams(keys)}
        assert streams == dict(zip(keys, contents, strict=True))
        backend.delete_objects(keys[1:2])
        backend.delete_object(keys[0])
        assert backend.has_objects(keys[:3]) == [False, False, True]
        backend.maintain()
        assert backend.get_object_content(keys[2]) == b"content"
        backend.erase()
        backend.initialise()
        assert list(backend.list_objects()) == []

    def test_other_things_than_byte_streams_raise_type_error(self, backend, tmp_path):
        (tmp_path / "file").write_text("text")
        with (tmp_path / "file").open() as text:
            for handle in (text, tmp_path / "file", str(tmp_path / "file"), io.StringIO("text"), b"bytes", None, 7):
                with pytest.raises(TypeError):
                    backend.put_object_from_filelike(handle)
        with pytest.raises(FileNotFoundError):
            backend.put_object_from_file(tmp_path / "missing")
        assert list(backend.list_objects()) == []

    def test_malformed_keys_raise_not_found(self, backend):
        key = put(backend, b"content")
        for bad in BAD_KEYS:
            assert not backend.has_object(bad)
            for use in (
                backend.get_object_content,
                backend.get_object_hash,
                backend.delete_object,
                lambda key: backend.delete_objects([key]),
                lambda key: backend.open(key).__enter__(),
                lambda key: list(backend.iter_object_streams([key])),
            ):
                with pytest.raises(FileNotFoundError):
                    use(bad)
        for nothing in NOT_STRINGS:
            assert not backend.has_object(nothing)
            with pytest.raises(TypeError):
                backend.get_object_content(nothing)
        assert list(backend.list_objects()) == [key]

    def test_iterations_may_be_left_early(self, backend):
        keys = [put(backend, CONTENT), put(backend, CONTENT[1:])]
        for key, stream in backend.iter_object_streams(keys):
            assert key in keys
            assert stream.read(3)
            break
        for key in backend.list_objects():
            assert key in keys
            break
        assert backend.has_objects(keys) == [True, True]

    def test_use_after_close_raises(self, backend):
        key = put(backend, CONTENT)
        with backend.open(key) as handle:
            pass
        with pytest.raises(ValueError, match="closed"):
            handle.read()
        backend.close()
        backend.close()
        for use in (
            lambda: backend.get_object_content(key),
            lambda: put(backend, b"content"),
            lambda: list(backend.list_objects()),
            lambda: backend.is_initialised,
        ):
            with pytest.raises(objrepo.RepositoryClosedError, match="with"):
                use()
        with backend:
            assert backend.has_object("0" * 64) is False

    def test_many_threads(self, backend):
        contents = [content_of(3000, seed) for seed in range(40)]

        def work(content):
            key = put(backend, content)
            with backend.open(key) as handle:
                return handle.read() == backend.get_object_content(key) == content

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, contents))

    def test_inside_a_running_loop(self, backend):
        async def work():
            key = put(backend, CONTENT)
            with backend.open(key) as handle:
                assert handle.read() == CONTENT
            assert list(backend.list_objects()) == [key]
            assert [stream.read() for _, stream in backend.iter_object_streams([key])] == [CONTENT]

        asyncio.run(work())
        backend.delete_objects(list(backend.list_objects()))
        trio.run(work)


class ThirdPartyRepository:
    """An async repository of a third party, with its own iterator over a stream of objects."""

    def __init__(self, repository):
        self.repository = repository
        self.offload = repository.offload

    def __getattr__(self, name):
        return getattr(self.repository, name)

    async def __aenter__(self):
        await self.repository.__aenter__()
        return self

    async def __aexit__(self, *exc_info):
        await self.repository.__aexit__(*exc_info)

    @contextlib.asynccontextmanager
    async def stream(self, keys, check=None):
        async def objects():
            for key in keys:
                async with self.repository.open(key) as stream:
                    yield key, stream

        yield objects()


def test_an_async_repository_of_a_third_party():
    with SyncRepository(ThirdPartyRepository(MemoryRepository(Inline()))) as backend:
        contents = [b"%d" % number for number in range(300)] + [CONTENT, b"", CONTENT[1:]]
        keys = [put(backend, content) for content in contents]
        assert [stream.read() for _, stream in backend.iter_object_streams(keys)] == contents
        seen = []
        with pytest.raises(FileNotFoundError):
            for key, _ in backend.iter_object_streams([*keys[:3], "0" * 64]):
                seen.append(key)
        assert seen == keys[:3], "the objects before an error are returned"
        assert list(backend.list_objects()) == keys


class TestHandles:
    """What `open` gives is a file like any other, packed or not."""

    def test_it_is_a_buffered_reader(self, backend):
        key = put(backend, CONTENT)
        with backend.open(key) as handle:
            assert type(handle) is io.BufferedReader
            assert (handle.mode, handle.name) == ("rb", key)
            assert handle.readable()
            assert handle.seekable()
            assert not handle.writable()
            with pytest.raises(OSError):  # noqa: PT011  (io.UnsupportedOperation, which names what is not supported)
                handle.fileno()

    def test_it_reads_and_seeks(self, backend):
        with backend.open(put(backend, CONTENT)) as handle:
            assert handle.read(10) == CONTENT[:10]
            assert handle.seek(-5, os.SEEK_END) == len(CONTENT) - 5
            assert handle.read() == CONTENT[-5:]
            assert handle.seek(1000) == 1000
            assert handle.seek(500, os.SEEK_CUR) == 1500 == handle.tell()
            buffer = bytearray(200_000)
            assert handle.readinto(buffer) == 200_000
            assert buffer == CONTENT[1500:201_500]
            assert handle.peek(1)[:1] == CONTENT[201_500:201_501]
            with pytest.raises(OSError, match="negative"):
                handle.seek(-2_000_000, os.SEEK_END)
            with pytest.raises(ValueError, match="whence"):
                handle.seek(0, 7)

    def test_lines(self, backend):
        lines = [b"%d,%d\n" % (number, number**2) for number in range(50_000)]
        with backend.open(put(backend, b"".join(lines))) as handle:
            assert handle.readline() == lines[0]
            assert list(handle) == lines[1:]
        with backend.open(put(backend, b"".join(lines))) as handle:
            rows = list(csv.reader(io.TextIOWrapper(handle, "ascii", newline="")))
            assert rows[7] == ["7", "49"]

    def test_zipfile_numpy_and_shutil(self, backend, tmp_path):
        archive = io.BytesIO()
        array = numpy.arange(100_000).reshape(-1, 10)
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("one.txt", CONTENT)
            with file.open("array.npy", "w") as member:
                numpy.save(member, array)
        with backend.open(put(backend, archive.getvalue())) as handle, zipfile.ZipFile(handle) as file:
            assert file.read("one.txt") == CONTENT
            assert (numpy.load(file.open("array.npy")) == array).all()
        saved = io.BytesIO()
        numpy.save(saved, array)
        with backend.open(put(backend, saved.getvalue())) as handle:
            assert (numpy.load(handle) == array).all()
        with backend.open(put(backend, CONTENT)) as handle, open(tmp_path / "copy", "wb") as copy:
            shutil.copyfileobj(handle, copy)
        assert (tmp_path / "copy").read_bytes() == CONTENT


class TestDiskObjectStore:
    def test_it_accepts_only_a_container(self, tmp_path):
        for nothing in (None, tmp_path, str(tmp_path)):
            with pytest.raises(TypeError, match=r"disk_objectstore\.Container"):
                DiskObjectStoreRepositoryBackend(nothing)

    def test_before_initialise(self, tmp_path):
        backend = DiskObjectStoreRepositoryBackend(Container(tmp_path / "container"))
        assert str(backend) == "DiskObjectStoreRepository: <uninitialised>"
        assert backend.uuid is None
        assert not backend.is_initialised
        with pytest.raises(objrepo.NotInitialisedError, match=r"initialise\(\)"):
            put(backend, b"content")
        backend.erase()
        backend.initialise(pack_size_target=1000)
        backend.initialise()
        assert backend.is_initialised
        assert backend.key_format == "sha256"
        with Container(tmp_path / "container") as container:
            assert str(backend) == f"DiskObjectStoreRepository: {container.container_id} | {tmp_path / 'container'}"
            assert backend.uuid == container.container_id
            assert container.pack_size_target == 1000

    def test_get_info_returns_the_dictionary_of_aiida(self, tmp_path):
        backend = disk_backend(tmp_path)
        put(backend, CONTENT)
        backend.maintain()
        put(backend, CONTENT[1:])
        objects = {"packed": 1, "loose": 1, "pack_files": 1}
        assert backend.get_info() == {
            "SHA-hash algorithm": "sha256",
            "Compression algorithm": "zlib+1",
            "Objects": objects,
        }
        with Container(tmp_path / "container") as container:
            sizes = vars(container.get_total_size())
        detailed = backend.get_info(detailed=True)
        assert detailed["Objects"] == objects
        assert detailed["Size (MB)"] == {name: float(f"{size / 1024**2:.2f}") for name, size in sizes.items()}

    def test_maintain(self, tmp_path, caplog):
        backend = disk_backend(tmp_path)
        keys = [put(backend, CONTENT), put(backend, b"content")]
        caplog.set_level(23, "aiida.storage")
        planned = backend.maintain(dry_run=True, live=False)
        assert planned["pack_loose"] == {"objects": 2, "size": len(CONTENT) + 7}
        assert backend.get_info()["Objects"] == {"packed": 0, "loose": 2, "pack_files": 0}
        done = backend.maintain(live=False, compress=True)
        assert list(done) == ["pack_loose", "do_repack", "clean_storage", "do_vacuum"]
        assert done["pack_loose"] == planned["pack_loose"]
        messages = [record.getMessage() for record in caplog.records]
        assert [message.split()[0] for message in messages] == ["Packing", "Re-packing", "Cleaning"] * 2
        assert {record.levelno for record in caplog.records} == {23}
        assert [backend.get_object_content(key) for key in keys] == [CONTENT, b"content"]
        for option in ("do_repack", "clean_storage", "do_vacuum"):
            with pytest.raises(ValueError, match=option):
                backend.maintain(live=True, **{option: True})
        assert backend.maintain(pack_loose=False, clean_storage=False) == {}

    def test_incremental_cleanup(self, tmp_path):
        backend = disk_backend(tmp_path)
        put(backend, CONTENT)
        backend.maintain(clean_storage=False, incremental_cleanup=False)
        assert backend.get_info()["Objects"] == {"packed": 1, "loose": 1, "pack_files": 1}
        put(backend, CONTENT[1:])
        backend.maintain(clean_storage=False)
        assert backend.get_info()["Objects"] == {"packed": 2, "loose": 1, "pack_files": 1}

    def test_maintenance_logs_nothing_at_warning(self, tmp_path, caplog):
        caplog.set_level(logging.WARNING, "aiida.storage")
        disk_backend(tmp_path).maintain()
        assert caplog.records == []


class TestSandbox:
    def test_the_folder_exists_from_first_use_until_the_backend_is_deleted(self, tmp_path):
        backend = SandboxRepositoryBackend(str(tmp_path / "sandboxes"))
        assert str(backend) == "SandboxRepository: <uninitialised>"
        assert not backend.is_initialised
        assert backend.uuid is None
        assert backend.key_format == "uuid4"
        folder = Path(backend.sandbox.abspath)
        assert folder.is_dir()
        assert str(backend) == f"SandboxRepository: {folder}"
        assert backend.is_initialised
        key = put(backend, b"content")
        assert backend.get_info(detailed=True)["objects"] == 1
        assert backend.maintain().steps == ()
        assert (folder / key).read_bytes() == b"content"
        backend.erase()
        assert not folder.exists()
        assert not backend.is_initialised
        folder = Path(backend.sandbox.abspath)
        del backend
        assert not folder.exists()

    def test_a_wrong_folder_raises_type_error(self):
        with pytest.raises(TypeError):
            SandboxRepositoryBackend(7)


class TestRunners:
    def test_inline_starts_no_thread_and_no_loop(self, tmp_path):
        script = f"""
import sys, threading
from disk_objectstore import Container
from objrepo.sync import DiskObjectStoreRepositoryBackend, SandboxRepositoryBackend
container = Container({str(tmp_path / "container")!r})
for backend in (DiskObjectStoreRepositoryBackend(container), SandboxRepositoryBackend()):
    backend.initialise()
    key = backend.put_object_from_file({__file__!r})
    with backend.open(key) as handle:
        assert handle.read() == open({__file__!r}, "rb").read()
    assert list(backend.list_objects()) == [key]
    backend.maintain()
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert "asyncio.events" not in sys.modules or sys.modules["asyncio.events"]._get_running_loop() is None
assert "trio" not in sys.modules
print("done")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("done\n", "")

    def test_a_started_portal_is_stopped_with_the_with(self, tmp_path):
        before = set(threading.enumerate())  # some of which may end meanwhile: trio keeps those of other tests a while
        repository = SyncRepository(DiskRepository(tmp_path / "repository"))
        with pytest.raises(objrepo.RepositoryClosedError):
            repository.initialise()
        with repository:
            repository.initialise()
            assert set(threading.enumerate()) - before
        deadline = time.monotonic() + 10  # asyncio tells idle workers to end, and does not wait for it
        while set(threading.enumerate()) - before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_a_given_portal_stays_open(self, tmp_path, loop):
        with start_blocking_portal(loop) as portal, SyncRepository(SandboxRepository(tmp_path), portal) as repository:
            key = put(repository, CONTENT)
            assert repository.get_object_content(key) == CONTENT
            assert portal.call(anyio.sleep, 0) is None, "the caller closes the portal"

    def test_errors_are_the_same_with_both_runners(self, tmp_path):
        messages = set()
        for offload in (Inline(), Threads()):
            with SyncRepository(DiskRepository(tmp_path / "repository", offload)) as repository:
                repository.initialise()
                with pytest.raises(objrepo.ObjectNotFoundError) as caught, repository.open("0" * 64):
                    pass
                messages.add(str(caught.value))
        assert len(messages) == 1

    def test_a_repository_that_suspends_in_place_raises_runtime_error(self):
        class Suspending(MemoryRepository):
            async def put(self, source):
                await asyncio.sleep(0)

        with pytest.raises(RuntimeError, match="without an event loop"):
            SyncRepository(Suspending(Inline())).put(b"content")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
    def test_in_a_child_after_fork(self, backend, request):
        if "portal" in request.node.name:
            return  # it raises an error: see `test_sync_runner`
        key = put(backend, CONTENT)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            theirs = put(backend, b"the child's")
            fine = backend.get_object_content(key) == CONTENT and theirs in set(backend.list_objects())
            os.write(write_end, b"fine" if fine else b"wrong")
            os._exit(0)
        os.close(write_end)
        os.waitpid(child, 0)
        with open(read_end, "rb") as pipe:
            assert pipe.read() == b"fine"
        assert backend.get_object_content(key) == CONTENT

    def test_the_end_of_a_forked_child_keeps_the_sandbox_of_its_parent(self):
        script = """
import io, os, sys
from objrepo.sync import SandboxRepositoryBackend
backend = SandboxRepositoryBackend()
key = backend.put_object_from_filelike(io.BytesIO(b"content"))
if (child := os.fork()) == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(backend.get_object_content(key), backend.sandbox.abspath)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        content, folder = done.stdout.split()
        assert content == "b'content'"
        assert not Path(folder).exists(), "at the end of the interpreter it is gone"
        assert done.stderr == ""
