"""An asyncio echo: many connections at once, random sizes, half-close at the end.

usage: asyncio_echo.py server|client PORT [ADDRESS [CONNECTIONS MEBIBYTES]]   (MEBIBYTES: of each one's last message)
"""
import asyncio
import random
import signal
import sys

PORT = int(sys.argv[2])
ADDRESS = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
CONNECTIONS, LAST = (int(sys.argv[4]), int(sys.argv[5]) << 20) if len(sys.argv) > 5 else (12, 3 << 20)


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve():
    server = await asyncio.start_server(echo, ADDRESS, PORT)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


async def talk(number):
    dice = random.Random(number)
    reader, writer = await asyncio.open_connection(ADDRESS, PORT)
    total = 0
    for _ in range(60):
        data = dice.randbytes(1 + int(2 ** dice.uniform(0, 17)))
        writer.write(data)
        if await reader.readexactly(len(data)) != data:
            raise AssertionError(f"connection {number}: wrong echo after {total} bytes")
        total += len(data)
    data = dice.randbytes(LAST)
    writer.write(data)
    writer.write_eof()
    if await reader.read() != data:
        raise AssertionError(f"connection {number}: wrong last echo")
    writer.close()
    await writer.wait_closed()
    return total + len(data)


async def ask():
    for number, total in enumerate(await asyncio.gather(*(talk(number) for number in range(CONNECTIONS)))):
        print(f"connection {number}: {total} bytes echoed right")


asyncio.run(serve() if sys.argv[1] == "server" else ask())
