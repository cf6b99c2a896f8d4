"""Repositories in other processes: as arguments, inherited by `fork`, and in tasks of dask and celery."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import dask
import dask.bag
import pytest
from disk_objectstore import Container

import workers
from helpers import ROOT, run, sha256
from objrepo import ArchiveRepository, CachedRepository, DiskRepository, RepositoryError, S3Repository, export
from objrepo.instrumentation import InstrumentedRepository, log_operations
from objrepo.offload import Inline
from objrepo.sync import DiskObjectStoreRepositoryBackend, SandboxRepositoryBackend, SyncRepository
from s3_server import s3_server

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork"),
    # Newer Pythons warn of a fork while threads run. Those of the repositories are idle then.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

START_METHODS = ("spawn", "fork", "forkserver")


def make_repositories(folder):
    """Return repositories of several kinds, async and sync, which store their objects in one container."""
    return {
        "async": DiskRepository(folder),
        "cached": CachedRepository(DiskRepository(f"{folder}-cache"), DiskRepository(folder), max_bytes=10_000),
        "instrumented": InstrumentedRepository(DiskRepository(folder), log_operations),
        "sync": SyncRepository(DiskRepository(folder, Inline())),
        "sync, cached": SyncRepository(
            CachedRepository(
                DiskRepository(f"{folder}-cache", Inline()), DiskRepository(folder, Inline()), max_bytes=10_000
            )
        ),
        "aiida": DiskObjectStoreRepositoryBackend(Container(folder)),
    }


@contextmanager
def opened(repo):
    """Have a repository open, without an event loop that runs meanwhile."""
    if isinstance(repo, SyncRepository):
        yield  # it is open from the start
    else:
        asyncio.run(repo.__aenter__())
        yield
        asyncio.run(repo.__aexit__(None, None, None))


class Repositories(dict):
    """Repositories of one container, and an object in it."""

    def __init__(self, folder):
        super().__init__(make_repositories(folder))
        self["sync"].initialise()
        self.key = put(self["sync"], b"the parent's")

    def check(self, results):
        """Check that the workers have read the object, and that this process reads theirs."""
        assert {content for _, content in results} == {b"the parent's"}
        repo = self["sync"]
        assert [repo.get_object_content(key) for key, _ in results] == [content_of(n) for n in range(len(results))]
        assert set(repo.list_objects()) == {self.key, *(key for key, _ in results)}


def put(repo, content):
    return repo.put_object_from_filelike(io.BytesIO(content))


def content_of(number):
    return b"the object %d of a worker" % number


@pytest.fixture
def repositories(folder):
    return Repositories(folder)


class TestArguments:
    @pytest.mark.parametrize("method", START_METHODS)
    def test_of_a_process_pool_executor(self, repositories, method):
        """Each kind is pickled while it is open, and arrives closed with the same configuration."""
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            results = []
            for number, repo in enumerate(repositories.values()):
                with opened(repo):
                    future = pool.submit(workers.put_and_read, repo, repositories.key, content_of(number))
                    results.append(future.result(60))
        repositories.check(results)

    @pytest.mark.parametrize("method", START_METHODS)
    def test_of_a_pool_that_gives_each_worker_one(self, repositories, method):
        repo = repositories["sync"]
        with multiprocessing.get_context(method).Pool(2, workers.start, (repo,)) as pool:
            tasks = [(repositories.key, content_of(number)) for number in range(20)]
            results = pool.starmap_async(workers.put_and_read_inherited, tasks, chunksize=1).get(60)
        repositories.check(results)

    def test_a_sandbox_arrives_empty(self, tmp_path):
        """In the same folder, but under a name of its own: each process deletes its own."""
        repo = SandboxRepositoryBackend(str(tmp_path))
        key = put(repo, b"content")
        arrived = pickle.loads(pickle.dumps(repo))
        assert not arrived.has_object(key)
        put(arrived, b"content")
        assert len(list(tmp_path.iterdir())) == 2
        arrived.close()
        assert repo.get_object_content(key) == b"content"

    @pytest.mark.parametrize("wrap", [lambda repo: repo, SyncRepository])
    def test_a_bucket_arrives_and_finds_the_credentials_of_the_worker(self, monkeypatch, wrap):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with s3_server() as server:
            repo = SyncRepository(S3Repository("bucket", endpoint=server.url, offload=Inline()))
            repo.initialise()
            key = put(repo, b"content")
            given = wrap(repo._repository)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                theirs, content = pool.submit(workers.put_and_read, given, key, b"the worker's").result(60)
            assert content == b"content"
            assert repo.get_object_content(theirs) == b"the worker's"
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                forked = pool.submit(workers.put_and_read, given, key, b"the worker's")
                with pytest.raises(RepositoryError, match="forked process: start it with multiprocessing's 'spawn'"):
                    forked.result(60)

    def test_an_archive_is_read_by_workers(self, repositories, tmp_path):
        archive = tmp_path / "archive.zip"
        asyncio.run(_export(repositories["async"], archive))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            repo = SyncRepository(ArchiveRepository(archive, Inline()))
            assert pool.submit(SyncRepository.get_object_content, repo, repositories.key).result(60) == b"the parent's"

    async def test_writers_and_batches_are_not_pickled(self, repo):
        async with repo.create() as writer, repo.batch() as batch:
            for each in (writer, batch):
                with pytest.raises(TypeError, match="cannot be pickled or copied: give its repository"):
                    pickle.dumps(each)


async def _export(repo, archive):
    async with repo:
        await export(repo, archive)


class TestInheritedByFork:
    @pytest.mark.parametrize("kind", make_repositories("folder"))
    def test_one_that_is_open_is_used_by_parent_and_children(self, repositories, kind, monkeypatch):
        repo = repositories[kind]
        monkeypatch.setattr(workers, "inherited", repo)
        with opened(repo), ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            results = [workers.put_and_read(repo, repositories.key, content_of(0))]
            tasks = [(repositories.key, content_of(number)) for number in range(1, 10)]
            results += pool.map(workers.put_and_read_inherited, *zip(*tasks, strict=True), timeout=60)
        repositories.check(results)

    def test_one_in_a_portal_is_entered_after_the_fork(self, folder, monkeypatch):
        repo = SyncRepository(DiskRepository(folder))
        with repo, ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            repo.initialise()
            key = put(repo, b"content")
            monkeypatch.setattr(workers, "inherited", repo)
            with pytest.raises(RepositoryError, match="was open when this process was forked"):
                pool.submit(workers.put_and_read_inherited, key, b"content").result(60)
            _, content = pool.submit(workers.enter_put_and_read, repo, key, b"the worker's").result(60)
            assert content == b"content"


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("scheduler", ["processes", "threads"])
class TestDask:
    def test_delayed(self, repositories, kind, scheduler):
        work = dask.delayed(workers.put_and_read)
        tasks = [work(repositories[kind], repositories.key, content_of(number)) for number in range(4)]
        repositories.check(dask.compute(*tasks, scheduler=scheduler, num_workers=2))

    def test_bag(self, repositories, kind, scheduler):
        bag = dask.bag.from_sequence(map(content_of, range(4)), npartitions=2)
        stored = bag.map(lambda content: workers.put_and_read(repositories[kind], repositories.key, content))
        repositories.check(stored.compute(scheduler=scheduler, num_workers=2))


def test_celery(project):
    """A worker gets repositories by pickle and paths by JSON, from the example of the docs."""
    (project / "sea.jpg").write_bytes(b"sea")
    (project / "wood.jpg").write_bytes(b"wood")
    examples = ROOT / "docs" / "examples"
    environment = {**os.environ, "PYTHONPATH": f"{examples}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment["C_FORCE_ROOT"] = "1"  # celery refuses to unpickle as root, as whom tests may run
    command = [
        sys.executable,
        "-m",
        "celery",
        "--app",
        "celery_tasks",
        "worker",
        "--pool",
        "solo",
        "--loglevel",
        "ERROR",
    ]
    with open(project / "log", "w") as log:
        worker = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        try:
            out = run([sys.executable, examples / "celery_tasks.py", "sea.jpg", "wood.jpg"], project, env=environment)
        finally:
            worker.terminate()
            worker.wait(60)
    assert out.splitlines() == [f"{sha256(b'sea')} 3", f"{sha256(b'wood')} 4"], (project / "log").read_text()
