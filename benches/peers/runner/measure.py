"""One measurement: a server of its own, something to warm it up, the client, and what the operating system says of the
server meanwhile."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from . import clients, servers
from .process import Failure, Memory, Process, Supervisor
from .servers import SERVERS, Programs, Running, Server
from .workloads import TRANSPORTS, Load, Workload

LOOK_SECONDS = 0.25


@dataclass
class Measured:
    """What was seen of a server while a client was at work."""

    cpu_seconds: float
    window_seconds: float
    report: dict[str, Any]
    resident_before: int
    resident_idle: int | None
    peak: int


@dataclass
class Bench:
    """What every measurement needs."""

    programs: Programs
    supervisor: Supervisor
    folder: Path
    transport: str = "plain"

    def sample(self, workload: Workload, client: str, server: str, turn: int) -> dict[str, Any]:
        """Measures, and says why not where that fails. Nothing that was started for it is left."""
        sample: dict[str, Any] = {
            "round": turn, "workload": workload.name, "client": client, "server": server, "transport": self.transport,
        }  # fmt: skip
        data = self.folder / "data"
        servers.remove_data(data)
        began = time.monotonic()
        try:
            measured, commands = self.measure(workload, client, SERVERS[server], data)
        except (Failure, OSError) as failure:
            return sample | {"failure": self.public(str(failure))}
        finally:
            for process in reversed(list(self.supervisor.running)):
                self.supervisor.stop(process)
            servers.remove_data(data)
        return sample | {
            "took_seconds": time.monotonic() - began,
            "server_cpu_seconds": measured.cpu_seconds,
            "window_seconds": measured.window_seconds,
            "resident_before_bytes": measured.resident_before,
            "resident_idle_bytes": measured.resident_idle,
            "peak_bytes": measured.peak,
            "client_report": {key: value for key, value in measured.report.items() if key != "target"},
            "commands": [self.public(" ".join(line)) for line in commands],
        }

    def measure(self, workload: Workload, client: str, server: Server, data: Path) -> tuple[Measured, list[list[str]]]:
        load = workload.load_of(client, server.name)
        running = self.warm(workload, client, server, data)
        before = running.process.memory().resident
        began, cpu = time.monotonic(), running.process.cpu_seconds()
        started = self.client(client, server, running, load)
        if workload.kind == "window":
            cpu_seconds, seconds, idle = look(running.process, workload.window, began)
            report = started.report(workload.seconds_max)
            memory = running.process.memory()
        else:
            report = started.report(workload.seconds_max)
            cpu_seconds, seconds = running.process.cpu_seconds() - cpu, time.monotonic() - began
            memory, idle = running.process.memory(), None
        expect(report, load, server)
        lines = [shown(line, running) for line in (running.command, started.command)]
        return Measured(cpu_seconds, seconds, report, before, idle, memory.peak), lines

    def warm(self, workload: Workload, client: str, server: Server, data: Path) -> Running:
        """A server of its own that is ready and has served before."""
        load = workload.load_of(client, server.name)
        if server.journaled:
            os.sync()  # What others have written is not for this server to wait for.
        running = self.server(server, data, load)
        if workload.kind == "replay":
            # What is replayed is made first, and its maker has gone.
            self.run(workload, "tuned", server, running, workload.warm_up)
            self.supervisor.stop(running.process)
            running = self.server(server, data, load)
        elif server.name != "s2-lite":
            self.run(workload, client, server, running, workload.warm_up)
        return running

    def server(self, server: Server, data: Path, load: Load) -> Running:
        return servers.start(server, self.programs, self.supervisor, data, load, TRANSPORTS[self.transport])

    def client(self, client: str, server: Server, running: Running, load: Load) -> clients.Client:
        transport = TRANSPORTS[self.transport]
        return clients.start(client, server, running, load, self.programs, self.supervisor, transport)

    def run(self, workload: Workload, client: str, server: Server, running: Running, load: Load) -> None:
        """A client whose measurement nobody wants."""
        started = self.client(client, server, running, load)
        started.report(workload.seconds_max)
        for process in started.processes:
            self.supervisor.stop(process)

    def public(self, text: str) -> str:
        """Without this machine's paths, and with each program's own name, whichever file it is in."""
        for name, path in self.programs.paths.items():
            text = text.replace(str(path), name)
        return text.replace(str(self.folder), "WORK")


def look(process: Process, window: tuple[float, float], began: float) -> tuple[float, float, int]:
    """CPU seconds, seconds and resident memory of a process from here to there after the beginning."""
    pause_until(began + window[0])
    first, cpu = time.monotonic(), process.cpu_seconds()
    sizes: list[Memory] = []
    while time.monotonic() < began + window[1]:
        sizes.append(process.memory())
        pause_until(min(time.monotonic() + LOOK_SECONDS, began + window[1]))
    used, seconds = process.cpu_seconds() - cpu, time.monotonic() - first
    return used, seconds, int(median(size.resident for size in sizes))


def pause_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def expect(report: dict[str, Any], load: Load, server: Server) -> None:
    """A client that was given a number of calls has had all of their responses."""
    if load.seconds or server.name == "s2-lite":
        return
    wanted = load.responses * (load.calls or 1)
    if report["responses"] != wanted:
        raise Failure(f"{report['responses']:,} responses came and not {wanted:,}")


def shown(line: list[str], running: Running) -> list[str]:
    """A command as it is shown: another run has another port."""
    return [word.replace(str(running.port), "PORT") if ":" in word or word.isdigit() else word for word in line]
