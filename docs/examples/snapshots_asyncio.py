"""Snapshots of a folder, on asyncio: `take FOLDER`, `show SNAPSHOT`, `restore SNAPSHOT FOLDER`."""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import anyio

from objrepo import DiskRepository, ObjectNotFoundError

MAX_OPEN_FILES = 20


def files_in(folder):
    """Return all files of a folder. It reads the disk, so it is called on a worker thread."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
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
    content = await repo.get(snapshot)
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        raise ValueError(f"{snapshot} is the key of an object that is not a snapshot") from None


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
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with asyncio.TaskGroup() as group:
        for name, key in files.items():
            group.create_task(write(name, key))


async def main(command, snapshot=None, folder=None):
    """Run a command."""
    async with DiskRepository("snapshots") as repo:
        await repo.initialise()
        if command == "take":
            print(await take(repo, folder))
        elif command == "show":
            for name, key in (await files_of(repo, snapshot)).items():
                print(key[:12], await repo.size(key), name)
        elif command == "restore":
            await restore(repo, snapshot, folder)


def arguments():
    """Return the command and its arguments; with wrong ones, print how to write them and exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("take").add_argument("folder")
    commands.add_parser("show").add_argument("snapshot")
    restoring = commands.add_parser("restore")
    restoring.add_argument("snapshot")
    restoring.add_argument("folder")
    return vars(parser.parse_args())


if __name__ == "__main__":
    try:
        asyncio.run(main(**arguments()))
    except ObjectNotFoundError as error:
        sys.exit(f"the snapshot does not exist: {error}")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
