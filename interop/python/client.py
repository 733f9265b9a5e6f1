"""The tutorial's client in Python, from stubs of the tutorial's contract; prints the tutorial's lines."""

import argparse

import grpc

from tutorial_pb2 import Request
from tutorial_pb2_grpc import StreamServiceStub

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=50005, help="the server's port")
parser.add_argument("--id", type=int, default=1, help="what is asked for")
parser.add_argument("--limit", type=int, default=0, help="cancel after so many responses; 0: read to the end")
options = parser.parse_args()

with grpc.insecure_channel(f"127.0.0.1:{options.port}") as channel:
    stream = StreamServiceStub(channel).FetchResponse(Request(id=options.id))
    for count, response in enumerate(stream, start=1):
        print(f"Resp received: {response.result}", flush=True)
        if count == options.limit:
            stream.cancel()
            break
    else:
        print("finished")
