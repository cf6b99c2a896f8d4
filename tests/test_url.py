"""Repositories by their URLs."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from objrepo import (
    ArchiveRepository,
    CachedRepository,
    DiskRepository,
    MemoryRepository,
    RepositoryError,
    S3Repository,
    SandboxRepository,
    open_repository,
    url,
)
from objrepo.offload import Inline


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("folder", DiskRepository, "folder"),
        ("./a folder/b", DiskRepository, "a folder/b"),
        ("disk:folder", DiskRepository, "folder"),
        ("disk:/absolute/100%25", DiskRepository, "/absolute/100%"),
        ("DISK:folder", DiskRepository, "folder"),
        ("C:\\folder", DiskRepository, "C:\\folder"),
        (Path("folder.zip.d"), DiskRepository, "folder.zip.d"),
        ("export.aiida", ArchiveRepository, "export.aiida"),
        (Path("some.zip"), ArchiveRepository, "some.zip"),
        ("zip:anything", ArchiveRepository, "anything"),
    ],
)
def test_paths(text, kind, path):
    offload = Inline()
    repo = open_repository(text, offload)
    assert type(repo) is kind
    assert repo.offload is offload
    assert str(repo).endswith(str(Path(path).absolute()))


async def test_without_a_path(tmp_path):
    assert type(open_repository("memory:")) is MemoryRepository
    assert type(open_repository("sandbox:")) is SandboxRepository
    async with open_repository(f"sandbox:{tmp_path}") as repo:
        await repo.put(b"content")
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disk:", "write disk:PATH"),
        ("zip:", "write zip:PATH"),
        ("", "path"),
        ("memory:more", "nothing follows memory:"),
        ("s3:bucket", "s3://BUCKET/PREFIX"),
        ("s3://", "invalid bucket name"),
        ("s3://b", "invalid bucket name"),
        ("s3://bucket/a%20b", "invalid prefix"),
        ("s3://bucket/a/../b", "invalid prefix"),
        ("s3://bucket?colour=red", "unknown option 'colour' of s3: use one of endpoint, region"),
        ("s3://bucket?timeout=soon", "invalid value 'soon' of the option timeout"),
        ("s3://bucket?timeout=0", "timeout and retry_timeout must be seconds"),
        ("s3://bucket?concurrency=0", "concurrency must be from 1"),
        ("s3://bucket?anonymous=yes", "invalid value 'yes' of the option anonymous"),
        ("s3://bucket?anonymous=1&profile=me", "one of access_key_id, profile and anonymous"),
        ("s3://bucket?endpoint=host", "invalid endpoint: write https://HOST"),
        ("s3://bucket?endpoint=https://me:secret@host", "invalid endpoint: write https://HOST"),
        ("s3://bucket?secret_access_key=abc", "is not allowed in a URL"),
        ("s3://file.zip", "is a bucket: add the path of a file"),
        ("https://host/folder", "write zip:https:"),
        ("zip:https:///file", "has no host"),
        ("cached:", "write cached:.cache=URL"),
        ("cached:?cache=a&origin=b", "write cached:.cache=URL"),
        ("cached:?cache=a&origin=b&max_bytes=much", "'much' is no size"),
        ("cached:?cache=ftp:a&origin=b&max_bytes=1", "unknown scheme 'ftp'"),
    ],
)
def test_what_is_missing_or_too_much(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        open_repository(text)
    assert "abc" not in str(caught.value)
    assert ":secret" not in str(caught.value)


def test_buckets():
    repo = open_repository(
        "S3://bucket/in/a/folder/?endpoint=http://127.0.0.1:1&region=r&timeout=3.5&retry_timeout=0&concurrency=4&virtual_hosted_style=1"
    )
    assert type(repo) is S3Repository
    assert str(repo) == "S3Repository s3://bucket/in/a/folder at http://127.0.0.1:1"
    assert repr(repo) == f"<{repo}>"
    options = repo._options
    assert (options.region, options.timeout, options.retry_timeout, options.concurrency) == ("r", 3.5, 0, 4)
    assert options.bucket_endpoint == "http://bucket.127.0.0.1:1"


def test_archives_elsewhere():
    for text in ("s3://bucket/a/b.aiida?region=r", "https://host/b.zip?X-Secret=abc", "zip:https://host/export"):
        repo = open_repository(text)
        assert type(repo) is ArchiveRepository
        assert "abc" not in str(repo)


def test_tiers(tmp_path):
    text = f"cached:?cache=disk:{tmp_path}/cache&origin=s3://bucket/x%3Fregion=r&max_bytes=2G"
    repo = open_repository(text, Inline())
    assert type(repo) is CachedRepository
    assert repo._store.index.max_bytes == 2 * 1024**3
    assert str(repo) == f"CachedRepository of DiskRepository at {tmp_path}/cache over S3Repository s3://bucket/x"
    assert type(repo.offload) is Inline


async def test_a_missing_extra(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", import_module)
    async with open_repository("s3://bucket?anonymous=1") as repo:
        with pytest.raises(RepositoryError, match=r"the package obstore is missing: pip install 'objrepo\[s3\]'"):
            await repo.get("0" * 64)


def test_an_unknown_scheme():
    with pytest.raises(ValueError, match=r"unknown scheme 'ftp'.*disk:, zip:, s3:, cached:, sandbox:, memory:"):
        open_repository("ftp://host/folder")


def test_schemes_of_other_packages(monkeypatch):
    def entry_points(**wanted):
        points = [EntryPoint("mine", f"{__name__}:opened", "objrepo.backends")]
        return [point for point in points if point.matches(**wanted)]

    monkeypatch.setattr(url, "entry_points", entry_points)
    offload = Inline()
    assert open_repository("mine://some/where?x=%20", offload) == ("//some/where?x=%20", offload)
    with pytest.raises(ValueError, match="memory:, mine:"):
        open_repository("other:")


def opened(rest, offload):
    return rest, offload
