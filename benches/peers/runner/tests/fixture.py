"""Raw results as a run would leave them, with figures that are easy to check."""

from typing import Any


def latencies(p50: float) -> dict[str, float]:
    return {"count": 10, "mean": p50, "p50": p50, "p90": p50, "p99": 2 * p50, "p999": 3 * p50, "max": 4 * p50}


def report(**changed: Any) -> dict[str, Any]:  # noqa: ANN401
    told: dict[str, Any] = {
        "connections": 1, "streams": 1, "calls": 1, "seconds": 2.0, "responses": 1_000_000, "bytes": 24_000_000,
        "responses_per_second": 500_000.0, "bytes_per_second": 12_000_000.0, "first_response_us": latencies(100.0),
        "gap_us": latencies(1.0), "total_us": latencies(5.0), "latency_us": None, "statuses": {"OK": 1}, "sequence_errors": 0,
        "client_cpu_seconds": 0.04,
    }  # fmt: skip
    return told | changed


def sample(turn: int, server: str, cpu: float, workload: str = "stream", client: str = "tuned", **told: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "round": turn, "workload": workload, "client": client, "server": server, "transport": "plain",
        "part": 0, "took_seconds": 3.0,
        "server_cpu_seconds": cpu, "window_seconds": 2.0, "resident_before_bytes": 10 * 1024**2,
        "resident_idle_bytes": None, "peak_bytes": 20 * 1024**2, "client_report": report(**told),
        "commands": [f"{server} --listen 127.0.0.1:0", "outflow bench"],
    }  # fmt: skip


GROWTH: dict[str, Any] = {
    "date": "2026-01-02", "took_seconds": 100.0, "svg": "<svg/>\n",
    "series": [
        {"axis": "readers of one run", "kept": "journaled", "points": [[1, 61.0], [1_000, 20.5]],
         "verdict": "falls: -9.0 % with each doubling"},
        {"axis": "runs at once", "kept": "plain", "points": [[1, 20.0], [1_000, 21.0]],
         "verdict": "flat: +0.5 % with each doubling"},
        {"axis": "runs at once", "kept": "journaled", "points": [[1, 40.0], [1_000, 90.0]],
         "verdict": "GROWS: 31 % above a logarithm at the end"},
    ],
}  # fmt: skip


def raw() -> dict[str, Any]:
    """Three rounds of one workload: grpc-go costs 40 times as much as outflow, raw TCP half of it."""
    samples = []
    for turn, factor in ((1, 1.0), (2, 0.9), (3, 1.2)):
        for server, cpu in (("outflow", 0.03), ("outflow-again", 0.033), ("grpc-go", 1.2), ("tcp", 0.015)):
            samples.append(sample(turn, server, cpu * factor))
    samples.append(
        {"round": 3, "workload": "stream", "client": "tuned", "server": "tonic-mpsc", "transport": "plain",
         "failure": "it was | not done after 180 s"}
    )  # fmt: skip
    return {
        "format": 2, "quick": False, "rounds": 3, "transport": "plain",
        "machine": {"CPU": "Some CPU", "cores": "2"}, "versions": {"outflow": "abc", "grpc-go": "1.2.3"},
        "absent": {"nginx-h2c": "was not built here"}, "samples": samples,
        "parts": [{"date": "2026-01-02", "loads": [0.1, 1.5, 1.4], "stolen_ticks": 1, "ticks": 1_000}],
    }  # fmt: skip
