"""Store a folder with trio, a bounded number of files at a time: python store_folder.py FOLDER REPOSITORY."""

import sys

import trio

from objrepo import DiskRepository

AT_A_TIME = 20


async def main(folder, path):
    async with DiskRepository(path) as repo:
        await repo.initialise()
        send, receive = trio.open_memory_channel(AT_A_TIME)  # the files are named no faster than they are stored

        async def work():
            async for file in receive:
                print(await repo.put(file), "", file)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(work)
            async with send:
                for file in sorted(await trio.Path(folder).rglob("*")):
                    if await file.is_file():
                        await send.send(file)


trio.run(main, *sys.argv[1:])
