"""What was set out to be reached, and whether it was: computed from the medians of one run, never written by hand."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .figures import METRICS, Results, number
from .workloads import Workload

SMALL, BULK = ("stream", "streams"), ("bulk-16k", "bulk-64k", "bulk-1024k")
GRPC_SERVERS = ("grpc-go", "tonic-mpsc", "tonic-ready")


@dataclass(frozen=True)
class Goal:
    """A bound on a metric of outflow, or on its ratio to another server's, or with another client."""

    says: str
    workload: str
    client: str
    metric: str
    bound: float
    versus: str | None = None
    server: str = "outflow"
    at_least: bool = False
    versus_client: str | None = None  # of the same server

    @property
    def compared(self) -> tuple[str, str] | None:
        """The client and the server that the ratio is to. Raw TCP has no frames, and is measured with the tuned client
        only."""
        if self.versus_client is not None:
            return self.versus_client, self.server
        if self.versus is None:
            return None
        return "tuned" if self.versus == "tcp" else self.client, self.versus


@dataclass(frozen=True)
class Verdict:
    """One line of the page."""

    says: str
    where: str
    wanted: str
    measured: str
    reached: bool | None  # `None`: not measured
    spread: str = "–"  # the lowest and the highest round
    rounds: tuple[int, int] = (0, 0)  # in how many of how many rounds it was reached
    beyond: float = 0.0  # by what part of the bound it was missed


def less(says: str, workloads: Iterable[str], client: str, metric: str, versus: str, bound: float) -> list[Goal]:
    return [Goal(says, workload, client, metric, bound, versus) for workload in workloads]


GOALS: list[Goal] = [
    *less("small responses: at most 1/30 of grpc-go", SMALL, "tuned", "cpu", "grpc-go", 1 / 30),
    *less("small responses: at most 1/6 of tonic, mpsc", SMALL, "tuned", "cpu", "tonic-mpsc", 1 / 6),
    *less("small responses: at most 1/2.5 of tonic, ready stream", SMALL, "tuned", "cpu", "tonic-ready", 1 / 2.5),
    *less("small responses: at most 1.6 × raw TCP", ("stream",), "tuned", "cpu", "tcp", 1.6),
    *less("small responses, stock grpc-go client: at most 1/20 of grpc-go", SMALL, "grpc-go", "cpu", "grpc-go", 1 / 20),
    Goal("HttpArena's shape: 25 million responses per server core-second", "arena", "tuned", "per_core", 25, at_least=True),
    *less("bulk, large windows: at most 1/1.8 of grpc-go", BULK, "tuned", "cpu_gib", "grpc-go", 1 / 1.8),
    *[
        Goal("bulk, frames of 16 KiB: at most 1.25 × raw TCP", workload, "frames-16k", "cpu_gib", 1.25, "tcp")
        for workload in BULK
    ],
    *less("bulk, large frames: at most 1.1 × raw TCP", BULK, "tuned", "cpu_gib", "tcp", 1.1),
    *[
        Goal(f"latency: {metric[8:]} at most 0.6 × grpc-go", "latency", client, metric, 0.6, "grpc-go")
        for client in ("tuned", "grpc-go")
        for metric in ("latency_p50", "latency_p99")
    ],
    Goal("an idle stream: at most 4 KiB resident", "idle", "tuned", "stream_memory", 4),
    Goal("an idle stream: about half of grpc-go's", "idle", "tuned", "stream_memory", 0.5, "grpc-go"),
    *[
        Goal(f"time to first response: at most that of {server}", "first", "tuned", "first_p50", 1, server)
        for server in ("tonic-mpsc", "tonic-ready")
    ],
    Goal("journaled: 40 × JetStream, a message a response", "journaled", "own", "rate_thousand", 40, "jetstream",
         "outflow-disk", at_least=True),
    *[
        Goal("journaled: p50 no worse than JetStream's, which has not yet synced", workload, "own", "latency_p50", 1,
             "jetstream", "outflow-disk")
        for workload in ("journaled-latency", "journaled-quiet")
    ],
    Goal("journaled: 1.5 × JetStream's batches where it syncs too", "journaled", "own", "rate_thousand", 1.5,
         "jetstream-sync-batches", "outflow-disk", at_least=True),
    Goal("journaled: 20 × s2-lite", "journaled", "own", "rate_thousand", 20, "s2-lite", "outflow-disk", at_least=True),
    Goal("client library: at most 0.05 CPU seconds per million small responses", "library", "outflow-client", "client_cpu",
         0.05),
    Goal("client library: at most 1/2 of tonic's client", "library", "outflow-client", "client_cpu", 0.5,
         versus_client="tonic-client"),
]  # fmt: skip


def judge(results: Results, goal: Goal) -> Verdict:
    """By the medians; beside that what each round by itself would say."""
    compared = goal.compared
    unit = "×" if compared else METRICS[goal.metric].unit
    sign = "≥" if goal.at_least else "≤"
    where = f"{goal.workload}, {goal.client}"
    wanted = f"{sign} {number(goal.bound)} {unit}"
    figure, rounds = measured(results, goal.workload, goal.client, goal.server, goal.metric)
    if figure is None:
        return Verdict(goal.says, where, wanted, "not measured", None)
    if compared:
        other, others = measured(results, goal.workload, *compared, goal.metric)
        if not other:
            return Verdict(goal.says, where, wanted, "not measured", None)
        figure /= other
        rounds = {turn: value / others[turn] for turn, value in rounds.items() if others.get(turn)}
    values = rounds.values()
    return Verdict(
        goal.says, where, wanted, f"{number(figure)} {unit}", reaches(goal, figure),
        spread=f"{number(min(values))}–{number(max(values))}" if len(values) > 1 else "–",
        rounds=(sum(reaches(goal, value) for value in values), len(values)), beyond=abs(figure - goal.bound) / goal.bound,
    )  # fmt: skip


def measured(results: Results, workload: str, client: str, server: str, metric: str) -> tuple[float | None, dict[int, float]]:
    """The median, and each round's."""
    figure = results.figure(workload, client, server, metric)
    return figure and figure.median, results.by_round(workload, client, server, metric)


def reaches(goal: Goal, value: float) -> bool:
    return value >= goal.bound if goal.at_least else value <= goal.bound


@dataclass(frozen=True)
class Loss:
    """A row in which outflow is slower or dearer than a gRPC server."""

    workload: str
    client: str
    metric: str
    server: str
    versus: str
    ratio: float
    control: float | None  # the same server twice: a loss of no more than that says nothing

    @property
    def noise(self) -> bool:
        """Whether the same server differs as much from itself."""
        return self.control is not None and abs(math.log(self.ratio)) <= abs(math.log(self.control))


def losses(results: Results, workloads: Iterable[Workload]) -> tuple[int, list[Loss]]:
    """In how many comparisons outflow stands beside grpc-go and tonic, and those that it loses by their medians."""
    compared, lost = 0, []
    for workload in workloads:
        for client in workload.clients:
            for server in ("outflow", "outflow-emit"):
                for versus in GRPC_SERVERS:
                    for metric in workload.no_worse:
                        ratio = results.ratio(workload.name, client, server, versus, metric)
                        if ratio is None:
                            continue
                        compared += 1
                        if ratio < 1 if METRICS[metric].more_is_better else ratio > 1:
                            control = results.ratio(workload.name, client, "outflow-again", "outflow", metric)
                            lost.append(Loss(workload.name, client, metric, server, versus, ratio, control))
    return compared, lost


def verdicts(results: Results, workloads: Iterable[Workload]) -> list[Verdict]:
    """All lines, in the order in which the goals were set."""
    compared, lost = losses(results, workloads)
    noise = sum(1 for loss in lost if loss.noise)
    measured = f"{len(lost)} of {compared} comparisons lost" if compared else "not measured"
    if noise:
        measured += f", {noise} of them by no more than outflow differs from itself"
    every_row = Verdict(
        "never slower or dearer than grpc-go or tonic in any row", "all rows", "0 lost", measured,
        not lost if compared else None,
    )  # fmt: skip
    return [*(judge(results, goal) for goal in GOALS), every_row]
