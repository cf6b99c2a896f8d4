"""Store a folder with trio, a limited number of files concurrently: python store_folder.py FOLDER REPOSITORY."""

import sys

import trio

from objrepo import DiskRepository

CONCURRENCY = 20


async def main(folder, path):
    async with DiskRepository(path) as repo:
        await repo.initialise()
        send, receive = trio.open_memory_channel(CONCURRENCY)  # the search for files waits for storing

        async def work():
            async for file in receive:
                print(await repo.put(file), "", file)

        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENCY):
                nursery.start_soon(work)
            async with send:
                for file in sorted(await trio.Path(folder).rglob("*")):
                    if await file.is_file():
                        await send.send(file)


trio.run(main, *sys.argv[1:])
