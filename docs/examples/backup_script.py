"""Store files without an event loop, and print their keys: python backup_script.py REPOSITORY FILE..."""

import sys

from objrepo import DiskRepository
from objrepo.offload import Inline
from objrepo.sync import SyncRepository

path, *files = sys.argv[1:]
with SyncRepository(DiskRepository(path, Inline())) as repo:
    repo.initialise()
    keys = {file: repo.put_object_from_file(file) for file in files}
    repo.maintain()
    for file, key in keys.items():
        with repo.open(key) as stored, open(file, "rb") as original:
            assert stored.read() == original.read()
        print(f"{key}  {file}")
    print(repo.get_info(detailed=True)["size"], "bytes in", len(list(repo.list_objects())), "objects")
