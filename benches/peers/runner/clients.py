"""The clients: the command line of each, and what they print, in one shape."""

import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any

from .process import Failure, Process, Supervisor, process_cpu_seconds
from .servers import CLIENT_PROGRAMS, Programs, Running, Server
from .workloads import Load, Transport

# As far as HTTP/2 goes, and as our own client library has it.
LARGE = ["--window", str(16 * 1024 * 1024), "--frame", str(1024 * 1024)]
WINDOWS = {
    "tuned": LARGE,
    "own": LARGE,
    "frames-16k": [*LARGE[:3], str(16 * 1024)],
    "small": ["--window", "65535", "--frame", str(16 * 1024)],
}
# In one stream each consumer would pass over the messages of all other runs.
JETSTREAM_STREAMS = 100
S2_STREAMS = 16
S2_BENCH_SECONDS = 5


@dataclass
class Client:
    """A client's processes and how what they print is read."""

    processes: list[Process]
    command: list[str]
    load: Load
    began: float

    def report(self, seconds_max: float) -> dict[str, Any]:
        """Waits for its good end, and gives what it measured."""
        for process in self.processes:
            process.wait(max(1.0, seconds_max - (time.monotonic() - self.began)))
        name = self.processes[0].name
        if name == "s2-bench":
            return s2_report([process.stderr.read_text(errors="replace") for process in self.processes])
        if name == "fetch":
            # It ended just now and is not waited for yet, so its account is still there.
            return fetch_report(self.load, time.monotonic() - self.began, process_cpu_seconds(self.processes[0].pid))
        return check(parse(self.processes[0].stdout.read_text()))


def parse(text: str) -> dict[str, Any]:
    try:
        report = json.loads(text)
    except json.JSONDecodeError:
        raise Failure(f"the client printed no JSON: {text[:200]!r}") from None
    if not isinstance(report, dict):
        raise Failure(f"the client printed no JSON object: {text[:200]!r}")
    return report


def check(report: dict[str, Any]) -> dict[str, Any]:
    """A measurement in which something went wrong is none."""
    missing = [key for key in ("statuses", "sequence_errors", "responses", "connections", "streams") if key not in report]
    if missing:
        raise Failure(f"the client said nothing of {', '.join(missing)}")
    wrong = {status: count for status, count in report["statuses"].items() if status != "OK" and count}
    if wrong:
        raise Failure("calls ended with " + ", ".join(f"{status} ({count})" for status, count in wrong.items()))
    if report["sequence_errors"]:
        raise Failure(f"{report['sequence_errors']} responses were out of sequence")
    if not report["responses"]:
        raise Failure("no response came")
    return report


def command(client: str, server: Server, running: Running, load: Load, programs: Programs, transport: Transport) -> list[str]:
    """What the client is started with."""
    address = f"127.0.0.1:{running.port}"
    parameters = load.parameters(batch=server.program == "outflow" and server.name != "outflow-emit")
    if client in CLIENT_PROGRAMS:
        line = [programs.path(CLIENT_PROGRAMS[client]), "-server", address, *transport.clients]
        dash, parameter = "-", "-param"
    elif server.program == "nats-server":
        return jetstream_command(server, running, load, programs)
    elif client == "fetch":
        line = [programs.path("outflow"), "fetch", str(load.id), "--server", f"{transport.scheme}://{address}"]
        line += ["--format", "plain"]
        return line + [word for value in parameters for word in ("--param", value)]
    else:
        scheme = "tcp" if server.name == "tcp" else transport.scheme
        line = [programs.path("outflow"), "bench", str(load.id), "--server", f"{scheme}://{address}", "--format", "json"]
        line += WINDOWS[client]
        dash, parameter = "--", "--param"
    if client in CLIENT_PROGRAMS and load.id != 1:
        line += ["-id", str(load.id)]
    for value in parameters:
        line += [parameter, value]
    line += [f"{dash}connections", str(load.connections), f"{dash}streams", str(load.streams)]
    if load.seconds:
        line += [f"{dash}for", f"{round(load.seconds * 1000)}ms"]
    else:
        line += [f"{dash}calls", str(load.calls or load.connections * load.streams)]
    if load.source:
        line += [f"{dash}source", load.source]
    if load.linger and server.program == "outflow":
        line += [f"{dash}linger", load.linger]
    if load.stamps:
        line.append(f"{dash}stamps")
    return line


def jetstream_command(server: Server, running: Running, load: Load, programs: Programs) -> list[str]:
    line = [programs.path("jetstream"), "-servers", f"nats://127.0.0.1:{running.port}"]
    line += ["-runs", str(load.calls), "-messages", str(load.responses), "-spread", str(JETSTREAM_STREAMS)]
    if load.batch_bytes:
        line += ["-batch-bytes", str(load.batch_bytes)]
    if load.every:
        line += ["-every", load.every]
    return line


def start(
    client: str, server: Server, running: Running, load: Load, programs: Programs, supervisor: Supervisor, transport: Transport
) -> Client:
    if server.name == "s2-lite":
        return start_s2(running, load, programs, supervisor)
    line = command(client, server, running, load, programs, transport)
    began = time.monotonic()
    if client == "fetch":
        return Client([supervisor.start(line, "fetch", silent=True)], line, load, began)
    return Client([supervisor.start(line, f"client-{client}")], line, load, began)


def start_s2(running: Running, load: Load, programs: Programs, supervisor: Supervisor) -> Client:
    """Its own load client has one stream, so there are several of it, each with a basin of its own."""
    program = programs.path("s2")
    endpoint = f"http://127.0.0.1:{running.port}"
    environment = {"S2_ACCOUNT_ENDPOINT": endpoint, "S2_BASIN_ENDPOINT": endpoint, "S2_ACCESS_TOKEN": "none"}
    seconds = S2_BENCH_SECONDS if load.responses >= 1_000 else 1
    processes, began = [], time.monotonic()
    for n in range(S2_STREAMS):
        basin = f"outflow-bench-{n:02}-{os.getpid()}"
        made = supervisor.start([program, "create-basin", basin], "s2-basin", environment)
        made.wait(30)
        supervisor.stop(made)
        line = [program, "bench", basin, "--record-size", "128", "--target-mibps", "1000", "--duration", f"{seconds}s"]
        line += ["--catchup-delay", "0s"]
        processes.append(supervisor.start(line, "s2-bench" if n == 0 else f"s2-bench-{n}", environment))
    return Client(processes, line, load, began)


READ = re.compile(r"Read\S*: .*? (\d+) records/s \((\d+) bytes, (\d+) records in ([\d.]+)s\)")


def s2_report(outputs: list[str]) -> dict[str, Any]:
    """The sum of what `s2 bench` says that its tailing readers received."""
    records, size, rate, seconds = 0, 0, 0.0, 0.0
    for output in outputs:
        # In colours where it thinks that it should.
        found = READ.search(re.sub(r"\x1b\[[0-9;]*m", "", output))
        if found is None:
            raise Failure(f"s2 bench said nothing of what was read: {output[-200:]!r}")
        rate += float(found[1])
        size += int(found[2])
        records += int(found[3])
        seconds = max(seconds, float(found[4]))
    return {
        "connections": len(outputs), "streams": 1, "calls": len(outputs), "seconds": seconds, "responses": records,
        "bytes": size, "responses_per_second": rate, "bytes_per_second": size / seconds if seconds else None,
        "first_response_us": None, "gap_us": None, "total_us": None, "latency_us": None, "statuses": {"OK": len(outputs)},
        "sequence_errors": 0, "client_cpu_seconds": None,
    }  # fmt: skip


def fetch_report(load: Load, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    return {
        "connections": 1, "streams": 1, "calls": 1, "seconds": seconds, "responses": load.responses, "bytes": None,
        "responses_per_second": load.responses / seconds, "bytes_per_second": None, "first_response_us": None,
        "gap_us": None, "total_us": None, "latency_us": None, "statuses": {"OK": 1}, "sequence_errors": 0,
        "client_cpu_seconds": cpu_seconds,
    }  # fmt: skip
