"""A pytest plugin that replaces aiida-core's repository backends and storages by the classes of objrepo.

`nox -s aiida -- PATH` uses it to run the tests of repositories and of nodes with files from a checkout of aiida-core.
"""

from __future__ import annotations

import sys

import aiida.repository.backend.disk_object_store
import aiida.repository.backend.sandbox
import aiida.repository.repository
import aiida.storage.sqlite_dos.backend

import objrepo.aiida.sqlite_dos
import objrepo.sync

SWAPS = {
    id(getattr(module, name)): getattr(objrepo.sync, name)
    for module, name in (
        (aiida.repository.backend.disk_object_store, "DiskObjectStoreRepositoryBackend"),
        (aiida.repository.backend.sandbox, "SandboxRepositoryBackend"),
    )
}
SWAPS[id(aiida.storage.sqlite_dos.backend.SqliteDosStorage)] = objrepo.aiida.sqlite_dos.ObjrepoSqliteDosStorage


def pytest_configure():
    for module in [module for name, module in sys.modules.items() if name.startswith("aiida")]:
        for name, value in list(vars(module).items()):
            if id(value) in SWAPS:
                setattr(module, name, SWAPS[id(value)])


def pytest_report_header():
    backend = aiida.repository.backend.disk_object_store.DiskObjectStoreRepositoryBackend
    assert backend is objrepo.sync.DiskObjectStoreRepositoryBackend
    return f"aiida-core {aiida.__version__}, its repository backends replaced by those of {backend.__module__}"
