"""A custom backend: each object is a file in one folder, named by the SHA-256 of its content."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from objrepo.backend import FileBackend, paginate
from objrepo.errors import ObjectNotFoundError
from objrepo.reports import RepositoryInfo
from objrepo.repository import Repository


class FolderBackend(FileBackend):
    def __init__(self, path):
        self.path = Path(path)

    def initialise(self):
        self.path.mkdir(parents=True, exist_ok=True)

    def is_initialised(self):
        return self.path.is_dir()

    def key_format(self):
        return "sha256"

    def put(self, reader):
        self.initialise()
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory(dir=self.path) as temporary, open(Path(temporary, "object"), "wb") as file:
            while chunk := reader.read(1024 * 1024):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            return Path(file.name).replace(self.path / digest.hexdigest()).name

    def has_keys(self, keys):
        return [(self.path / key).is_file() for key in keys]

    def open_file(self, key):
        if not self.has_keys([key])[0]:
            raise ObjectNotFoundError([key], self)
        return open(self.path / key, "rb", buffering=0), (self.path / key).stat().st_size

    def list_keys(self, cursor):
        return paginate(*cursor) if cursor else paginate([path.name for path in self.path.glob("*") if path.is_file()])

    def delete(self, keys):
        self.require(keys)
        for key in keys:
            (self.path / key).unlink()

    def info(self, detailed):
        sizes = [path.stat().st_size for path in self.path.glob("*") if path.is_file()]
        total = sum(sizes) if detailed else None
        return RepositoryInfo(location=str(self.path), key_format="sha256", objects=len(sizes), size=total)

    def erase(self):
        shutil.rmtree(self.path, ignore_errors=True)


class FolderRepository(Repository):
    def __init__(self, path, offload=None):
        super().__init__(FolderBackend(path), offload)
