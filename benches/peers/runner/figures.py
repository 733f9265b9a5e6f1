"""From samples to figures: what is computed of one measurement, and medians, spreads and ratios over rounds. It knows
neither processes nor pages."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure over the rounds in which it was measured."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    @property
    def spread(self) -> float:
        """From the lowest to the highest, as a part of the median."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0


@dataclass(frozen=True)
class Metric:
    """Something that can be computed of each sample."""

    name: str
    title: str
    unit: str
    of: Callable[[Sample], float | None]
    more_is_better: bool = False


def per(numerator: float | None, denominator: float | None, scale: float = 1.0) -> float | None:
    """A quotient, where there is one."""
    return None if numerator is None or not denominator else numerator / denominator * scale


def told(*path: str) -> Callable[[Sample], float | None]:
    """A number of what the client printed; `None` where it does not know, or counted nothing."""

    def of(sample: Sample) -> float | None:
        value: Any = sample["client_report"]
        for key in path:
            if not isinstance(value, Mapping):
                return None
            if "count" in value and not value["count"]:
                return None
            value = value.get(key)
        return None if value is None else float(value)

    return of


def cpu(sample: Sample) -> float | None:
    return sample.get("server_cpu_seconds")


def streams_of(sample: Sample) -> float | None:
    report = sample["client_report"]
    return float(report["connections"] * report["streams"]) or None


def memory_per_stream(sample: Sample) -> float | None:
    before, idle = sample.get("resident_before_bytes"), sample.get("resident_idle_bytes")
    return None if before is None or idle is None else per(idle - before, streams_of(sample), 1 / 1024)


MIB, GIB = 1024.0**2, 1024.0**3
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        Metric("cpu", "server CPU", "s per million responses", lambda s: per(cpu(s), told("responses")(s), 1e6)),
        Metric("cpu_gib", "server CPU", "s per GiB", lambda s: per(cpu(s), told("bytes")(s), GIB)),
        Metric("per_core", "per core", "million responses per server CPU second",
               lambda s: per(told("responses")(s), cpu(s), 1e-6), more_is_better=True),
        Metric("rate", "throughput", "million responses/s",
               lambda s: per(told("responses_per_second")(s), 1e6), more_is_better=True),
        Metric("rate_thousand", "throughput", "thousand responses/s",
               lambda s: per(told("responses_per_second")(s), 1e3), more_is_better=True),
        Metric("gib_rate", "throughput", "GiB/s", lambda s: per(told("bytes_per_second")(s), GIB), more_is_better=True),
        Metric("first_p50", "first response, p50", "µs", told("first_response_us", "p50")),
        Metric("first_p99", "first response, p99", "µs", told("first_response_us", "p99")),
        Metric("latency_p50", "emit to receipt, p50", "µs", told("latency_us", "p50")),
        Metric("latency_p99", "emit to receipt, p99", "µs", told("latency_us", "p99")),
        Metric("latency_p999", "emit to receipt, p99.9", "µs", told("latency_us", "p999")),
        Metric("load", "server CPU", "% of a core", lambda s: per(cpu(s), s.get("window_seconds"), 100)),
        Metric("stream_memory", "resident per stream", "KiB", memory_per_stream),
        Metric("peak", "peak memory", "MiB", lambda s: per(s.get("peak_bytes"), MIB)),
        Metric("client_cpu", "client CPU", "s per million responses",
               lambda s: per(told("client_cpu_seconds")(s), told("responses")(s), 1e6)),
        Metric("message", "message", "bytes", lambda s: per(told("bytes")(s), told("responses")(s))),
    ]
}  # fmt: skip


Row = tuple[str, str, str]  # workload, client, server


class Results:
    """The samples of a run by row, without those that failed."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.rows: dict[Row, list[Sample]] = {}
        self.failures: list[Sample] = []
        for sample in samples:
            if sample.get("failure"):
                self.failures.append(sample)
            else:
                row = (sample["workload"], sample["client"], sample["server"])
                self.rows.setdefault(row, []).append(sample)

    def figure(self, workload: str, client: str, server: str, metric: str) -> Figure | None:
        """`None` where it was not measured, or only in some of the rounds that were measured otherwise."""
        values = [METRICS[metric].of(sample) for sample in self.rows.get((workload, client, server), [])]
        known = [value for value in values if value is not None]
        return Figure(tuple(known)) if known and len(known) == len(values) else None

    def by_round(self, workload: str, client: str, server: str, metric: str) -> dict[int, float]:
        """The same by round, for what is compared within rounds."""
        if self.figure(workload, client, server, metric) is None:
            return {}
        of = METRICS[metric].of
        return {sample["round"]: of(sample) or 0.0 for sample in self.rows[workload, client, server]}

    def ratio(self, workload: str, client: str, server: str, versus: str, metric: str) -> float | None:
        """Of the medians."""
        one, other = self.figure(workload, client, server, metric), self.figure(workload, client, versus, metric)
        return None if one is None or other is None else per(one.median, other.median)

    def servers(self, workload: str, client: str) -> list[str]:
        return [server for w, c, server in self.rows if (w, c) == (workload, client)]


def number(value: float) -> str:
    """With three significant digits, and no more zeros than that takes."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    if size >= 0.09995:
        return f"{value:.3f}"
    if size >= 0.0009995:
        return f"{value:.4f}"
    return f"{value:.2g}"
