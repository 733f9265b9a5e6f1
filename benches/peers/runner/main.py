"""The command line: builds, measures in rounds, keeps the raw results after each measurement, and has the page written."""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import growth, machine, plan, results
from .machine import PEERS, ROOT
from .measure import Bench
from .page import Page
from .process import Failure, Supervisor
from .servers import CLIENT_PROGRAMS, SERVERS, Programs
from .workloads import CLIENTS, TRANSPORTS, workloads

# What `benches/peers/build` makes, as far as it can be had.
BUILT = (
    *("grpc-go-server", "grpc-go-client", "jetstream", "nats-server"),
    *("tonic-mpsc", "tonic-ready", "connect", "raw-tcp", "grpc-cpp", "nginx-h2c", "tonic-client", "outflow-client"),
)
ROUNDS = 5


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [workload.name for workload in workloads(quick=False)]
    parser.add_argument("--rounds", type=positive, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument("--only", action="append", choices=SERVERS, metavar="SERVER",
                        help=f"only this server, again for more: {', '.join(SERVERS)}")  # fmt: skip
    parser.add_argument("--workload", action="append", choices=names, metavar="NAME",
                        help=f"only this workload, again for more: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--client", action="append", choices=CLIENTS, metavar="NAME",
                        help=f"only this client, again for more: {', '.join(CLIENTS)}")  # fmt: skip
    parser.add_argument("--continue", action="store_true", dest="proceed",
                        help="keep what --out has measured, and measure what is missing of what is selected; refused where "
                             "machine or programs are not those of then")  # fmt: skip
    parser.add_argument("--redo", action="store_true",
                        help="continue, but measure all anew that --only, --workload and --client select")  # fmt: skip
    parser.add_argument("--no-growth", action="store_true",
                        help="leave out what costs become as there is more of something, which takes about two minutes after "
                             "the rounds; it is also left out where less is selected")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a hundredth of the work and one round, to see that it runs")
    parser.add_argument("--transport", choices=TRANSPORTS, default="plain", help="how servers are spoken with")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the raw results here, or with --from-results read them")
    parser.add_argument("--page", nargs="?", type=Path, const=ROOT / "docs" / "performance.md", metavar="FILE",
                        help="write the page (default docs/performance.md) and its plots beside it")  # fmt: skip
    parser.add_argument("--from-results", action="store_true", help="measure nothing: write the page from --out")
    parser.add_argument("--no-build", action="store_true", help="take what was built before")
    parser.add_argument("--growth", type=Path, metavar="PROGRAM",
                        help="measure how costs grow with this benchmark, built before")  # fmt: skip
    add_programs(parser)
    options = parser.parse_args()
    options.proceed |= options.redo
    if options.proceed and (options.out is None or options.from_results):
        parser.error("--continue and --redo want --out and a measurement")
    if options.out and options.out.exists() and not (options.proceed or options.from_results):
        parser.error(f"{options.out} is there already: --continue it, or name another file")
    if options.from_results and (options.out is None or options.page is None):
        parser.error("--from-results wants --out and --page")
    if options.page and options.quick and options.page == ROOT / "docs" / "performance.md":
        parser.error("a quick run is no page: name another file with --page FILE")
    return options


def add_programs(parser: argparse.ArgumentParser) -> None:
    """The options that say where programs are."""
    parser.add_argument("--build-dir", type=Path, default=ROOT / "target" / "peers", metavar="DIR",
                        help="where peers are built and data is kept while it runs; default target/peers")  # fmt: skip
    parser.add_argument("--outflow", type=Path, metavar="PROGRAM", help="measure this one, built before")
    parser.add_argument("--s2", type=Path, metavar="PROGRAM",
                        help="measure s2-lite with this `s2` (cargo install s2-cli); it listens on all addresses")  # fmt: skip


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
    if grows(options) and options.growth is None:
        say("building the benchmark for the growth of costs")
        growth.build(options.build_dir.absolute() / growth.PROGRAM)
    say("building the peers")
    # What cannot be had is told by it, and left out by us.
    subprocess.run([PEERS / "build", options.build_dir], check=False)


def grows(options: argparse.Namespace) -> bool:
    """Whether the growth of costs is measured, too."""
    return not (options.no_growth or options.only or options.workload or options.client)


def find_programs(options: argparse.Namespace) -> dict[str, Path]:
    """Those that are there. Where one is not, its servers are left out."""
    folder = options.build_dir.absolute()
    places = {name: folder / name for name in BUILT} | {"outflow": options.outflow or ROOT / "target" / "release" / "outflow"}
    if options.s2 is not None:
        places["s2"] = options.s2
    return {name: place.absolute() for name, place in places.items() if place.is_file()}


def absent(programs: dict[str, Path]) -> dict[str, str]:
    wanted = [*(server.program for server in SERVERS.values()), *CLIENT_PROGRAMS.values()]
    reasons = {program: "was not built here" for program in wanted if program not in programs}
    if "s2" in reasons:
        reasons["s2"] = "was not asked for (`--s2`)"
    return reasons


def stolen() -> tuple[int, int]:
    """Ticks that the host took from this machine, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def ready(options: argparse.Namespace, programs: dict[str, Path], folder: Path) -> results.Raw:
    """Results with nothing in them, or those that are continued."""
    raw: results.Raw = {
        "format": results.FORMAT, "quick": options.quick, "rounds": options.rounds or (1 if options.quick else ROUNDS),
        "transport": options.transport, "machine": machine.machine() | {"file system": machine.disk_of(folder)},
        "versions": machine.versions(programs), "absent": absent(programs),
        "parts": [{"date": datetime.date.today().isoformat(), "loads": [], "stolen_ticks": 0, "ticks": 0}], "samples": [],
    }  # fmt: skip
    if not (options.proceed and options.out.exists()):
        return raw
    old = results.read(options.out)
    if options.rounds is None:
        raw["rounds"] = old["rounds"]
    raw = results.joined(old, raw)
    if options.redo:
        dropped = results.drop(raw, lambda key: plan.selected(options, *key[1:]))
        say(f"{dropped} measurements are dropped, to be made again")
        if grows(options):
            raw.pop("growth", None)
    say(f"{len(results.measured(raw))} measurements are kept")
    return raw


def measure(options: argparse.Namespace) -> results.Raw:
    programs = find_programs(options)
    if "outflow" not in programs:
        sys.exit("no outflow was built")
    folder = options.build_dir.absolute() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return measure_in(folder, options, programs)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two runs at once would disturb each other, and in one folder destroy each other's data."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise results.Refused("another run is measuring in this folder; --build-dir names one") from None
        yield


def measure_in(folder: Path, options: argparse.Namespace, programs: dict[str, Path]) -> results.Raw:
    raw = ready(options, programs, folder)
    steps = plan.steps(plan.cells(options, programs), raw["rounds"], results.measured(raw))
    estimate, part, turn = plan.Estimate.of(raw), raw["parts"][-1], 0
    say(f"{len(steps)} measurements, {expected(estimate, steps)}")
    before = stolen()
    try:
        with Supervisor(folder) as supervisor:
            bench = Bench(Programs(programs), supervisor, folder, options.transport)
            for place, step in enumerate(steps, 1):
                if step.turn != turn:
                    turn = step.turn
                    part["loads"].append(os.getloadavg()[0])
                sample = bench.sample(step.workload, step.client, step.server, turn) | {"part": len(raw["parts"]) - 1}
                raw["samples"].append(sample)
                estimate.learn(sample)
                now = stolen()
                part["stolen_ticks"], part["ticks"] = now[0] - before[0], now[1] - before[1]
                # After each, so that whatever ends this run leaves what it has measured.
                results.keep(raw, options.out)
                said = sample.get("failure") or f"{sample['server_cpu_seconds']:.3f} s of CPU in {sample['took_seconds']:.1f} s"
                say(f"{place}/{len(steps)}: round {turn}, {step.workload.name} {step.client} {step.server}: {said}")
                if place % 10 == 0:
                    say(f"{len(steps) - place} more, {expected(estimate, steps[place:])}")
            if grows(options) and not results.has_growth(raw):
                raw["growth"] = measure_growth(options, supervisor, folder)
    finally:
        # Gigabytes; what the processes wrote stays.
        shutil.rmtree(folder / "frames", ignore_errors=True)
    results.keep(raw, options.out)
    return raw


def measure_growth(options: argparse.Namespace, supervisor: Supervisor, folder: Path) -> results.Raw:
    program = (options.growth or options.build_dir / growth.PROGRAM).absolute()
    if not program.is_file():
        return {"failure": "the benchmark was not built here"}
    say(f"how costs grow: about two minutes, at most {growth.SECONDS_MAX / 60:.0f}")
    told = growth.measure(program, supervisor, folder, quick=options.quick)
    say(f"how costs grow: {told.get('failure') or 'measured'}")
    return told


def expected(estimate: plan.Estimate, left: list[plan.Step]) -> str:
    seconds = estimate.seconds(left)
    return f"about {seconds / 60:.0f} min, until about {plan.until(seconds, datetime.datetime.now())}"


def write_page(raw: results.Raw, file: Path, written: Path = PEERS) -> None:
    """The page and its pictures, with what is written by hand in a folder."""
    page = Page(raw, *(part.read_text() if (part := written / name).is_file() else "" for name in ("notes.md", "published.md")))
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
            raw = results.read(options.out)
        else:
            build(options)
            raw = measure(options)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except results.Refused as refused:
        say(f"refused: {refused}")
        return 1
    except (subprocess.CalledProcessError, Failure) as error:
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
    if why := raw.get("growth", {}).get("failure"):
        say(f"how costs grow was not measured: {why}")
    return 1 if failed or why else 0
