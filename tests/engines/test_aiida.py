"""AiiDA profiles with the storage plugins: created by `verdi`, filled by AiiDA, switched from its storages and back."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

FILL = """
import io, pathlib, sys, tempfile
import numpy
from aiida import load_profile, orm
from aiida.engine import calcfunction

load_profile("mine")

@calcfunction
def total(array, file):
    return orm.Int(int(array.get_array().sum()) + len(file.get_content("rb")))

file = orm.SinglefileData(io.BytesIO(b"hello from a file"), "greeting.txt").store()
with tempfile.TemporaryDirectory() as folder:
    (pathlib.Path(folder) / "sub").mkdir()
    (pathlib.Path(folder) / "sub" / "b.bin").write_bytes(bytes(range(256)) * 5000)
    (pathlib.Path(folder) / "a.txt").write_text("a")
    tree = orm.FolderData(tree=folder).store()
array = orm.ArrayData(numpy.arange(1000)).store()
result = total(array, file)
assert result.value == 499500 + 17, result.value
print(file.uuid, tree.uuid, array.uuid)
"""

CHECK = """
import sys, hashlib
import numpy
from aiida import load_profile, orm
from aiida.manage import get_manager

load_profile("mine")
file, tree, array = (orm.load_node(uuid) for uuid in sys.argv[1:4])
assert file.get_content("rb") == b"hello from a file"
with file.open(mode="r") as handle:
    assert handle.read() == "hello from a file"
assert sorted(str(path) for path, _, _ in tree.base.repository.walk()) == [".", "sub"]
assert tree.base.repository.get_object_content("sub/b.bin", mode="rb") == bytes(range(256)) * 5000
with tree.base.repository.open("sub/b.bin", "rb") as handle:
    handle.seek(1_000_000)
    assert handle.read(3) == bytes([64, 65, 66])
assert (array.get_array() == numpy.arange(1000)).all()
storage = get_manager().get_profile_storage()
repository = storage.get_repository()
assert repository is storage.get_repository() or "aiida.repository" in type(repository).__module__
keys = list(repository.list_objects())
assert keys and storage.get_unreferenced_keyset() == set()
for key, stream in repository.iter_object_streams(keys):
    assert hashlib.sha256(stream.read()).hexdigest() == key
print(type(storage).__name__, type(repository).__module__)
"""


class Profiles:
    """An installation of AiiDA in a folder of its own, with the profile `mine`."""

    def __init__(self, folder, **environment):
        self.folder = folder
        self.environment = {**os.environ, "AIIDA_PATH": str(folder), **environment}
        folder.mkdir()

    def run(self, *command, status=0, stdin=""):
        done = subprocess.run(
            [str(each) for each in command],
            capture_output=True,
            text=True,
            env=self.environment,
            input=stdin,
            timeout=110,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def verdi(self, *arguments, **options):
        return self.run(BIN / "verdi", "-p", "mine", *arguments, **options)

    def setup(self, backend, **options):
        general = {
            "profile-name": "mine",
            "email": "a@example.com",
            "first-name": "A",
            "last-name": "B",
            "institution": "C",
        }
        flags = [f"--{name}={value}" for name, value in (general | options).items()]
        return self.run(BIN / "verdi", "profile", "setup", backend, "-n", "--no-use-rabbitmq", *flags)

    def python(self, code, *arguments, **options):
        return self.run(sys.executable, "-c", code, *arguments, **options)

    def switch(self, backend, **options):
        return self.run(sys.executable, "-m", "objrepo.aiida", "mine", backend, **options)


@pytest.fixture
def storages(tmp_path, request):
    """Make a profile with a storage; return the installation."""

    def make(backend):
        profiles = Profiles(tmp_path / "aiida")
        if backend.endswith("sqlite_dos"):
            profiles.setup(backend, filepath=tmp_path / "storage")
            return profiles
        database = request.getfixturevalue("database")
        if backend.endswith("psql_dos"):
            profiles.setup(backend, **database, **{"repository-uri": f"file://{tmp_path / 'storage'}"})
            return profiles
        gateway, credentials = request.getfixturevalue("gateway"), request.getfixturevalue("credentials")
        request.getfixturevalue("s3")
        profiles.environment["AWS_ACCESS_KEY_ID"] = credentials["access_key_id"]
        profiles.environment["AWS_SECRET_ACCESS_KEY"] = credentials["secret_access_key"]
        prefix = request.getfixturevalue("prefix")
        url = f"s3://objects/{prefix}?endpoint={gateway.url}&retry_timeout=10&timeout=5"
        profiles.setup(backend, **database, **{"repository-url": url})
        return profiles

    return make


@pytest.mark.parametrize("backend", ["objrepo.sqlite_dos", "objrepo.psql_dos", "objrepo.psql_s3"])
def test_a_profile_is_created_filled_maintained_and_archived(backend, storages, tmp_path):
    profiles = storages(backend)
    uuids = profiles.python(FILL).split()
    assert "objrepo" in profiles.python(CHECK, *uuids)
    assert "Nodes:" in profiles.verdi("storage", "info")
    assert profiles.verdi("node", "repo", "cat", uuids[0], "greeting.txt") == "hello from a file"
    profiles.verdi("node", "repo", "dump", uuids[1], tmp_path / "dumped")
    assert (tmp_path / "dumped" / "sub" / "b.bin").read_bytes() == bytes(range(256)) * 5000
    for options in ((), ("--full",)):
        profiles.verdi("storage", "maintain", "--force", *options)
        profiles.python(CHECK, *uuids)
    profiles.verdi("archive", "create", "--all", tmp_path / "all.aiida")
    count = profiles.run(sys.executable, "-c", VERIFY_ARCHIVE, tmp_path / "all.aiida")
    assert int(count) == 4
    other = Profiles(tmp_path / "other")
    other.setup("objrepo.sqlite_dos", filepath=tmp_path / "other-storage")
    other.verdi("archive", "import", tmp_path / "all.aiida")
    other.python(CHECK, *uuids)
    backup = profiles.verdi(
        "storage", "backup", tmp_path / "backup", status=1 if backend.endswith("s3") else 0, stdin="y\n"
    )
    assert "objrepo copy" in backup if backend.endswith("s3") else list((tmp_path / "backup").iterdir())
    profiles.environment["PGPASSWORD"] = "p4ss"  # AiiDA deletes databases as PostgreSQL's own user
    profiles.run(BIN / "verdi", "profile", "delete", "--delete-data", "--force", "mine")
    assert not (tmp_path / "storage" / "container").exists()


VERIFY_ARCHIVE = """
import sys
import anyio
from objrepo import open_repository

async def main():
    async with open_repository(sys.argv[1]) as archive:
        report = await archive.verify()
        assert report.ok, report
        print(report.objects)

anyio.run(main)
"""


@pytest.mark.parametrize("kind", ["sqlite_dos", "psql_dos"])
def test_a_profile_is_switched_and_switched_back(kind, storages):
    profiles = storages(f"core.{kind}")
    uuids = profiles.python(FILL).split()
    assert "aiida.repository" in profiles.python(CHECK, *uuids)
    profiles.verdi("storage", "maintain", "--force")
    assert f"it used core.{kind} before" in profiles.switch(f"objrepo.{kind}")
    assert "objrepo" in profiles.python(CHECK, *uuids)
    more = profiles.python(FILL.replace("hello from", "HELLO from").replace("hello", "HELLO")).split()
    profiles.switch(f"core.{kind}")
    assert "aiida.repository" in profiles.python(CHECK, *uuids)
    assert profiles.verdi("node", "repo", "cat", more[0], "greeting.txt") == "HELLO from a file"


def test_a_profile_in_use_or_with_other_files_is_not_switched(storages, tmp_path):
    profiles = storages("objrepo.sqlite_dos")
    assert "does not store the same files" in profiles.switch("objrepo.psql_dos", status=1)
    assert "does not store the same files" in profiles.switch("core.nonsense", status=1)
    assert "usage" in profiles.run(sys.executable, "-m", "objrepo.aiida", status=1)
    assert "unknown" in profiles.run(sys.executable, "-m", "objrepo.aiida", "unknown", "core.sqlite_dos", status=1)
    code = (
        "import sys; from aiida import load_profile; load_profile('mine').name; from aiida.manage import get_manager; "
    )
    code += "get_manager().get_profile_storage(); print('there', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=profiles.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout.readline() == b"there\n"
        assert "is in use" in profiles.switch("core.sqlite_dos", status=1)
        assert "being accessed" in profiles.verdi("storage", "maintain", "--full", "--force", status=1)
        shell.stdin.close()


WRITE_ON = """
import io, sys
from aiida import load_profile, orm
load_profile("mine")
for number in range(int(sys.argv[1])):
    orm.SinglefileData(io.BytesIO(b"%d" % number)).store()
    if number == 5:
        print("writing", flush=True)
nodes = orm.QueryBuilder().append(orm.SinglefileData).all(flat=True)
assert sorted(int(node.get_content()) for node in nodes) == list(range(int(sys.argv[1])))
"""


def test_maintenance_while_another_process_writes(storages):
    profiles = storages("objrepo.sqlite_dos")
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_ON, "300"], env=profiles.environment, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"writing\n"
        while writer.poll() is None:
            profiles.python(PACK)
        assert writer.returncode == 0


# `verdi storage maintain` would first delete objects that no node refers to, among them those of a node being stored.
PACK = """
from aiida import load_profile
from aiida.manage import get_manager
load_profile("mine")
get_manager().get_profile_storage().get_repository().maintain(live=True)
"""


def test_a_wrong_configuration_gives_the_errors_of_aiida(storages, tmp_path):
    profiles = storages("objrepo.psql_dos")
    config = tmp_path / "aiida" / ".aiida" / "config.json"
    good = config.read_text()

    def broken(**changes):
        content = json.loads(good)
        content["profiles"]["mine"]["storage"]["config"].update(changes)
        config.write_text(json.dumps(content))
        return profiles.verdi("storage", "info", status=1)

    assert "password authentication failed" in broken(database_password="wrong")
    assert "disk-objectstore" in broken(repository_uri=f"file://{tmp_path / 'nowhere'}")
    config.write_text(good)
    profiles.verdi("storage", "info")


HOLD = """
import sys
from aiida.manage.configuration import get_config
from aiida.manage.profile_access import ProfileAccessManager

with ProfileAccessManager(get_config().get_profile("mine")).lock():
    print("there", flush=True)
    sys.stdin.read()
"""


def test_a_locked_profile_and_an_older_schema_are_refused(storages, tmp_path):
    profiles = storages("objrepo.sqlite_dos")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=profiles.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"there\n"
        assert "locked" in profiles.verdi("storage", "info", status=1)
        assert "is in use" in profiles.switch("core.sqlite_dos", status=1)
        holder.stdin.close()
    profiles.verdi("storage", "info")
    with closing(sqlite3.connect(tmp_path / "storage" / "database.sqlite")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'main_0001'")
        database.commit()
    assert "is incompatible with the required schema" in profiles.verdi("storage", "info", status=1)


ACCEPTED = """
import io, sys
first, second = sys.argv[1:]
__import__(first)
assert second.partition(".")[0] not in sys.modules, "neither imports the other"
__import__(second)

import aiida.repository
import objrepo
from disk_objectstore import Container
from objrepo.offload import Inline
from objrepo.sync import DiskObjectStoreRepositoryBackend, SandboxRepositoryBackend, SyncRepository

for backend in (
    SandboxRepositoryBackend(),
    DiskObjectStoreRepositoryBackend(Container("container")),
    SyncRepository(objrepo.MemoryRepository(Inline())),
    SyncRepository(objrepo.SandboxRepository()).__enter__(),
):
    assert isinstance(backend, aiida.repository.backend.AbstractRepositoryBackend)
    assert not isinstance(backend, aiida.repository.SandboxRepositoryBackend)
    backend.initialise()
    repository = aiida.repository.Repository(backend=backend)
    repository.put_object_from_filelike(io.BytesIO(b"content"), "folder/file")
    assert repository.get_object_content("folder/file") == b"content"
    backend.close()
print("objrepo.aiida" in sys.modules)
"""


@pytest.mark.parametrize("first", ["objrepo.sync", "aiida.repository"])
def test_aiida_accepts_the_backends_whichever_is_imported_first(first, tmp_path):
    second = {"objrepo.sync": "aiida.repository", "aiida.repository": "objrepo.sync"}[first]
    environment = {**os.environ, "AIIDA_PATH": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", ACCEPTED, first, second]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
