"""Fixtures of the tests with real engines: Ceph, a bucket, and a proxy in front of it that injects faults."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import pytest
from filelock import FileLock

from engines import ceph, postgres
from objrepo import S3Repository
from objrepo.testing.fixtures import LOOPS
from s3_proxy import proxy_to

BUCKET = "objects"
_numbers = itertools.count()


@pytest.fixture(params=LOOPS)
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    assert not ceph.missing_programs(), "Ceph is not installed: `nox -s engines` installs it if it is permitted to"
    with ExitStack() as resources:
        # One after the other: two that start at the same time in two processes may find the same free port.
        with FileLock(tmp_path_factory.getbasetemp().parent / "ceph.lock"):
            gateway = started(resources, tmp_path_factory.mktemp("ceph"))
        yield gateway


def started(resources, folder, tries=3):
    """Start Ceph; again if it does not start, as when another process has taken its port."""
    for number in range(tries):
        try:
            return resources.enter_context(ceph.running(folder / f"node-{number}"))
        except RuntimeError:
            if number == tries - 1:
                raise
    return None


@pytest.fixture(scope="session")
def credentials(gateway):
    return gateway.add_user("owner")


@pytest.fixture(scope="session")
def s3(gateway, credentials):
    """An independent client, to inspect the bucket."""
    client = boto3.client(
        "s3",
        endpoint_url=gateway.url,
        region_name="us-east-1",
        aws_access_key_id=credentials["access_key_id"],
        aws_secret_access_key=credentials["secret_access_key"],
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture
def prefix():
    """A folder in the bucket that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def bucket(s3, gateway, credentials, prefix):
    """Make repositories over one folder of the bucket."""

    def make(**options):
        options = {"endpoint": gateway.url, "timeout": 5, "retry_timeout": 10, **credentials, **options}
        return S3Repository(options.pop("bucket", BUCKET), options.pop("prefix", prefix), **options)

    return make


@pytest.fixture
def proxy(gateway):
    with proxy_to(gateway.url) as proxy:
        yield proxy


@pytest.fixture
async def repo(bucket, proxy):
    """A repository behind the proxy, entered and initialised."""
    async with bucket(endpoint=proxy.url) as repo:
        await repo.initialise()
        proxy.taken()
        yield repo


@pytest.fixture(scope="session")
def server():
    # Not in a folder of pytest: its user has to get there, and each start of pytest forbids that again.
    with TemporaryDirectory(prefix="objrepo-postgres-") as folder, postgres.running(Path(folder, "node")) as server:
        yield server


@pytest.fixture
def database(server, tmp_path):
    """The options of a profile with a database of its own."""
    name = f"aiida_{time.monotonic_ns()}"
    server.make_database(name)
    return {
        "database-hostname": "127.0.0.1",
        "database-port": server.port,
        "database-username": postgres.USER,
        "database-password": server.password,
        "database-name": name,
    }
