"""A custom backend: each object is a file in one folder, named by the SHA-256 of its content."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from objrepo.backend import Backend, paginate
from objrepo.errors import ObjectNotFoundError
from objrepo.reports import RepositoryInfo


class FolderRepository(Backend):
    def __init__(self, path, offload=None):
        super().__init__(offload)
        self.path = Path(path)

    def _initialise(self):
        self.path.mkdir(parents=True, exist_ok=True)

    def _is_initialised(self):
        return self.path.is_dir()

    def _key_format(self):
        return "sha256"

    def _put(self, reader):
        self._initialise()
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory(dir=self.path) as temporary, open(Path(temporary, "object"), "wb") as file:
            while chunk := reader.read(1024 * 1024):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            return Path(file.name).replace(self.path / digest.hexdigest()).name

    def _has_keys(self, keys):
        return [(self.path / key).is_file() for key in keys]

    def _open_file(self, key):
        if not self._has_keys([key])[0]:
            raise ObjectNotFoundError([key], self)
        return open(self.path / key, "rb", buffering=0), (self.path / key).stat().st_size

    def _list(self, cursor):
        return paginate(*cursor) if cursor else paginate([path.name for path in self.path.glob("*") if path.is_file()])

    def _delete(self, keys):
        self._require(keys)
        for key in keys:
            (self.path / key).unlink()

    def _info(self, detailed):
        sizes = [path.stat().st_size for path in self.path.glob("*") if path.is_file()]
        total = sum(sizes) if detailed else None
        return RepositoryInfo(location=str(self.path), key_format="sha256", objects=len(sizes), size=total)

    def _erase(self):
        shutil.rmtree(self.path, ignore_errors=True)
