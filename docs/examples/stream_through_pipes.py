"""Stream a large object from one program into the repository, and from there to another program, with asyncio.

python stream_through_pipes.py REPOSITORY [BYTES]
"""

import asyncio
import sys

from objrepo import DiskRepository

PRODUCER = "import os, sys\nfor _ in range(int(sys.argv[1]) // 65536): sys.stdout.buffer.write(os.urandom(65536))"
CONSUMER = "import hashlib, sys\nprint(hashlib.file_digest(sys.stdin.buffer, 'sha256').hexdigest())"


async def main(path, size=1024**3):
    async with DiskRepository(path) as repo:
        await repo.initialise()

        producer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PRODUCER, str(size), stdout=asyncio.subprocess.PIPE
        )
        key = await repo.put(producer.stdout)  # any object with an async `read`
        await producer.wait()

        consumer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CONSUMER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        async with repo.open(key) as stream:
            async for chunk in stream:
                consumer.stdin.write(chunk)
                await consumer.stdin.drain()
        consumer.stdin.close()
        digest = (await consumer.stdout.read()).decode().strip()
        await consumer.wait()

        assert digest == key == await repo.hash(key)
        print(f"{await repo.size(key)} bytes through two pipes: {digest}")


asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
