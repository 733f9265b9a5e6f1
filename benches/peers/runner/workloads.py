"""What is asked of the servers: workloads, their clients, and what is shown of them. It knows neither programs nor
processes."""

from dataclasses import dataclass, field, replace

# What a client may be. The windows of HTTP/2 are what makes them differ.
CLIENTS = {
    "tuned": "`outflow bench`, large windows and frames",
    "frames-16k": "`outflow bench`, large windows, frames of 16 KiB",
    "small": "`outflow bench`, windows of 64 KiB and frames of 16 KiB",
    "grpc-go": "stock grpc-go, default windows, frames of 16 KiB",
    "own": "each system's own client",
    "fetch": "`outflow fetch`, which prints them, into /dev/null",
    "outflow-client": "Outflow's client library, each response decoded",
    "tonic-client": "tonic's generated client, large windows",
}


@dataclass(frozen=True)
class Transport:
    """How servers are spoken with: what more they and their clients are told for it. A run has one."""

    says: str
    scheme: str  # of an address, for `outflow`
    outflow: tuple[str, ...] = ()  # more of `outflow serve`'s arguments
    peers: tuple[str, ...] = ()  # of each other server of the contract
    clients: tuple[str, ...] = ()  # of each client that is a program of its own
    left_out: tuple[str, ...] = ()  # servers that have no such thing


TRANSPORTS = {"plain": Transport("plain text", "http")}

# Who asks for so little CPU that more is asked of it, and who for so much that less says as much.
FAST, SLOW = ("outflow", "outflow-again", "outflow-emit", "tcp", "nginx"), ("grpc-go", "grpc-cpp")
ORDINALS = {5: "fifth"}
ALL_CLIENTS = ("tuned", "small", "grpc-go")
PLAIN_SERVERS = (
    "outflow", "outflow-again", "outflow-emit", "grpc-go", "tonic-mpsc", "tonic-ready", "connect-rust", "grpc-cpp",
    "tcp", "nginx",
)  # fmt: skip

KIB = 1024
# Padding is counted without the text and the head of a message; with them each is at most the size that it is named for,
# and none is longer than the server's limit of 1 MiB, so that nothing is split.
PADDING_SPARE = 64


@dataclass(frozen=True)
class Load:
    """What a client is told to do."""

    responses: int
    calls: int | None = None
    seconds: float | None = None
    connections: int = 1
    streams: int = 1
    size: int = 0
    every: str | None = None
    stamps: bool = False
    id: int = 1
    source: str | None = None
    linger: str | None = None
    batch_bytes: int | None = None  # of JetStream messages made by hand

    def parameters(self, *, batch: bool) -> list[str]:
        """As NAME=VALUE. `jobs`, `step` and `batch` mean something to outflow only; all servers are told them."""
        named = [("jobs", "1"), ("step", "0s"), ("responses", str(self.responses))]
        if self.size:
            named.append(("size", str(self.size)))
        if self.every:
            named.append(("every", self.every))
        if self.stamps:
            named.append(("stamp", "true"))
        if batch and self.every is None and not self.size and self.responses > 1:
            named.append(("batch", "64"))
        return [f"{name}={value}" for name, value in named]


@dataclass(frozen=True)
class Workload:
    """One load for some clients and servers, and the metrics that its table shows, the main one first."""

    name: str
    title: str
    about: str
    load: Load
    warm_up: Load
    columns: tuple[str, ...]
    clients: tuple[str, ...] = ALL_CLIENTS
    servers: tuple[str, ...] = PLAIN_SERVERS
    kind: str = "whole"  # or "window": the server is looked at while the client is at work
    no_worse: tuple[str, ...] = ()  # where outflow is to be no worse than any gRPC server
    loads: dict[str, Load] = field(default_factory=dict)  # of servers for which the load is another one
    window: tuple[float, float] = (0.0, 0.0)  # seconds from the client's start, where the server is looked at
    seconds_max: float = 180.0
    about_seconds: float = 0.0  # a measurement takes so long, for the first estimate; 0: nobody knows
    times: int = 1  # our client asks the fast servers for so many times the calls, one after another
    part: int = 1  # slow servers are asked for this part of each call's responses
    by_client: bool = False  # one server, and it is its clients that are compared

    def load_of(self, client: str, server: str) -> Load:
        """What a server is asked for: the same responses, so many that its CPU can be told, and no more."""
        load = self.loads.get(server, self.load)
        if server in FAST and client != "grpc-go" and load.calls is not None:
            return replace(load, calls=load.calls * self.times)
        if server in SLOW:
            return replace(load, responses=max(1, load.responses // self.part))
        return load

    @property
    def amounts(self) -> str:
        """Who is asked for more or for less."""
        told = []
        if self.times > 1:
            told.append(
                f"Outflow, raw TCP and nginx are asked by `outflow bench` for {self.times} times as many calls: fewer would "
                "take them too little CPU to be told."
            )
        if self.part > 1:
            told.append(f"Grpc-go and gRPC C++ are asked for a {ORDINALS[self.part]} of the responses. Cost is per response.")
        return "".join(f" {sentence}" for sentence in told)


def bulk(title: str, size: int, total: int, quick: bool) -> Workload:
    padding = size - PADDING_SPARE
    load = Load(responses=max(4, total // size), calls=1, size=padding)
    return Workload(
        name=f"bulk-{size // KIB}k",
        title=f"1 GiB in responses of {title}" if not quick else f"Responses of {title}",
        about=f"One stream of {load.responses:,} responses with {padding:,} bytes of padding each: with its text and head "
        f"each message is just below {title}, so that no server splits any.",
        load=load,
        warm_up=replace(load, responses=max(4, load.responses // 16)),
        columns=("cpu_gib", "gib_rate", "peak", "client_cpu"),
        clients=("tuned", "frames-16k", "small", "grpc-go"),
        no_worse=("cpu_gib", "gib_rate"),
        about_seconds=1.5,
        times=2,
    )


def plain_workloads(part: int) -> list[Workload]:
    small = ("cpu", "rate", "first_p50", "peak", "message")
    million = 1_000_000 // part
    stream = Load(responses=5 * million, calls=1)
    arena = Load(responses=5_000, seconds=3.0 if part == 1 else 0.5, connections=64, streams=4)
    return [
        Workload(
            "stream", "One stream of small responses",
            f"One call of {stream.responses:,} responses with a text of 19 bytes, about 24 bytes a message.",
            stream, replace(stream, responses=million // 5), small, no_worse=("cpu", "rate"),
            about_seconds=2.5, times=5, part=5,
        ),
        Workload(
            "streams", "16 streams on one connection",
            f"16 calls of {stream.responses // 16:,} small responses at once on one connection.",
            replace(stream, responses=stream.responses // 16, calls=16, streams=16),
            Load(responses=max(1, million // 80), calls=16, streams=16), small, no_worse=("cpu", "rate"),
            about_seconds=2.5, times=5, part=5,
        ),
        Workload(
            "arena", "64 connections of 4 streams",
            f"The shape of HttpArena's `stream-grpc` test: calls of {arena.responses:,} small responses for "
            f"{arena.seconds:g} seconds, over 64 connections with 4 streams at once on each.",
            arena, replace(arena, seconds=0.5 if part == 1 else 0.2),
            ("cpu", "per_core", "rate", "first_p50", "peak", "client_cpu"), no_worse=("cpu", "rate"), about_seconds=4,
        ),
        *[
            bulk(title, size * KIB, KIB**3 // part, part > 1)
            for title, size in (("16 KiB", 16), ("64 KiB", 64), ("1 MiB", 1024))
        ],
        Workload(
            "first", "Time to the first response",
            f"{10_000 // part:,} calls of one response, one after another on one connection.",
            Load(responses=1, calls=10_000 // part), Load(responses=1, calls=1_000 // part),
            ("first_p50", "first_p99", "cpu"), clients=("tuned", "grpc-go"), no_worse=("first_p50", "cpu"), about_seconds=2,
        ),
        Workload(
            "latency", "Latency at 1,000 responses a second",
            f"One stream of {5_000 // part:,} responses, one each millisecond, each with the time of its emission. How "
            "windows are set makes no difference to it.",
            Load(responses=5_000 // part, calls=1, every="1ms", stamps=True),
            Load(responses=200 // part, calls=1, every="1ms", stamps=True),
            ("latency_p50", "latency_p99", "latency_p999", "load"), clients=("tuned", "grpc-go"),
            no_worse=("latency_p50", "latency_p99", "load"), about_seconds=5.5,
        ),
        *idle_workloads(part),
    ]  # fmt: skip


def idle_workloads(part: int) -> list[Workload]:
    streams = 1_000 // part
    # Of a quick run too short for what it says, but long enough to see that it runs.
    pause, idle_window, slow_window = (6, (3.5, 5.5), (2.5, 6.5)) if part == 1 else (2, (0.5, 1.5), (0.5, 1.5))
    idle = Load(responses=2, calls=10 * streams, connections=10, streams=streams, every=f"{pause}s")
    slow = replace(idle, responses=8 if part == 1 else 4, every="1s")
    warm_up = Load(responses=1, calls=100, connections=10, streams=10)

    def looked_at(window: tuple[float, float]) -> str:
        return f"{window[0]:g} to {window[1]:g} seconds after the client's start"

    return [
        Workload(
            "idle", f"{idle.calls:,} idle streams",
            f"{streams:,} streams on each of 10 connections; each has had one response and waits {pause} seconds for the "
            f"next. Resident memory {looked_at(idle_window)}, less what the server had before, over the number of streams.",
            idle, warm_up, ("stream_memory", "load", "peak"), clients=("tuned", "grpc-go"),
            kind="window", window=idle_window, no_worse=("stream_memory",), about_seconds=pause + 1.0,
        ),
        Workload(
            "slow", f"{idle.calls:,} streams of one response a second",
            f"{streams:,} streams on each of 10 connections, one response a second on each. Server CPU "
            f"{looked_at(slow_window)}.",
            slow, warm_up, ("load", "stream_memory", "peak"), clients=("tuned", "grpc-go"),
            kind="window", window=slow_window, no_worse=("load",), about_seconds=pause + 2.0,
        ),
    ]  # fmt: skip


def shared_workloads(part: int) -> list[Workload]:
    found = []
    for readers, responses in ((1, 5_000_000), (100, 500_000), (1_000, 50_000)):
        connections = min(10, readers)
        load = Load(responses=max(1, responses // part), calls=readers, connections=connections,
                    streams=readers // connections, source="shared", id=2)  # fmt: skip
        found.append(
            Workload(
                f"fan-out-{readers}", f"One run, {readers:,} reader{'s' if readers > 1 else ''}",
                f"One run of {load.responses:,} small responses, which is carried out once, and "
                + ("one reader of it." if readers == 1 else f"{readers:,} readers of it on {connections} connections.")
                + " Cost is per response delivered.",
                load, Load(responses=100, calls=1, source="shared", id=3), ("cpu", "rate", "peak", "client_cpu"),
                clients=("tuned",), servers=("outflow", "outflow-disk"),
            )
        )  # fmt: skip
    return found


def journaled_workloads(part: int) -> list[Workload]:
    runs = 1_000
    warm_up = Load(responses=10, calls=100, connections=10, streams=10, linger="1m")
    load = Load(responses=5_000 // part, calls=runs, connections=10, streams=100, linger="1m")
    fewer = replace(load, responses=max(1, 200 // part))
    batches = {server: replace(load, batch_bytes=65_536) for server in ("jetstream-batches", "jetstream-sync-batches")}
    seconds = 5 if part == 1 else 1
    latency = Load(responses=10 * seconds, calls=runs, connections=10, streams=100, every="100ms", stamps=True, linger="1m")
    quiet = replace(latency, responses=5 * seconds, calls=100, streams=10, every="200ms")
    return [
        Workload(
            "journaled", "1,000 journaled runs at once",
            f"Each of {runs:,} runs has one reader and {load.responses:,} small responses; of JetStream with one message a "
            f"response {fewer.responses:,}, and where it syncs each of them {max(1, 5 // part)}. Outflow shows a response "
            "only when it is on disk; JetStream confirms before that unless `sync_interval` is `always`. Its batches are "
            "made by the publisher: 64 KiB of responses in one message.",
            load, warm_up, ("rate_thousand", "cpu", "peak"), clients=("own",),
            servers=("outflow-disk", "jetstream", "jetstream-sync", "jetstream-batches", "jetstream-sync-batches", "s2-lite"),
            loads=batches | {"jetstream": fewer, "jetstream-sync": replace(load, responses=max(1, 5 // part))},
        ),
        Workload(
            "journaled-latency", "Journaled latency, 1,000 runs of 10 responses a second",
            "From emission to receipt, 10,000 responses a second in all.",
            latency, warm_up, ("latency_p50", "latency_p99", "latency_p999", "load"), clients=("own",),
            servers=("outflow-disk", "jetstream"),
        ),
        Workload(
            "journaled-quiet", "Journaled latency, 100 runs of 5 responses a second",
            "From emission to receipt, 500 responses a second in all, which a JetStream that syncs each message can follow.",
            quiet, warm_up, ("latency_p50", "latency_p99", "latency_p999", "load"), clients=("own",),
            servers=("outflow-disk", "jetstream", "jetstream-sync"),
        ),
        Workload(
            "replay", "Replay of an ended run",
            f"A run of {5_000_000 // part:,} small responses has ended, and the server was started again; then one reader "
            "has it from the start.",
            Load(responses=5_000_000 // part, calls=1, source="shared", id=2),
            Load(responses=5_000_000 // part, calls=1, source="shared", id=2),
            ("cpu", "rate", "first_p50", "peak"), clients=("tuned", "small", "grpc-go"), servers=("outflow-disk",),
            kind="replay",
        ),
        Workload(
            "library", "The client library",
            f"One stream of {5_000_000 // part:,} small responses of outflow's, read by programs that decode each response and "
            "look at its sequence. `outflow fetch` is the library too, and prints them.",
            Load(responses=5_000_000 // part, calls=1), Load(responses=1_000, calls=1), ("client_cpu", "rate"),
            clients=("outflow-client", "tonic-client", "grpc-go", "fetch"), servers=("outflow",), by_client=True,
            about_seconds=3,
        ),
    ]  # fmt: skip


def workloads(*, quick: bool) -> list[Workload]:
    """All of them; quick ones have a hundredth of the work, to see that they run."""
    part = 100 if quick else 1
    return plain_workloads(part) + shared_workloads(part) + journaled_workloads(part)


def left_out(workload: Workload, client: str, server: str, transport: str = "plain") -> str | None:
    """Why a server is not measured with this workload and client, where it is not."""
    if server in TRANSPORTS[transport].left_out:
        return f"does not speak {TRANSPORTS[transport].says}"
    paced = workload.load.every is not None
    if server == "tcp":
        if client == "grpc-go":
            return "speaks no HTTP/2"
        if client in ("small", "frames-16k"):
            return "has neither HTTP/2's windows nor its frames: see the tuned client"
        if workload.load.streams > 1:
            return "has one stream a connection"
    if server == "nginx" and paced:
        return "serves a file, which has no pace and no stamps"
    if server == "outflow-emit" and (paced or workload.load.responses == 1 or workload.load.size):
        return "is outflow itself where responses are paced, large or alone: each is handed over by itself"
    return None
