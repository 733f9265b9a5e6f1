"""A bad network: forwards connections, and cuts, forgets, stalls, delays and splits them, resets their streams and loses
their trailers, at random, so often and then no more."""

import argparse
import asyncio
import random

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True, help="where clients come")
parser.add_argument("--to", type=int, required=True, help="the server's port")
parser.add_argument("--cuts", type=int, default=12, help="how many connections are cut before they are left alone")
parser.add_argument("--forgets", type=int, default=0, help="how many of these are forgotten: nothing passes, nobody is told")
parser.add_argument("--trailers", type=int, default=2, help="how many trailers are lost before they arrive")
parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="printed at the start")
options = parser.parse_args()
chance = random.Random(options.seed)
cuts_left, forgets_left, trailers_left = options.cuts, options.forgets, options.trailers

# HTTP/2 (RFC 9113 §6, §7); of the reasons for a reset those that libraries make something else of.
HEADERS, RST_STREAM, END_STREAM = 1, 3, 1
REASONS = {0: "NO_ERROR", 2: "INTERNAL_ERROR", 3: "FLOW_CONTROL_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL", 11: "ENHANCE_YOUR_CALM"}


async def write(writer, piece):
    if chance.random() < 0.05:
        await asyncio.sleep(chance.uniform(0, 0.05))
    writer.write(piece)
    await writer.drain()


async def requests(reader, writer):
    while piece := await reader.read(chance.choice([7, 100, 4_096, 65_536])):
        await write(writer, piece)


async def answers(reader, writer, reset_at):
    """Forwards frame by frame, until trailers are lost, or a stream is reset because it is time."""
    global trailers_left
    stream = 0
    while True:
        head = await reader.readexactly(9)
        frame = head + await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == HEADERS and stream and head[4] & END_STREAM and trailers_left > 0:
            trailers_left -= 1
            print("trailers lost", flush=True)
            return
        if head[3] == HEADERS:
            stream = int.from_bytes(head[5:], "big")
        if stream and reset_at is not None and asyncio.get_running_loop().time() > reset_at:
            reason = chance.choice(list(REASONS))
            print("reset with", REASONS[reason], flush=True)
            writer.write(bytes([0, 0, 4, RST_STREAM, 0]) + stream.to_bytes(4, "big") + reason.to_bytes(4, "big"))
            await writer.drain()
            # Whoever asks again at once loses the connection, too.
            await asyncio.sleep(0.05)
            return
        at = chance.randrange(len(frame))
        await write(writer, frame[:at])
        await write(writer, frame[at:])


async def connection(client_reader, client_writer):
    global cuts_left, forgets_left
    server_writer = None
    pumps = []
    try:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", options.to)
        seconds, reset_at = None, None
        if cuts_left > 0:
            cuts_left -= 1
            seconds = chance.uniform(0.02, 0.4) if forgets_left == 0 else chance.uniform(0.2, 0.6)
            if forgets_left == 0 and chance.random() < 0.5:
                # Where nothing comes that could be reset, it is cut after all.
                reset_at, seconds = asyncio.get_running_loop().time() + seconds, seconds + 1
        pumps.append(asyncio.ensure_future(requests(client_reader, server_writer)))
        pumps.append(asyncio.ensure_future(answers(server_reader, client_writer, reset_at)))
        ended, _ = await asyncio.wait(pumps, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended and forgets_left > 0:
            forgets_left -= 1
            print("forgotten", flush=True)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # Until the client notices.
            while await client_reader.read(65_536):
                pass
    except OSError:
        pass
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
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
