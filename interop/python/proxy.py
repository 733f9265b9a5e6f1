"""A bad network: forwards connections, and cuts, stalls, delays and splits them at random, so often and then no more."""

import argparse
import asyncio
import random

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True, help="where clients come")
parser.add_argument("--to", type=int, required=True, help="the server's port")
parser.add_argument("--cuts", type=int, default=12, help="how many connections are cut before they are left alone")
parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="printed at the start")
options = parser.parse_args()
chance = random.Random(options.seed)
cuts_left = options.cuts


async def forward(reader, writer):
    while piece := await reader.read(chance.choice([7, 100, 4_096, 65_536])):
        if chance.random() < 0.05:
            await asyncio.sleep(chance.uniform(0, 0.05))
        writer.write(piece)
        await writer.drain()


async def connection(client_reader, client_writer):
    global cuts_left
    server_writer = None
    try:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", options.to)
        both = asyncio.gather(forward(client_reader, server_writer), forward(server_reader, client_writer))
        if cuts_left > 0:
            cuts_left -= 1
            await asyncio.wait_for(both, chance.uniform(0.02, 0.4))
        await both
    except (OSError, asyncio.TimeoutError):
        pass
    finally:
        for writer in (client_writer, server_writer):
            if writer is not None:
                # A reset now and then, and an end as if it were meant otherwise.
                writer.transport.abort() if chance.random() < 0.5 else writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", options.port)
    print(f"seed {options.seed}", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
