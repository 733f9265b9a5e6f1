"""Reads a run to its end in Python, over as many streams as it takes; prints `sequence result`."""

import argparse
import random
import sys
import time
import uuid

import grpc

from protobuf.stream_service_pb2 import Request
from protobuf.stream_service_pb2_grpc import StreamServiceStub

# A connection that a network has forgotten is noticed, and a server that was away is tried again soon. This library also
# sends PINGs of its own, behind which those of the keepalive wait, and few of either while it only receives.
OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


# [resume]
def fetch(stub, request, patience=300):
    """Every response of a run once and in order, whatever happens to client, network and server."""
    request.idempotency_key = request.idempotency_key or uuid.uuid4().hex  # finds the run if its headers got lost
    run, after, pause, progress = "", 0, 0.1, time.monotonic()
    while True:
        call = stub.FetchResponse(Request(run_id=run, after=after) if run else request)
        try:
            metadata = dict(call.initial_metadata())
            if metadata.get("outflow-durability", "none") != "none":
                run = metadata["outflow-run-id"]
            for response in call:
                if response.sequence > 0:  # else a heartbeat
                    after, pause, progress = response.sequence, 0.1, time.monotonic()
                    yield response
            return
        except grpc.RpcError as error:
            code, codes, told = error.code(), grpc.StatusCode, dict(error.trailing_metadata() or ())
            made_here = (codes.CANCELLED, codes.UNKNOWN, codes.INTERNAL, codes.RESOURCE_EXHAUSTED)
            cut = code == codes.UNAVAILABLE
            broke = code in made_here and "outflow-last-sequence" not in told
            if "outflow-end" in told or not (cut or broke) or time.monotonic() - progress > patience:
                raise
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, 5)
# [/resume]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=50005, help="the server's port")
    parser.add_argument("parameters", nargs="*", help="NAME=VALUE, for the source")
    options = parser.parse_args()
    parameters = dict(parameter.split("=", 1) for parameter in options.parameters)
    request = Request(id=1, parameters=parameters)
    request.linger.seconds = 60
    with grpc.insecure_channel(f"127.0.0.1:{options.port}", OPTIONS) as channel:
        for response in fetch(StreamServiceStub(channel), request):
            print(response.sequence, response.result, flush=True)


if __name__ == "__main__":
    sys.exit(main())
