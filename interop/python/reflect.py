"""Asks the server to describe itself by reflection v1alpha, the older protocol that many tools still speak alone.

Prints the services by name, then the service it was asked for with its methods.
"""

import argparse

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=50005, help="the server's port")
parser.add_argument("service", help="the full name of the service to describe")
options = parser.parse_args()

with grpc.insecure_channel(f"127.0.0.1:{options.port}") as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    for name in database.get_services():
        print(name)
    for method in DescriptorPool(database).FindServiceByName(options.service).methods:
        stream = "stream " if method.server_streaming else ""
        print(f"{method.full_name}: {method.input_type.full_name} -> {stream}{method.output_type.full_name}")
