"""`open_repository`."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from objrepo import (
    ArchiveRepository,
    AzureRepository,
    CachedRepository,
    DiskRepository,
    GCSRepository,
    HTTPRepository,
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
def test_paths_and_archives_are_told_apart_by_scheme_and_suffix(text, kind, path):
    offload = Inline()
    repo = open_repository(text, offload)
    assert type(repo) is kind
    assert repo.offload is offload
    assert str(repo).endswith(str(Path(path).absolute()))


async def test_memory_and_sandbox_need_no_path(tmp_path):
    assert type(open_repository("memory:")) is MemoryRepository
    assert type(open_repository("sandbox:")) is SandboxRepository
    async with open_repository(f"sandbox:{tmp_path}") as repo:
        await repo.put(b"content")
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disk:", "write disk:PATH"),
        ("disk:?durable=no", "write disk:PATH"),
        ("disk:a?durable=0", r"unknown options 'durable=0' of disk: write disk:PATH\?durable=no"),
        ("disk:a?b", r"%3F for a \? in the path"),
        ("zip:", "write zip:PATH"),
        ("", "path"),
        ("memory:more", "memory: takes no path"),
        ("s3:bucket", "s3://BUCKET/PREFIX"),
        ("s3://", "invalid bucket name"),
        ("s3://b", "invalid bucket name"),
        ("s3://bucket/a%20b", "invalid prefix"),
        ("s3://bucket/a/../b", "invalid prefix"),
        ("s3://bucket?colour=red", "unknown option 'colour' of s3: use one of endpoint, region"),
        ("s3://bucket?timeout=soon", "invalid value 'soon' of the option timeout"),
        ("s3://bucket?timeout=0", "timeout and retry_timeout must be seconds"),
        ("s3://bucket?concurrency=0", "concurrency must be from 1"),
        ("s3://bucket?region=", "the option region of s3 is empty"),
        ("s3://bucket?timeout=1&timeout=2", "the option timeout of s3 occurs twice"),
        ("s3://bucket?timeout=nan", "timeout and retry_timeout must be seconds, not nan"),
        ("http://host?timeout=inf", "timeout and retry_timeout must be seconds, not inf"),
        ("gs://bucket?retry_timeout=nan", "timeout and retry_timeout must be seconds, not 30.0 and nan"),
        ("s3://bucket/prefix#part?timeout=1", "invalid URL of s3: write %23 for a #"),
        ("az://user:abc@container?account=mine", "invalid URL of az: write az://CONTAINER/PREFIX, without an @"),
        ("s3://bucket?endpoint=https://:abc@host", "invalid endpoint: write https://HOST"),
        ("s3://bucket?endpoint=https://host:70000", "invalid endpoint: write https://HOST"),
        ("s3://bucket?anonymous=yes", "invalid value 'yes' of the option anonymous"),
        ("s3://bucket?anonymous=1&profile=me", "one of access_key_id, profile and anonymous"),
        ("s3://bucket?endpoint=host", "invalid endpoint: write https://HOST"),
        ("s3://bucket?endpoint=https://me:secret@host", "invalid endpoint: write https://HOST"),
        ("s3://bucket?secret_access_key=abc", "is not allowed in a URL"),
        ("s3://file.zip", "is a bucket: add the path of a file"),
        ("az:container", "invalid container '.*': write az://CONTAINER/PREFIX"),
        ("az://Container?account=account", "invalid container name"),
        ("az://container", "the storage account of az://container is unknown: pass account, or set AZURE_STORAGE_"),
        ("az://container?account=a-b", "invalid storage account 'a-b'"),
        ("az://container?account=account&account_key=abc", "account_key is not allowed in a URL: set AZURE_STORAGE_"),
        ("az://container?account=account&region=r", "unknown option 'region' of az: use one of account, endpoint"),
        ("az://file.zip?account=account", "invalid container name"),
        ("az://file?account=account&endpoint=https://me:secret@host", "invalid endpoint"),
        ("zip:az://container?account=account", "is a container: add the path of a file"),
        ("gs:bucket", "write gs://BUCKET/PREFIX"),
        ("gs://b", "invalid bucket name"),
        ("gs://bucket?token=abc", "unknown option 'token' of gs: use one of endpoint, anonymous"),
        ("gs://bucket?endpoint=https://me:secret@host", "invalid endpoint"),
        ("https://me:secret@host/folder", "the URL of host contains a user or password: set OBJREPO_TOKEN"),
        ("https://host/folder?token=abc", "token is not allowed in a URL: set OBJREPO_TOKEN"),
        ("https://host/folder?sig=abc", "unknown option 'sig' of http: .*archive, write zip: before it"),
        ("http://host?timeout=soon", "invalid value 'soon' of the option timeout"),
        ("http://host?retry_timeout=-1", "timeout and retry_timeout must be seconds"),
        ("http://host?concurrency=2000", "concurrency must be from 1"),
        ("http:host", "write http://HOST:PORT/PATH"),
        ("http:///path", "write http://HOST:PORT/PATH"),
        ("http://host:99999", "invalid port in 'http://host:99999': .*0-65535"),
        ("http://host/a#b", "write http://HOST:PORT/PATH"),
        ("ftp://me:secret@host/folder?token=abc", "unknown scheme 'ftp' in 'ftp://host/folder'"),
        ("zip:https:///file", "has no host"),
        ("cached:", r"write cached:\?cache=URL"),
        ("cached:?cache=a&origin=b", r"write cached:\?cache=URL"),
        ("cached:?cache=a&origin=b&max_bytes=much", "invalid max_bytes 'much': write a number of bytes"),
        ("cached:?cache=ftp:a&origin=b&max_bytes=1", "unknown scheme 'ftp'"),
        ("checked:", "path"),
        ("checked:ftp://me:secret@host?token=abc", "unknown scheme 'ftp' in 'ftp://host'"),
    ],
)
def test_an_invalid_url_raises_value_error_without_secrets(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_repository(text)
    assert "abc" not in str(caught.value)
    assert ":secret" not in str(caught.value)


def test_the_options_of_a_bucket_are_parsed():
    repo = open_repository(
        "S3://bucket/in/a/folder/?endpoint=http://127.0.0.1:1&region=r&timeout=3.5&retry_timeout=0&concurrency=4&virtual_hosted_style=1"
    )
    assert type(repo) is S3Repository
    assert str(repo) == "S3Repository s3://bucket/in/a/folder at http://127.0.0.1:1"
    assert repr(repo) == f"<{repo}>"
    options = repo.backend._options
    assert (options.region, options.timeout, options.retry_timeout, options.concurrency) == ("r", 3.5, 0, 4)
    assert options.bucket_endpoint == "http://bucket.127.0.0.1:1"


def test_the_options_of_a_container_are_parsed():
    repo = open_repository("AZ://box/in/a/folder/?account=mine&timeout=3.5&retry_timeout=0&concurrency=4")
    assert type(repo) is AzureRepository
    assert str(repo) == "AzureRepository az://box/in/a/folder at https://mine.blob.core.windows.net"
    options = repo.backend._options
    assert (options.account, options.timeout, options.retry_timeout, options.concurrency) == ("mine", 3.5, 0, 4)


def test_the_options_of_a_google_bucket_are_parsed():
    repo = open_repository("GS://my_bucket.example/in/a/folder/?timeout=3.5&anonymous=1")
    assert type(repo) is GCSRepository
    assert str(repo) == "GCSRepository gs://my_bucket.example/in/a/folder"
    assert (repo.backend._options.timeout, repo.backend._options.anonymous) == (3.5, True)


def test_the_options_of_a_server_are_parsed():
    repo = open_repository("HTTPS://Host:8000/in/a/folder/?timeout=3.5&retry_timeout=0&concurrency=4&token_variable=T")
    assert type(repo) is HTTPRepository
    assert repr(repo) == "<HTTPRepository at https://Host:8000/in/a/folder>"
    options = repo.backend._options
    assert (options.timeout, options.retry_timeout, options.concurrency, options.token_variable) == (3.5, 0, 4, "T")


def test_an_archive_on_a_server_is_named_without_its_query():
    for text in (
        "s3://bucket/a/b.aiida?region=r",
        "gs://bucket/b.zip",
        "az://box/b.zip?account=account",
        "https://host/b.zip?X-Secret=abc",
        "zip:https://host/export",
    ):
        repo = open_repository(text)
        assert type(repo) is ArchiveRepository
        assert "abc" not in str(repo)


def test_the_urls_in_a_cache_are_percent_decoded(tmp_path):
    text = f"cached:?cache=disk:{tmp_path}/cache&origin=s3://bucket/x%3Fregion=r&max_bytes=2G"
    repo = open_repository(text, Inline())
    assert type(repo) is CachedRepository
    assert repo._store.index.max_bytes == 2 * 1024**3
    assert str(repo) == f"CachedRepository of DiskRepository at {tmp_path}/cache over S3Repository s3://bucket/x"
    assert type(repo.offload) is Inline


@pytest.mark.parametrize(
    "text", ["a?check=0", "disk:a%3F", "sandbox:", "some.zip", "s3://bucket/x?region=r", "checked:a"]
)
def test_checked_precedes_any_other_url(text):
    offload = Inline()
    plain, checking = open_repository(text, offload), open_repository(f"checked:{text}", offload)
    assert (type(checking), str(checking), checking.offload) == (type(plain), str(plain), offload)
    assert (plain.check, checking.check) == (text.startswith("checked:"), True)


def test_a_cache_is_always_checked_and_may_have_a_checked_origin(tmp_path):
    repo = open_repository(f"checked:cached:?cache=disk:{tmp_path}/cache&origin=checked:{tmp_path}/origin&max_bytes=2G")
    assert type(repo) is CachedRepository
    assert repo._repository.check


async def test_a_missing_extra_is_named_on_first_use(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", import_module)
    async with open_repository("s3://bucket?anonymous=1") as repo:
        with pytest.raises(RepositoryError, match=r"the package obstore is missing: pip install 'objrepo\[s3\]'"):
            await repo.get("0" * 64)
    for text, extra in (("az://container?account=account", "azure"), ("gs://bucket", "gcs")):
        async with open_repository(text) as repo:
            with pytest.raises(RepositoryError, match=rf"is missing: pip install 'objrepo\[{extra}\]'"):
                await repo.get("0" * 64)


def test_an_unknown_scheme_raises_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"unknown scheme 'ftp'.*disk:, zip:, s3:, az:, gs:, checked:, http:, https:, cached:, sandbox:, memory:",
    ):
        open_repository("ftp://host/folder")


def test_other_packages_add_schemes_by_entry_points(monkeypatch):
    def entry_points(**wanted):
        points = [EntryPoint("mine", f"{__name__}:opened", "objrepo.backends")]
        return [point for point in points if point.matches(**wanted)]

    monkeypatch.setattr(url, "entry_points", entry_points)
    offload = Inline()
    assert open_repository("mine://some/where?x=%20", offload) == ("//some/where?x=%20", offload)
    with pytest.raises(ValueError, match="memory:, mine:"):
        open_repository("other:")
    with pytest.raises(ValueError, match="tuple has no default for check: open 'mine:x' without checked:"):
        open_repository("checked:mine:x?token=abc")


def opened(rest, offload):
    return rest, offload


@pytest.mark.parametrize(
    ("variable", "url"), [("STORAGE_EMULATOR_HOST", "gs://bucket"), ("AWS_ENDPOINT_URL", "s3://bucket")]
)
def test_an_invalid_endpoint_of_the_environment_is_named(variable, url, monkeypatch):
    monkeypatch.setenv(variable, "localhost:9023")
    with pytest.raises(ValueError, match=f"^invalid {variable}: write https://HOST"):
        open_repository(url)
