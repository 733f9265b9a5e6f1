"""The servers: what they are, and how each is started and said to be ready."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from .process import Failure, Process, Supervisor, free_port
from .workloads import Load, Transport

START_SECONDS_MAX = 60.0  # nginx's frames are made first, up to 1 GiB of them


@dataclass(frozen=True)
class Server:
    """A server as the page shows it."""

    name: str
    shown: str
    about: str
    program: str  # among the built programs
    journaled: bool = False


SERVERS: dict[str, Server] = {
    server.name: server
    for server in [
        Server(
            "outflow", "outflow", "jobs that hand over 64 responses at once (`emit_all`) where they are not paced", "outflow"
        ),
        Server("outflow-again", "outflow, again", "the control: the same server once more", "outflow"),
        Server("outflow-emit", "outflow, `emit`", "jobs that hand over each response by itself", "outflow"),
        Server("outflow-disk", "outflow, journaled", "durable before it is shown, on the disk of the build", "outflow", True),
        Server("grpc-go", "grpc-go", "a loop of `Send`", "grpc-go-server"),
        Server("tonic-mpsc", "tonic, mpsc", "a task, a channel and `ReceiverStream`", "tonic-mpsc"),
        Server("tonic-ready", "tonic, ready stream", "a stream that is always ready", "tonic-ready"),
        Server("connect-rust", "connect-rust", "`connectrpc`", "connect"),
        Server("grpc-cpp", "gRPC C++", "the callback API", "grpc-cpp"),
        Server("tcp", "raw TCP", "the floor: prepared frames in chunks of 64 KiB, no HTTP/2", "raw-tcp"),
        Server("nginx", "nginx", "a static file of prepared frames over h2c", "nginx-h2c"),
        Server(
            "jetstream",
            "JetStream",
            "one node, file storage, the runs over 100 streams, a message a response, its default sync",
            "nats-server",
            True,
        ),
        Server(
            "jetstream-sync",
            "JetStream, `sync_interval: always`",
            "the same, but on disk when it is confirmed",
            "nats-server",
            True,
        ),
        Server(
            "jetstream-batches",
            "JetStream, batches of 64 KiB",
            "batches made by the publisher, its default sync",
            "nats-server",
            True,
        ),
        Server(
            "jetstream-sync-batches",
            "JetStream, batches, `sync_interval: always`",
            "batches made by the publisher",
            "nats-server",
            True,
        ),
        Server(
            "s2-lite",
            "s2-lite",
            "on local disk, which it syncs; 16 streams of records of 128 bytes, its smallest, by `s2 bench`, which reads all a "
            "second time in the end: that is in its CPU and not in its throughput",
            "s2",
            True,
        ),
    ]
}

# Of clients that are programs of their own, spoken to as the stock one is.
CLIENT_PROGRAMS = {"grpc-go": "grpc-go-client", "tonic-client": "tonic-client", "outflow-client": "outflow-client"}

CONFIGURATION = """\
[[source]]
name = "simulate"
kind = "simulate"
default = true

[[source]]
name = "shared"
kind = "simulate"
shared = true
reuse = "1h"
linger = "5m"
"""
JETSTREAM = """\
jetstream {{
  store_dir: {data}
  {sync}
}}
"""


@dataclass
class Programs:
    """Where the built programs are."""

    paths: dict[str, Path]

    def path(self, program: str) -> str:
        if program not in self.paths:
            raise Failure(f"{program} was not built")
        return str(self.paths[program])


@dataclass
class Running:
    """A server that is ready."""

    process: Process
    port: int
    command: list[str]


def start(server: Server, programs: Programs, supervisor: Supervisor, data: Path, load: Load, transport: Transport) -> Running:
    """Starts a server; what it keeps on disk is kept in `data`, which is new unless it was kept on purpose."""
    program = programs.path(server.program)
    if server.program == "outflow":
        return start_outflow(server, program, supervisor, data, transport)
    if server.program == "nats-server":
        return start_jetstream(server, program, supervisor, data)
    if server.program == "s2":
        return start_s2(program, supervisor, data)
    command = [program, "--listen", "127.0.0.1:0", *transport.peers]
    if server.program == "nginx-h2c":
        # Its files are large, and the same in every round.
        command += [f"--param={parameter}" for parameter in load.parameters(batch=False)]
        command += [f"--id={load.id}", f"--files={data.parent / 'frames'}"]
    process = supervisor.start(command, server.name)
    process.wrapped = server.program == "nginx-h2c"
    line = process.first_line(START_SECONDS_MAX)
    greeting, _, port = line.rpartition(":")
    if greeting != "listening on 127.0.0.1" or not port.isdigit():
        raise Failure(f"{server.name} began with {line!r} and not with its address")
    return Running(process, int(port), command)


def start_outflow(server: Server, program: str, supervisor: Supervisor, data: Path, transport: Transport) -> Running:
    data.mkdir(parents=True, exist_ok=True)
    configuration = data / "outflow.toml"
    configuration.write_text(CONFIGURATION)
    port = free_port()
    kept = str(data / "runs") if server.journaled else "memory"
    # The peers log nothing, so it does not say a line for each request either.
    command = [program, "--log", "warn", "serve", "--listen", f"127.0.0.1:{port}", "--data", kept]
    command += ["--config", str(configuration), *transport.outflow]
    process = supervisor.start(command, server.name)
    process.listens(port, START_SECONDS_MAX)
    return Running(process, port, command)


def start_jetstream(server: Server, program: str, supervisor: Supervisor, data: Path) -> Running:
    data.mkdir(parents=True, exist_ok=True)
    configuration = data / "nats.conf"
    sync = "sync_interval: always" if "-sync" in server.name else ""
    configuration.write_text(JETSTREAM.format(data=f'"{data / "jetstream"}"', sync=sync))
    port = free_port()
    command = [program, "--addr", "127.0.0.1", "--port", str(port), "--config", str(configuration)]
    process = supervisor.start(command, server.name)
    process.listens(port, START_SECONDS_MAX)
    return Running(process, port, command)


def start_s2(program: str, supervisor: Supervisor, data: Path) -> Running:
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # It listens on all addresses and cannot be told otherwise.
    command = [program, "lite", "--local-root", str(data / "s2"), "--port", str(port)]
    process = supervisor.start(command, "s2-lite")
    process.listens(port, START_SECONDS_MAX)
    return Running(process, port, command)


def remove_data(data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
