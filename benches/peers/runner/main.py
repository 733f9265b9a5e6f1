"""The command line: builds, measures in rounds, keeps the raw results, and has the page written."""

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import machine
from .machine import PEERS, ROOT
from .measure import Bench
from .page import Page
from .process import Supervisor
from .servers import SERVERS, Programs
from .workloads import CLIENTS, Workload, left_out, workloads

TRANSPORTS = ("plain",)
# What `benches/peers/build` makes, as far as it can be had.
BUILT = (
    *("grpc-go-server", "grpc-go-client", "jetstream", "nats-server"),
    *("tonic-mpsc", "tonic-ready", "connect", "raw-tcp", "grpc-cpp", "nginx-h2c"),
)
Cell = tuple[Workload, str, list[str]]


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [workload.name for workload in workloads(quick=False)]
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="default 5")
    parser.add_argument("--only", action="append", choices=SERVERS, metavar="SERVER",
                        help=f"only this server, again for more: {', '.join(SERVERS)}")  # fmt: skip
    parser.add_argument("--workload", action="append", choices=names, metavar="NAME",
                        help=f"only this workload, again for more: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--client", action="append", choices=CLIENTS, metavar="NAME",
                        help=f"only this client, again for more: {', '.join(CLIENTS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a hundredth of the work and one round, to see that it runs")
    parser.add_argument("--transport", choices=TRANSPORTS, default=TRANSPORTS[0], help="how servers are spoken with")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the raw results here, or with --from-results read them")
    parser.add_argument("--page", nargs="?", type=Path, const=ROOT / "docs" / "performance.md", metavar="FILE",
                        help="write the page (default docs/performance.md) and its plots beside it")  # fmt: skip
    parser.add_argument("--from-results", action="store_true", help="measure nothing: write the page from --out")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "target" / "peers", metavar="DIR",
                        help="where peers are built and data is kept while it runs; default target/peers")  # fmt: skip
    parser.add_argument("--no-build", action="store_true", help="take what was built before")
    parser.add_argument("--outflow", type=Path, metavar="PROGRAM", help="measure this one, built before")
    parser.add_argument("--s2", type=Path, metavar="PROGRAM",
                        help="measure s2-lite with this `s2` (cargo install s2-cli); it listens on all addresses")  # fmt: skip
    options = parser.parse_args()
    if options.from_results and (options.out is None or options.page is None):
        parser.error("--from-results wants --out and --page")
    if options.page and options.quick and options.page == ROOT / "docs" / "performance.md":
        parser.error("a quick run is no page: name another file with --page FILE")
    return options


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def build(options: argparse.Namespace) -> None:
    if options.no_build:
        return
    if options.outflow is None:
        say("building outflow")
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "outflow"], cwd=ROOT, check=True)
    say("building the peers")
    # What cannot be had is told by it, and left out by us.
    subprocess.run([PEERS / "build", options.build_dir], check=False)


def find_programs(options: argparse.Namespace) -> dict[str, Path]:
    """Those that are there. Where one is not, its servers are left out."""
    folder = options.build_dir.absolute()
    places = {name: folder / name for name in BUILT} | {"outflow": options.outflow or ROOT / "target" / "release" / "outflow"}
    if options.s2 is not None:
        places["s2"] = options.s2
    return {name: place.absolute() for name, place in places.items() if place.is_file()}


def absent(programs: dict[str, Path]) -> dict[str, str]:
    reasons = {server.program: "was not built here" for server in SERVERS.values() if server.program not in programs}
    if "s2" in reasons:
        reasons["s2"] = "was not asked for (`--s2`)"
    return reasons


def cells(options: argparse.Namespace, programs: dict[str, Path]) -> list[Cell]:
    """What is measured in each round: for each workload and client the servers that can do it."""
    found: list[Cell] = []
    for workload in workloads(quick=options.quick):
        if options.workload and workload.name not in options.workload:
            continue
        for client in workload.clients:
            if options.client and client not in options.client:
                continue
            if client == "grpc-go" and "grpc-go-client" not in programs:
                continue
            servers = [
                server
                for server in workload.servers
                if (not options.only or server in options.only)
                and SERVERS[server].program in programs
                and left_out(workload, client, server) is None
            ]
            if servers:
                found.append((workload, client, servers))
    return found


def rotated(servers: list[str], turn: int) -> list[str]:
    """Round for round another one is the first."""
    at = (turn - 1) % len(servers)
    return servers[at:] + servers[:at]


def stolen() -> tuple[int, int]:
    """Ticks that the host took from this machine, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    programs = find_programs(options)
    if "outflow" not in programs:
        sys.exit("no outflow was built")
    rounds = 1 if options.quick else options.rounds
    folder = options.build_dir.absolute() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    todo = cells(options, programs)
    raw: dict[str, Any] = {
        "format": 1, "date": datetime.date.today().isoformat(), "quick": options.quick, "rounds": rounds,
        "transport": options.transport, "machine": machine.machine() | {"file system": machine.disk_of(folder)},
        "versions": machine.versions(programs), "absent": absent(programs), "loads": [], "stolen": 0.0, "samples": [],
    }  # fmt: skip
    count, began, stolen_before = rounds * sum(len(servers) for _, _, servers in todo), time.monotonic(), stolen()
    try:
        with Supervisor(folder) as supervisor:
            bench = Bench(Programs(programs), supervisor, folder, options.transport)
            for turn in range(1, rounds + 1):
                raw["loads"].append(os.getloadavg()[0])
                for workload, client, servers in todo:
                    for server in rotated(servers, turn):
                        sample = bench.sample(workload, client, server, turn)
                        raw["samples"].append(sample)
                        said = sample.get("failure") or f"{sample['server_cpu_seconds']:.3f} s of CPU"
                        place = f"{len(raw['samples'])}/{count}, {time.monotonic() - began:.0f} s"
                        say(f"{place}: {workload.name} {client} {server}: {said}")
    finally:
        # Also what an interrupted run has measured.
        now = stolen()
        raw["stolen"] = (now[0] - stolen_before[0]) / max(1, now[1] - stolen_before[1])
        keep(raw, options.out)
        # Gigabytes; what the processes wrote stays.
        shutil.rmtree(folder / "frames", ignore_errors=True)
    return raw


def keep(raw: dict[str, Any], file: Path | None) -> None:
    """Written whole or not at all."""
    if file is not None:
        beside = file.with_name(file.name + ".new")
        beside.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
        beside.replace(file)


def write_page(raw: dict[str, Any], file: Path) -> None:
    notes = PEERS / "notes.md"
    page = Page(raw, notes.read_text() if notes.is_file() else "")
    text = page.render()
    plots = file.parent / "performance"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for name, picture in page.plots.items():
        (plots / name).write_text(picture)
    file.write_text(text)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(description: str | None) -> int:
    options = arguments(description)
    # As exceptions, so that everything that was started is stopped; also in the background of a shell, which ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    try:
        if options.from_results:
            raw = json.loads(options.out.read_text())
        else:
            build(options)
            raw = measure(options)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except subprocess.CalledProcessError as error:
        say(f"outflow was not built: {error}")
        return 1
    if options.page:
        write_page(raw, options.page)
        say(f"wrote {options.page}")
    elif options.out is None:
        print(json.dumps(raw, indent=1, ensure_ascii=False))
    failed = sum(1 for sample in raw["samples"] if sample.get("failure"))
    if failed:
        say(f"{failed} of {len(raw['samples'])} measurements failed")
    return 1 if failed else 0
