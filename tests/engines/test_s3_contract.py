"""The contract of a repository, kept by one in Ceph."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import anyio
import pytest

from engines.conftest import BUCKET
from objrepo import (
    AccessDeniedError,
    ArchiveRepository,
    CachedRepository,
    DiskRepository,
    S3Repository,
    copy,
    export,
)
from objrepo.offload import Inline
from objrepo.sync import SyncRepository
from objrepo.testing import RepositoryContract
from objrepo.testing.fixtures import content_of


class TestS3(RepositoryContract):
    @pytest.fixture
    def repository(self, bucket):
        return bucket()


class TestTiered(RepositoryContract):
    """A cache on disk in front of it, too small for the largest objects."""

    @pytest.fixture
    def repository(self, bucket, tmp_path):
        return CachedRepository(DiskRepository(tmp_path / "cache"), bucket(), max_bytes=2_500_000)


async def test_disk_to_s3_to_disk(repo, tmp_path):
    contents = [b"", b"small", *(b"%d" % number * 100 for number in range(300)), content_of(20_000_000)]
    async with DiskRepository(tmp_path / "first") as first, DiskRepository(tmp_path / "second") as second:
        for each in (first, second):
            await each.initialise()
        keys = await first.put_many(contents)
        report = await copy(first, repo)
        assert (report.copied, report.ok) == (len(contents), True)
        assert (await copy(first, repo)).copied == 0
        assert (await copy(repo, second)).copied == len(contents)
        assert [await second.get(key, check=True) for key in keys] == contents
        assert (await repo.verify()).ok


async def test_a_cached_repository_downloads_once(bucket, proxy, tmp_path):
    async with bucket() as repo:
        await repo.initialise()
        key = await repo.put(content_of(1024))
    cached = CachedRepository(DiskRepository(tmp_path / "cache"), bucket(endpoint=proxy.url), max_bytes=1_000_000)
    async with cached:
        await cached.key_format()
        proxy.taken()
        results = []

        async def read():
            results.append(await cached.get(key))

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(read)
        assert results == [content_of(1024)] * 100
        assert len(proxy.taken()) == 3, "the log, its first entry, and the object"


async def test_an_archive_in_a_bucket_and_of_a_web_server(
    repo, bucket, gateway, credentials, s3, prefix, tmp_path, monkeypatch
):
    keys = await repo.put_many(b"%d" % number for number in range(100))
    await export(repo, tmp_path / "export.zip")
    s3.upload_file(str(tmp_path / "export.zip"), BUCKET, f"{prefix}-export.zip")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["secret_access_key"])
    place = {"Bucket": BUCKET, "Key": f"{prefix}-export.zip"}
    signed = s3.generate_presigned_url("get_object", Params=place, ExpiresIn=60)
    for url in (f"s3://{BUCKET}/{prefix}-export.zip?endpoint={gateway.url}", signed):
        async with ArchiveRepository(url) as archive:
            assert sorted([key async for key in archive.keys()]) == sorted(keys)
            assert (await archive.verify()).ok
            assert "Signature" not in str(archive)


def test_the_facade(bucket):
    with SyncRepository(bucket(offload=Inline())) as repo:
        repo.initialise()
        key = repo.put_object_from_filelike(io.BytesIO(content_of(10_000_000)))
        assert repo.get_object_content(key) == content_of(10_000_000)
        with repo.open(key) as handle:
            handle.seek(5_000_000)
            assert handle.read(100) == content_of(10_000_000)[5_000_000:5_000_100]
        assert list(repo.list_objects()) == [key]


class TestCredentials:
    """Where they are found when they are not given."""

    @pytest.fixture
    def chain(self, bucket, gateway, prefix, monkeypatch, tmp_path):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        return lambda **options: S3Repository(BUCKET, prefix, **{"endpoint": gateway.url, **options})

    async def test_environment(self, repo, chain, credentials, gateway, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["secret_access_key"])
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gateway.url)
        async with chain(endpoint=None) as other:
            assert await other.uuid() == await repo.uuid()
            assert (await other.maintain()).steps[0].name == "abort_uploads"

    async def test_profile(self, repo, chain, credentials, tmp_path):
        lines = "[mine]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {secret_access_key}\n"
        (tmp_path / "credentials").write_text(lines.format(**credentials))
        async with chain(profile="mine") as other:
            assert await other.uuid() == await repo.uuid()
        async with chain(profile="yours") as other:
            with pytest.raises(AccessDeniedError, match="yours"):
                await other.uuid()

    async def test_none(self, repo, chain):
        async with chain() as other:
            with pytest.raises(AccessDeniedError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
                await other.get("0" * 64)

    async def test_a_public_bucket_is_read_without_credentials(self, repo, chain, s3):
        key = await repo.put(b"content")
        s3.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
        for name in ("objrepo.json", "log/0000000000000001", f"{key[:2]}/{key[2:]}"):
            s3.put_object_acl(Bucket=BUCKET, Key=f"{repo.backend._options.prefix}/{name}", ACL="public-read")
        try:
            async with chain(anonymous=True) as other:
                assert await other.get(key) == b"content"
                with pytest.raises(AccessDeniedError):
                    await other.put(b"mine")
        finally:
            s3.put_bucket_acl(Bucket=BUCKET, ACL="private")


def test_the_command_line(bucket, gateway, credentials, prefix, tmp_path):
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": credentials["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": credentials["secret_access_key"],
        "OBJREPO": f"s3://{BUCKET}/{prefix}?endpoint={gateway.url}",
    }

    def objrepo(*arguments, content=b""):
        command = [sys.executable, "-m", "objrepo", *arguments]
        return subprocess.run(command, env=environment, input=content, stdout=subprocess.PIPE, check=True).stdout

    objrepo("init")
    key = objrepo("put", "-", content=b"content").split()[0].decode()
    assert objrepo("cat", key) == b"content"
    assert objrepo("ls").decode().split()[0] == key
    objrepo("verify")
    objrepo("copy", environment["OBJREPO"], str(tmp_path / "copy"))
    objrepo("export", str(tmp_path / "export.zip"))
    assert objrepo("cat", key, "--repo", str(tmp_path / "export.zip")) == b"content"
    objrepo("rm", key)
    assert objrepo("ls") == b""
