"""The filesystem for fsspec, and libraries that read through it."""

from __future__ import annotations

import errno
import io
import pickle

import anyio
import fsspec
import numpy
import pandas
import pytest
import zarr
from zarr.storage import MemoryStore

from objrepo import DiskRepository, ObjectNotFoundError
from objrepo.fsspec import ObjectFileSystem
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
    assert files.ls(small) == [{"name": small, "size": 5, "type": "file"}]
    assert files.ls(small, detail=False) == [small]
    assert files.info(f"objrepo://{large}") == {"name": large, "size": len(CONTENT), "type": "file"}
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
        lambda files, key, local: files.touch("new"),
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
def test_every_method_that_writes_raises(folder, files, tmp_path, write):
    [key] = stored(folder, b"content")
    (tmp_path / "source").mkdir()
    local = tmp_path / "source" / "file"
    local.write_bytes(b"new")
    with pytest.raises(OSError, match="read-only") as caught:
        write(files, key, local)
    assert caught.value.errno == errno.EROFS
    assert files.ls("", detail=False) == [key]
    assert files.cat(key) == b"content"


def test_the_error_names_the_target(files):
    with pytest.raises(OSError, match=r"objrepo:// is read-only: .*put\(\).*'target'"):
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


def test_pandas(folder, options):
    table = pandas.DataFrame({"name": ["a", "b"], "size": [1, 2]})
    csv = io.BytesIO()
    table.to_csv(csv, index=False)
    [key] = stored(folder, csv.getvalue())
    assert pandas.read_csv(f"objrepo://{key}", storage_options=options).equals(table)


def test_zarr(folder, options):
    """The chunks of an array are objects; references say which is which."""
    array = numpy.arange(10_000).reshape(100, 100)
    made = MemoryStore()
    zarr.create_array(made, data=array, chunks=(30, 30))
    chunks = {name: buffer.to_bytes() for name, buffer in made._store_dict.items()}
    keys = stored(folder, *chunks.values())
    references = {name: [f"objrepo://{key}"] for name, key in zip(chunks, keys, strict=True)}
    store = zarr.storage.FsspecStore.from_url(
        "reference://",
        storage_options={"fo": references, "remote_protocol": "objrepo", "remote_options": options},
        read_only=True,
    )
    assert (zarr.open_array(store, mode="r")[:] == array).all()
