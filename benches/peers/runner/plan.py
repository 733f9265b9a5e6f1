"""Which measurements a run has, in which order, and when they will be done. It starts nothing."""

import argparse
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean

from .results import Key, Raw
from .servers import CLIENT_PROGRAMS, SERVERS
from .workloads import Workload, left_out, workloads

Cell = tuple[Workload, str, list[str]]
# Of a workload about which nothing is known yet.
GUESS_SECONDS = 3.0


def selected(options: argparse.Namespace, workload: str, client: str, server: str) -> bool:
    """Whether the command line speaks of it."""
    return (
        (not options.workload or workload in options.workload)
        and (not options.client or client in options.client)
        and (not options.only or server in options.only)
    )


def cells(options: argparse.Namespace, programs: Iterable[str]) -> list[Cell]:
    """What is measured in each round: for each workload and client the servers that can do it."""
    found: list[Cell] = []
    for workload in workloads(quick=options.quick):
        for client in workload.clients:
            if CLIENT_PROGRAMS.get(client, "outflow") not in programs:
                continue
            servers = [
                server
                for server in workload.servers
                if selected(options, workload.name, client, server)
                and SERVERS[server].program in programs
                and left_out(workload, client, server, options.transport) is None
            ]
            if servers:
                found.append((workload, client, servers))
    return found


def rotated(servers: list[str], turn: int) -> list[str]:
    """Round for round another one is the first."""
    at = (turn - 1) % len(servers)
    return servers[at:] + servers[:at]


@dataclass(frozen=True)
class Step:
    """One measurement to come."""

    turn: int
    workload: Workload
    client: str
    server: str

    @property
    def key(self) -> Key:
        return self.turn, self.workload.name, self.client, self.server


def steps(todo: Iterable[Cell], rounds: int, done: set[Key]) -> list[Step]:
    """In rounds, without those that were done before."""
    cells = list(todo)
    every = [
        Step(turn, workload, client, server)
        for turn in range(1, rounds + 1)
        for workload, client, servers in cells
        for server in rotated(servers, turn)
    ]
    return [step for step in every if step.key not in done]


@dataclass
class Estimate:
    """How long what is left will take: as long as it took before, or as long as the same workload took with others."""

    rows: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Raw) -> "Estimate":
        estimate = cls()
        for sample in raw["samples"]:
            estimate.learn(sample)
        return estimate

    def learn(self, sample: Mapping[str, object]) -> None:
        seconds = sample.get("took_seconds")
        if isinstance(seconds, float):
            row = str(sample["workload"]), str(sample["client"]), str(sample["server"])
            self.rows.setdefault(row, []).append(seconds)

    def seconds(self, left: Iterable[Step]) -> float:
        by_client: dict[tuple[str, str], list[float]] = {}
        by_workload: dict[str, list[float]] = {}
        for (workload, client, _), took in self.rows.items():
            by_client.setdefault((workload, client), []).extend(took)
            by_workload.setdefault(workload, []).extend(took)
        total = 0.0
        for step in left:
            name, client = step.workload.name, step.client
            known = self.rows.get((name, client, step.server)) or by_client.get((name, client)) or by_workload.get(name)
            total += mean(known) if known else step.workload.about_seconds or GUESS_SECONDS
        return total


def until(seconds: float, now: datetime.datetime) -> str:
    """A time of day."""
    return f"{now + datetime.timedelta(seconds=seconds):%H:%M}"
