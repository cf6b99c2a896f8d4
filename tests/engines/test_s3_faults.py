"""Faults between a program and its object store end in success after a retry, or in one clear error."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count

import anyio
import pytest

from engines.conftest import BUCKET
from objrepo import (
    AccessDeniedError,
    CorruptObjectError,
    DiskRepository,
    NotInitialisedError,
    RepositoryError,
    RepositoryUnavailableError,
    copy,
)
from s3_proxy import Fault

LARGE = os.urandom(20 * 1024 * 1024)
TIMEOUT = 1.0
RETRY_FOR = 2.0
PROMISED = RETRY_FOR + 2 * TIMEOUT


@pytest.fixture
def anyio_backend():
    """Network faults do not depend on the event loop; the contract is tested on all."""
    return "trio"


@pytest.fixture
async def hasty(bucket, repo, proxy):
    """The same repository with short timeouts."""
    async with bucket(endpoint=proxy.url, timeout=TIMEOUT, retry_timeout=RETRY_FOR) as hasty:
        await hasty.is_initialised()
        yield hasty


async def listed(repo):
    return sorted([key async for key in repo.keys()])


async def put_and_get(repo):
    assert await repo.get(await repo.put(b"content")) == b"content"


OPERATIONS: dict[str, Callable] = {
    "put": lambda repo, key: repo.put(os.urandom(100)),
    "put large": lambda repo, key: repo.put(LARGE),
    "get": lambda repo, key: repo.get(key),
    "has": lambda repo, key: repo.has(key),
    "size": lambda repo, key: repo.size(key),
    "info": lambda repo, key: repo.info(),
    "delete": lambda repo, key: repo.delete(key),
    "verify": lambda repo, key: repo.verify(),
}


def checked_line(error, *said):
    """Check that an error is one short line that contains some words."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 300
    for word in said:
        assert word in text


class TestDenied:
    async def test_a_wrong_secret(self, bucket, repo):
        async with bucket(secret_access_key="wrong-secret-of-mine") as other:
            for operation in OPERATIONS.values():
                with pytest.raises(AccessDeniedError, match="the secret key is wrong") as caught:
                    await operation(other, "0" * 64)
                assert isinstance(caught.value, PermissionError)
                checked_line(caught.value, "s3://", "SignatureDoesNotMatch")
                assert caught.value.__cause__ is None, "the pages of the client's own error are left out"
            with pytest.raises(AccessDeniedError):
                await other.initialise()
            assert "wrong-secret" not in repr(other) + str(other) + repr(vars(other.backend)["_options"])

    async def test_an_unknown_user(self, bucket, repo):
        async with bucket(access_key_id="UNKNOWN") as other:
            with pytest.raises(AccessDeniedError, match="the access key does not exist"):
                await other.get("0" * 64)

    async def test_no_permission(self, bucket, repo, gateway):
        stranger = gateway.add_user(f"stranger-{time.time_ns()}")
        key = await repo.put(b"content")
        async with bucket(**stranger) as other:
            for operation in OPERATIONS.values():
                with pytest.raises(AccessDeniedError, match="the credentials do not permit this request") as caught:
                    await operation(other, key)
                checked_line(caught.value, "s3://")

    async def test_no_bucket(self, bucket, proxy):
        async with bucket(bucket="nothing-here", endpoint=proxy.url) as other:
            assert not await other.is_initialised()
            for operation in (*OPERATIONS.values(), lambda repo, key: repo.initialise()):
                with pytest.raises(NotInitialisedError, match="there is no bucket for s3://nothing-here") as caught:
                    await operation(other, "0" * 64)
                checked_line(caught.value)

    async def test_a_folder_with_other_files(self, bucket, s3, prefix):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/theirs/data.csv", Body=b"1,2,3")
        async with bucket() as repo:
            with pytest.raises(ValueError, match=r"contains other files, such as .*theirs/data\.csv"):
                await repo.initialise()
            await repo.erase()
        assert s3.get_object(Bucket=BUCKET, Key=f"{prefix}/theirs/data.csv")["Body"].read() == b"1,2,3"

    @pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"objrepo": 3, "uuid": "x"}', b"\xff"])
    async def test_a_marker_of_another_format(self, bucket, s3, prefix, content):
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/objrepo.json", Body=content)
        async with bucket() as repo:
            with pytest.raises(RepositoryError, match="does not have the format 1 or 2"):
                await repo.put(b"content")

    async def test_a_clock_that_is_off(self, bucket, repo, gateway, credentials, prefix):
        program = (
            "import anyio, objrepo, sys\n"
            "async def main():\n"
            f"    async with objrepo.S3Repository({BUCKET!r}, {prefix!r}, endpoint={gateway.url!r},\n"
            f"            timeout=5, retry_timeout=5, **{credentials!r}) as repo:\n"
            "        try: await repo.put(b'content')\n"
            "        except objrepo.AccessDeniedError as error: print(error)\n"
            "anyio.run(main)\n"
        )
        command = ["faketime", "-f", "-1d", sys.executable, "-c", program]
        done = await anyio.run_process(command, stderr=None)
        assert "the clock of this machine is wrong (RequestTimeTooSkewed)" in done.stdout.decode()


class TestNetworkFaults:
    @pytest.mark.parametrize("status", [500, 503])
    @pytest.mark.parametrize("name", OPERATIONS)
    async def test_temporary_errors_are_retried(self, hasty, proxy, name, status):
        key = await hasty.put(b"content")
        proxy.fail(*[Fault(answer=status)] * 3)
        await OPERATIONS[name](hasty, key)

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            *((name, fault) for name in ("put", "get", "info", "delete") for fault in ("errors", "silence")),
            *((name, "bodies cut short") for name in ("get", "info")),
        ],
    )
    async def test_permanent_errors_are_raised_in_time(self, hasty, proxy, name, fault):
        key = await hasty.put(b"content")
        faults = {
            "errors": Fault(answer=503),
            "silence": Fault(hang=PROMISED + 10),
            "bodies cut short": Fault(cut=0),
        }
        proxy.faults = lambda method, target: faults[fault]
        began = time.monotonic()
        with pytest.raises(RepositoryUnavailableError, match="is unavailable: ") as caught:
            await OPERATIONS[name](hasty, key)
        assert isinstance(caught.value, ConnectionError)
        checked_line(caught.value, "s3://")
        assert time.monotonic() - began < PROMISED + 5, "the promised time, on a machine that is slow"
        proxy.fail()
        assert name == "delete" or await hasty.get(key) == b"content"

    @pytest.mark.parametrize("name", OPERATIONS)
    async def test_a_connection_that_hangs_once(self, hasty, proxy, name):
        key = await hasty.put(b"content")
        proxy.fail(Fault(hang=2 * TIMEOUT))
        await OPERATIONS[name](hasty, key)

    async def test_bodies_that_are_cut_short(self, hasty, proxy):
        key = await hasty.put(LARGE)
        for position in (0, 1, 100_000, 8_000_000):
            proxy.fail(Fault(cut=position), None, Fault(cut=position), method="GET")
            assert await hasty.get(key) == LARGE
            proxy.fail(None, Fault(cut=position), None, Fault(cut=position), method="GET")
            async with hasty.open(key) as stream:
                assert await stream.read() == LARGE

    async def test_changed_bytes_are_detected(self, hasty, proxy):
        key = await hasty.put(b"content")
        large = await hasty.put(LARGE)
        for wanted, position in ((key, 3), (large, 5_000_000)):
            proxy.fail(Fault(flip=position), method="GET")
            with pytest.raises(CorruptObjectError, match="its content hashes to") as caught:
                await hasty.get(wanted)
            assert caught.value.key == wanted
            proxy.fail(Fault(flip=position % 1000), method="GET")
            with pytest.raises(CorruptObjectError):
                async with hasty.open(wanted, check=True) as stream:
                    await stream.read()

    async def test_an_object_stored_under_a_wrong_key(self, repo, s3, prefix, tmp_path):
        good = await repo.put(b"good")
        wrong = hashlib.sha256(b"right").hexdigest()
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{wrong[:2]}/{wrong[2:]}", Body=b"wrong")
        with pytest.raises(CorruptObjectError):
            await repo.get(wrong)
        report = await repo.verify()
        assert [item.key for item in report.damaged] == [wrong]
        async with DiskRepository(tmp_path / "target") as target:
            await target.initialise()
            report = await copy(repo, target)
            assert [item.key for item in report.damaged] == [wrong]
            assert await listed(target) == [good]


async def test_verify_of_large_objects_at_the_default_concurrency(repo, proxy):
    """Each object is read ahead in the pool in which all of them are verified."""
    keys = await repo.put_many(os.urandom(16) * (6 * 1024 * 1024 // 16) for _ in range(40))
    proxy.faults = lambda method, target: Fault(hang=0.05)
    with anyio.fail_after(100):
        report = await repo.verify()
    assert (report.objects, report.ok) == (len(keys), True)


class TestRepeatedRequests:
    """A real gateway answers conditional writes, uploads and deletions that it has performed already."""

    FAULTS = {
        "lost answer": Fault(answer=500, code="InternalError", performed=True),
        "sent twice": Fault(twice=True),
        "late copy": Fault(copy=True),
    }

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_of_writes_change_nothing(self, hasty, proxy, fault):
        await hasty.put(b"content")
        for position in range(6):
            numbers = count()
            proxy.faults = lambda *_, n=numbers, p=position: self.FAULTS[fault] if next(n) == p else None
            contents = [b"%d %d" % (position, number) for number in range(3)]
            keys = [await hasty.put(contents[0]), *(await hasty.put_many(contents[1:]))]
            large = await hasty.put(LARGE)
            await hasty.delete_many([keys[0], keys[1], large])
            proxy.fail()
            proxy.deliver()
            assert await hasty.has_many([*keys, large]) == [False, False, True, False]
            assert await hasty.put_many([*contents, LARGE]) == [*keys, large]
            assert [await hasty.get(key) for key in keys] == contents
            await hasty.delete(large)
        assert (await hasty.verify()).ok


class TestGatewayKilled:
    """The gateway is killed by SIGKILL during a request, and started again while the program retries."""

    @pytest.fixture
    async def patient(self, bucket, repo, proxy):
        async with bucket(endpoint=proxy.url, timeout=10, retry_timeout=60) as patient:
            await patient.is_initialised()
            yield patient

    @pytest.fixture
    def death(self, gateway):
        """A function that kills the gateway, and starts it again a second later."""
        threads = []

        def again():
            time.sleep(1)
            gateway.start()

        def die():
            gateway.kill()
            threads.append(threading.Thread(target=again))
            threads[-1].start()

        yield die
        for thread in threads:
            thread.join()
        assert threads, "it was killed"

    @pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
    async def test_in_a_put(self, patient, proxy, death, content):
        acknowledged = await patient.put_many(b"%d" % number for number in range(50))
        proxy.fail(None, Fault(meanwhile=death), method="PUT") if content is LARGE else proxy.fail(
            Fault(meanwhile=death), method="PUT"
        )
        key = await patient.put(content)
        assert await patient.get(key) == content
        assert all(await patient.has_many(acknowledged))
        assert (await patient.verify()).ok

    @pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
    async def test_in_a_get(self, patient, proxy, death, content):
        key = await patient.put(content)
        proxy.fail(Fault(meanwhile=death), method="GET")
        assert await patient.get(key) == content

    async def test_in_a_stream(self, patient, proxy, death):
        key = await patient.put(LARGE)
        proxy.fail(None, None, Fault(meanwhile=death), method="GET")
        async with patient.open(key, check=True) as stream:
            assert b"".join([chunk async for chunk in stream]) == LARGE

    async def test_in_a_listing(self, repo, patient, proxy, death):
        keys = await repo.put_many(b"%d" % number for number in range(2500))
        proxy.fail(None, Fault(meanwhile=death), method="GET")
        assert await listed(patient) == sorted(keys)

    async def test_in_many_puts(self, patient, proxy, death):
        proxy.fail(None, Fault(meanwhile=death), method="PUT")  # the log entry, after the pack
        keys = await patient.put_many(b"%d" % number for number in range(300))
        assert all(await patient.has_many(keys))
        assert (await patient.verify()).ok

    async def test_for_good(self, hasty, gateway):
        key = await hasty.put(b"acknowledged")
        gateway.kill()
        try:
            for name in ("put", "get", "info"):
                began = time.monotonic()
                with pytest.raises(RepositoryUnavailableError):
                    await OPERATIONS[name](hasty, key)
                assert time.monotonic() - began < PROMISED + 5
        finally:
            gateway.start()
        assert await hasty.get(key) == b"acknowledged"


class TestLargeUploads:
    def uploads(self, s3, prefix):
        return s3.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])

    async def test_a_failed_upload_is_aborted(self, hasty, proxy, s3, prefix):
        proxy.faults = lambda method, target: Fault(answer=503) if "partNumber=2" in target else None
        with pytest.raises(RepositoryUnavailableError):
            await hasty.put(LARGE)
        assert await listed(hasty) == []
        assert self.uploads(s3, prefix) == []

    async def test_a_cancelled_upload_is_aborted(self, bucket, repo, proxy, s3, prefix):
        for delay in (0.05, 0.1, 0.2, 0.3):
            proxy.faults = lambda method, target: Fault(hang=0.1) if "partNumber" in target else None
            with anyio.move_on_after(delay):
                await repo.put(LARGE)
            assert self.uploads(s3, prefix) == []
        assert len(await listed(repo)) <= 1
        assert (await repo.verify()).ok

    async def test_maintain_aborts_the_upload_of_a_killed_process(self, repo, proxy, credentials, s3, prefix):
        program = (
            "import anyio, objrepo, os\n"
            "async def main():\n"
            f"    async with objrepo.S3Repository({BUCKET!r}, {prefix!r}, endpoint={proxy.url!r},\n"
            f"            **{credentials!r}) as repo:\n"
            "        await repo.put(os.urandom(30_000_000))\n"
            "anyio.run(main)\n"
        )
        reached = threading.Event()

        def stand_still(method, target):
            if "partNumber=3" not in target:
                return None
            return Fault(meanwhile=lambda: (reached.set(), time.sleep(2)))

        proxy.faults = stand_still
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            assert await anyio.to_thread.run_sync(reached.wait, 60)
            process.kill()
        assert len(self.uploads(s3, prefix)) == 1
        key = await repo.put(b"and on")
        assert await listed(repo) == [key]
        assert (await repo.maintain()).steps[0].objects == 0, "another process may be continuing it"
        assert (await repo.maintain(dry_run=True, uploads_older_than=0)).steps[0].objects == 1
        assert len(self.uploads(s3, prefix)) == 1
        assert (await repo.maintain(live=False)).steps[0].objects == 1
        assert self.uploads(s3, prefix) == []

    async def test_uploads_of_others_are_not_aborted(self, repo, s3, prefix):
        ours = f"{prefix}/ab/{'c' * 62}"
        theirs = [f"{prefix}/backup.tar", f"{prefix}/more/ab/{'c' * 62}"]
        for name in (ours, *theirs):
            s3.create_multipart_upload(Bucket=BUCKET, Key=name)
        assert (await repo.maintain(live=False)).steps[0].objects == 1
        assert sorted(upload["Key"] for upload in self.uploads(s3, prefix)) == theirs
        s3.create_multipart_upload(Bucket=BUCKET, Key=ours)
        await repo.erase()
        assert sorted(upload["Key"] for upload in self.uploads(s3, prefix)) == theirs

    async def test_a_file_that_changes_during_its_upload(self, repo, tmp_path, monkeypatch):
        path = tmp_path / "file"
        path.write_bytes(LARGE)
        real = repo.backend._bucket.size

        def size(name):  # called between the two times that the file is read
            with open(path, "r+b") as file:
                file.write(b"changed")
            return real(name)

        monkeypatch.setattr(repo.backend._bucket, "size", size)
        with pytest.raises(OSError, match="changed while it was being read"):
            await repo.put(path)
        monkeypatch.undo()
        assert await listed(repo) == []


async def test_a_forked_process_gets_an_error(repo):
    await put_and_get(repo)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            repo.backend.get("0" * 64)
        except RepositoryError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert "cannot be used in a forked process" in told.read()
    os.waitpid(child, 0)
