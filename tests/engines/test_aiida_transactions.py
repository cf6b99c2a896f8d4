"""Files that are put inside a transaction of a storage: stored before the database commits, or not at all."""

from __future__ import annotations

import gc
import io
import pickle
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.manage.configuration.profile import Profile
from aiida.manage.configuration.settings import AiiDAConfigDir
from aiida.repository.backend import AbstractRepositoryBackend
from aiida.tools.archive import create_archive, import_archive
from aiida.tools.archive.exceptions import ImportTestRun
from sqlalchemy import event
from sqlalchemy.exc import ResourceClosedError

from objrepo import RepositoryError
from objrepo.aiida.psql_dos import ObjrepoPsqlDosStorage
from objrepo.aiida.psql_s3 import ObjrepoPsqlS3Storage
from objrepo.aiida.sqlite_dos import ObjrepoSqliteDosStorage
from objrepo.sync import DiskObjectStoreRepositoryBackend, SyncRepository

STORAGES = {
    "sqlite_dos": ObjrepoSqliteDosStorage,
    "psql_dos": ObjrepoPsqlDosStorage,
    "psql_s3": ObjrepoPsqlS3Storage,
}


@pytest.fixture(scope="module", autouse=True)
def configuration(tmp_path_factory):
    before = AiiDAConfigDir.get()
    AiiDAConfigDir.set(tmp_path_factory.mktemp("configuration"))
    yield
    AiiDAConfigDir.set(before)


@pytest.fixture(params=STORAGES)
def kind(request):
    return request.param


@pytest.fixture
def make(tmp_path, request, monkeypatch):
    """Make an open storage of a new profile."""
    made = []

    def make(kind):
        config = {"filepath": str(tmp_path / f"storage-{len(made)}")}
        if kind.startswith("psql"):
            database = {name.replace("-", "_"): value for name, value in request.getfixturevalue("database").items()}
            config = {"database_engine": "postgresql_psycopg", **database}
            config["repository_uri"] = f"file://{tmp_path / 'files'}"
        if kind == "psql_s3":
            request.getfixturevalue("s3")
            gateway, credentials = request.getfixturevalue("gateway"), request.getfixturevalue("credentials")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["access_key_id"])
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["secret_access_key"])
            config["repository_url"] = f"s3://objects/{request.getfixturevalue('prefix')}?endpoint={gateway.url}"
        profile = Profile(
            f"test-{uuid.uuid4().hex}",
            {
                "PROFILE_UUID": uuid.uuid4().hex,
                "storage": {"backend": f"objrepo.{kind}", "config": config},
                "process_control": {"backend": None, "config": {}},
            },
        )
        STORAGES[kind].initialise(profile)
        storage = STORAGES[kind](profile)
        made.append(storage)
        orm.User(email="test@example.com", backend=storage).store()
        return storage

    yield make
    for storage in made:
        storage.get_session().close()  # else AiiDA leaves its connection to the garbage collector
        storage.close()


@pytest.fixture
def storage(make, kind):
    return make(kind)


@pytest.fixture
def sqlite(make):
    return make("sqlite_dos")


def put(repository, content):
    return repository.put_object_from_filelike(io.BytesIO(content))


def store_node(storage, content):
    user = orm.User.get_collection(storage).all()[0]
    return orm.SinglefileData(io.BytesIO(content), backend=storage, user=user).store()


def put_many(repository):
    """Put so many objects that the batch appends them to a pack, and looks which of them exist."""
    for number in range(1100):
        put(repository, b"%d" % number)


def nodes(storage):
    return orm.QueryBuilder(backend=storage).append(orm.SinglefileData).count()


def other(storage):
    """A repository that shares nothing with the one of the storage, as another process has it."""
    return pickle.loads(pickle.dumps(storage.get_repository()))


def test_files_are_readable_at_once_and_visible_to_others_at_the_end(storage):
    repository = storage.get_repository()  # before the transaction, as nodes have it
    before = put(repository, b"before")
    with other(storage) as another, ThreadPoolExecutor() as threads:
        with storage.transaction():
            key = put(repository, b"content")
            assert storage.get_repository().get_object_content(key) == b"content"
            with repository.open(key) as file:
                assert file.read(4) == b"cont"
            assert repository.has_objects([key, before]) == [True, True]
            assert set(repository.list_objects()) == {key, before}
            read = {key: file.read() for key, file in repository.iter_object_streams([before, key])}
            assert read == {before: b"before", key: b"content"}
            assert not threads.submit(repository.has_object, key).result()
            assert not another.has_object(key)
            assert another.has_object(before)
        assert threads.submit(repository.has_object, key).result()
        assert another.get_object_content(key) == b"content"
        assert repository.get_object_content(key) == b"content"


def found_at_each_commit(storage, keys):
    """Have each commit of the database, from now on, look which of the keys another process would see.

    SQLite commits when the outermost savepoint is released.
    """
    found = []
    another = other(storage)
    engine = storage.get_session().get_bind()
    event.listen(engine, "commit", lambda _: found.append(another.has_objects(keys)))
    if engine.dialect.name == "sqlite":

        def released(_, name, context):
            if name == "sa_savepoint_1":  # SQLAlchemy's name of the outermost one
                found.append(another.has_objects(keys))

        event.listen(engine, "release_savepoint", released)
    return found


def test_files_are_durable_before_the_database_commits(storage):
    keys = []
    found = found_at_each_commit(storage, keys)
    with storage.transaction():
        keys.append(store_node(storage, b"content").base.repository.metadata["o"]["file.txt"]["k"])
    assert found
    assert all(map(all, found))


def test_a_commit_inside_the_transaction_stores_what_was_put_before_it(storage):
    user = orm.User.get_collection(storage).all()[0]
    source = store_node(storage, b"source")
    keys = []
    found = found_at_each_commit(storage, keys)
    with pytest.raises(ZeroDivisionError), storage.transaction():
        work = orm.CalculationNode(backend=storage, user=user)
        work.base.repository.put_object_from_filelike(io.BytesIO(b"log"), "log")
        work.store()
        keys.append(work.base.repository.metadata["o"]["log"]["k"])
        work.backend_entity.add_incoming(source.backend_entity, LinkType.INPUT_CALC, "source")  # AiiDA commits here
        raise ZeroDivisionError
    assert found
    assert all(map(all, found))
    assert orm.QueryBuilder(backend=storage).append(orm.CalculationNode).count() == 1
    assert storage.get_repository().get_object_content(keys[0]) == b"log"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_files_and_nodes_of_a_transaction_that_raises_are_gone(storage, error):
    repository = storage.get_repository()
    with pytest.raises(error), storage.transaction():
        store_node(storage, b"content")
        key = put(repository, b"more")
        raise error
    assert list(repository.list_objects()) == []
    assert not repository.has_object(key)
    assert nodes(storage) == 0
    assert put(repository, b"more") == key  # the repository works as before
    assert other(storage).has_object(key)


def test_threads_with_transactions_of_their_own_do_not_meet(sqlite):
    repository = sqlite.get_repository()
    both = threading.Barrier(2, timeout=10)

    def work(content, fails):
        with sqlite.transaction():
            key = put(repository, content)
            both.wait()
            seen = list(repository.list_objects())
            both.wait()
            if fails:
                raise ZeroDivisionError
        return key, seen

    with ThreadPoolExecutor() as threads:
        good = threads.submit(work, b"good", False)
        bad = threads.submit(work, b"bad", True)
        key, seen = good.result()
        assert seen == [key]
        with pytest.raises(ZeroDivisionError):
            bad.result()
    assert list(repository.list_objects()) == [key]


def test_a_nested_transaction_joins_and_its_commit_stores_the_files_of_both(storage):
    keys = []
    found = found_at_each_commit(storage, keys)
    # AiiDA commits at the end of the inner transaction, and then cannot end the outer one.
    with pytest.raises(ResourceClosedError), storage.transaction():
        keys.append(put(storage.get_repository(), b"outer"))
        store_node(storage, b"outer")
        with storage.transaction():
            keys.append(put(storage.get_repository(), b"inner"))
            assert not other(storage).has_object(keys[0])
    assert found
    assert all(map(all, found))


def test_a_nested_transaction_that_raises_leaves_the_files_of_the_outer_one(storage):
    repository = storage.get_repository()
    with storage.transaction():
        outer = put(repository, b"outer")
        with pytest.raises(ZeroDivisionError), storage.transaction():
            raise ZeroDivisionError
        assert repository.has_object(outer)
    assert other(storage).has_object(outer)


def test_a_transaction_that_another_thread_ends_is_over_for_the_thread_that_began_it(sqlite):
    """As the garbage collector does with an iterator over a query, which holds a transaction."""
    store_node(sqlite, b"1")
    store_node(sqlite, b"2")
    repository = sqlite.get_repository()
    rows = orm.QueryBuilder(backend=sqlite).append(orm.SinglefileData).iterall(batch_size=1)
    next(iter(rows))
    gone = put(repository, b"3")
    assert not other(sqlite).has_object(gone)
    with ThreadPoolExecutor() as threads:
        threads.submit(rows.close).result()
    del rows
    gc.collect()
    assert not repository.has_object(gone)
    assert other(sqlite).has_object(put(repository, b"4"))


def test_threads_that_open_the_repository_at_the_same_time_share_it(sqlite, monkeypatch):
    make = sqlite._make_repository
    monkeypatch.setattr(sqlite, "_make_repository", lambda: time.sleep(0.1) or make())
    sqlite._close_repository()
    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda _: sqlite.get_repository(), range(2))
    assert first is second


def test_files_that_cannot_be_stored_roll_the_database_back(sqlite):
    repository = sqlite.get_repository()
    with sqlite.transaction():
        packed = store_node(sqlite, b"packed")
    key = packed.base.repository.metadata["o"]["file.txt"]["k"]
    with pytest.raises(RepositoryError, match="deleted"), sqlite.transaction():
        store_node(sqlite, b"packed")
        put_many(repository)
        other(sqlite).delete_objects([key])
    assert nodes(sqlite) == 1
    assert list(repository.list_objects()) == []


def test_after_a_failed_commit_the_transaction_can_only_be_rolled_back(sqlite):
    user = orm.User.get_collection(sqlite).all()[0]
    with sqlite.transaction():
        store_node(sqlite, b"packed")
    key = next(iter(sqlite.get_repository().list_objects()))
    group = orm.Group("group", user=user, backend=sqlite).store()
    with pytest.raises(RepositoryError, match="roll it back"), sqlite.transaction():
        store_node(sqlite, b"packed")
        put_many(sqlite.get_repository())
        other(sqlite).delete_objects([key])
        with pytest.raises(RepositoryError, match="deleted"):
            group.clear()  # AiiDA commits here
    assert nodes(sqlite) == 1


def test_a_storage_that_is_closed_inside_a_transaction_stores_nothing(sqlite):
    with pytest.raises(RepositoryError, match="not open"), sqlite.transaction():
        put(sqlite.get_repository(), b"content")
        sqlite.get_repository().close()
    assert list(sqlite.get_repository().__enter__().list_objects()) == []


def test_transactions_without_files_do_not_need_the_repository(sqlite):
    repository = sqlite.get_repository()
    repository.erase()
    with sqlite.transaction():
        orm.User(email="other@example.com", backend=sqlite).store()
        assert not repository.is_initialised
    assert orm.User.get_collection(sqlite).count() == 2


def test_the_repository_is_the_class_that_aiida_documents(storage, kind):
    repository = storage.get_repository()
    assert isinstance(repository, AbstractRepositoryBackend)
    assert isinstance(repository, SyncRepository)
    copy = pickle.loads(pickle.dumps(repository))
    assert copy.uuid == repository.uuid
    if kind != "psql_s3":
        assert isinstance(repository, DiskObjectStoreRepositoryBackend)
        assert str(repository).startswith(f"DiskObjectStoreRepository: {repository.uuid} | /")
        assert repository.get_info() == copy.get_info()
        assert repository.repair().steps == ()
    assert repository.maintain(dry_run=True) == copy.maintain(dry_run=True)


@pytest.fixture
def archive(make, tmp_path):
    """An archive of 300 nodes with a file each."""
    source = make("sqlite_dos")
    with source.transaction():
        for number in range(300):
            store_node(source, b"content %d" % number)
    create_archive(None, tmp_path / "nodes.aiida", backend=source)
    return tmp_path / "nodes.aiida"


def contents(storage):
    query = orm.QueryBuilder(backend=storage).append(orm.SinglefileData)
    return sorted(node.get_content("rb") for (node,) in query.all())


def test_an_import_stores_its_files_together(archive, sqlite):
    import_archive(archive, backend=sqlite, create_group=False)
    assert contents(sqlite) == sorted(b"content %d" % number for number in range(300))
    assert sqlite.get_repository().get_info()["Objects"] == {"packed": 300, "loose": 0, "pack_files": 1}
    assert sqlite.get_unreferenced_keyset() == set()
    import_archive(archive, backend=sqlite, create_group=False)  # everything exists
    assert sqlite.get_repository().get_info()["Objects"]["packed"] == 300


def test_an_import_that_fails_leaves_nothing(archive, storage, monkeypatch):
    with pytest.raises(ImportTestRun):
        import_archive(archive, backend=storage, create_group=False, test_run=True)
    monkeypatch.setattr("aiida.tools.archive.imports.IMPORT_LOGGER.report", fail_at_the_end)
    with pytest.raises(ZeroDivisionError):
        import_archive(archive, backend=storage, create_group=False)
    assert nodes(storage) == 0
    assert list(storage.get_repository().list_objects()) == []


def fail_at_the_end(message):
    if message.startswith("Committing"):
        raise ZeroDivisionError
