"""Store files in tasks of celery: `celery --app celery_tasks worker`, then `python celery_tasks.py FILE…`."""

import sys
from pathlib import Path

from celery import Celery

from objrepo.sync import open_repository

FOLDER = Path("broker").absolute()  # in place of a server, such as RabbitMQ or Redis
FOLDER.mkdir(exist_ok=True)

app = Celery("celery_tasks", broker="filesystem://", backend=FOLDER.as_uri())
app.conf.broker_transport_options = {"data_folder_in": FOLDER, "data_folder_out": FOLDER, "control_folder": FOLDER}
app.conf.accept_content = ["json", "pickle"]


@app.task(serializer="pickle")
def store(repo, path):
    """Store a file; the repository arrives pickled."""
    return repo.put(Path(path))


@app.task
def size_of(folder, key):
    """Return the size of an object; the path of the repository is JSON, celery's default."""
    with open_repository(folder) as repo:
        return repo.size(key)


if __name__ == "__main__":
    repo = open_repository("photos")
    repo.initialise()
    stored = [store.delay(repo, str(Path(name).absolute())) for name in sys.argv[1:]]
    keys = [result.get(timeout=60) for result in stored]
    sizes = [size_of.delay(str(Path("photos").absolute()), key) for key in keys]
    for key, size in zip(keys, sizes, strict=True):
        print(key, size.get(timeout=60))
