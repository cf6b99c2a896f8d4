"""Snapshots of a folder, on asyncio: `take FOLDER`, `show SNAPSHOT`, `restore SNAPSHOT FOLDER`."""

import asyncio
import json
import sys
from pathlib import Path

import anyio

from objrepo import DiskRepository, ObjectNotFoundError

MAX_OPEN_FILES = 20


def files_in(folder):
    """Return all files of a folder. It reads the disk, so it is called on a worker thread."""
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


async def take(repo, folder):
    """Store every file of a folder, and a JSON object of names and keys; return the key of that."""
    paths = await asyncio.to_thread(files_in, folder)
    keys = await repo.put_many(paths)
    names = [str(path.relative_to(folder)) for path in paths]
    snapshot = json.dumps(dict(zip(names, keys, strict=True)), indent=1)
    return await repo.put(snapshot.encode())


async def files_of(repo, snapshot):
    """Return the names and keys of a snapshot."""
    return json.loads(await repo.get(snapshot))


async def restore(repo, snapshot, folder):
    """Write the files of a snapshot to a folder, several concurrently."""
    slots = asyncio.Semaphore(MAX_OPEN_FILES)

    async def write(name, key):
        target = anyio.Path(folder, name)
        await target.parent.mkdir(parents=True, exist_ok=True)
        async with slots, repo.open(key) as stream, await anyio.open_file(target, "wb") as file:
            async for chunk in stream:
                await file.write(chunk)

    files = await files_of(repo, snapshot)
    async with asyncio.TaskGroup() as group:
        for name, key in files.items():
            group.create_task(write(name, key))


async def main(command, *arguments):
    """Run a command."""
    async with DiskRepository("snapshots") as repo:
        await repo.initialise()
        if command == "take":
            print(await take(repo, *arguments))
        elif command == "show":
            for name, key in (await files_of(repo, *arguments)).items():
                print(key[:12], await repo.size(key), name)
        elif command == "restore":
            await restore(repo, *arguments)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ObjectNotFoundError as error:
        sys.exit(f"the snapshot does not exist: {error}")
