"""Store files without an event loop, and print their keys: python backup_script.py REPOSITORY FILE..."""

import sys
from pathlib import Path

from objrepo.sync import open_repository

path, *files = sys.argv[1:]
with open_repository(path) as repo:
    repo.initialise()
    keys = dict(zip(files, repo.put_many(map(Path, files)), strict=True))
    repo.maintain()
    for file, key in keys.items():
        with repo.open(key) as stored, open(file, "rb") as original:
            assert stored.read() == original.read()
        print(f"{key}  {file}")
    info = repo.info(detailed=True)
    print(f"{info.size} bytes in {info.objects} objects")
