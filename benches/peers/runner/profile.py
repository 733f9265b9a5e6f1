"""Where a server's time goes: one measurement as the page has it, but repeated for some seconds under `perf record`, and the
shares of its symbols, grouped. It says why where that cannot be done."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import main, servers
from .measure import Bench, expect
from .process import Failure, Process, Supervisor
from .results import Refused
from .servers import SERVERS, Programs, Server
from .workloads import CLIENTS, Workload, left_out, workloads

SECONDS = 3.0
# So that a client that is done at once is not started for ever.
CLIENTS_MAX = 50
ATTACH_SECONDS = 0.5
RECORD = ["record", "--quiet", "-g", "--freq", "999"]
REPORT = ["report", "--stdio", "--call-graph", "none", "-t", "|"]
OWN = ["--no-children", "--fields", "overhead,dso,sym"]
WITH_CALLEES = ["--children", "--fields", "overhead_children,dso,sym"]
SYMBOLS_SHOWN = 8
SAMPLES = "perf.data"
# By whichever of its functions was not inlined into the other ones.
SYSTEM_CALL = re.compile(
    r"(?:__(?:x64|arm64)_sys_|__sys_|ksys_|do_)((?:p?(?:read|write)v?(?:64|2)?|send|recv|epoll|futex|nano|f(?:data)?sync|madvise)"
    r"(?:to|from|m?msg|_p?wait|_ctl|sleep)?)"
)
NO_PERF = """\
`perf` is not here. Of the distribution's packages: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu);
without it `valgrind --tool=callgrind` counts instructions of the server, which `benches/peers/profile` does not do"""
NO_KERNEL = (
    "the kernel shows its part to root only: run as root, or with kernel.perf_event_paranoid=1 and kernel.kptr_restrict=0"
)

# The first that is found in a symbol's name. Symbols of the kernel are told by its mark.
GROUPS = {
    "HTTP/2": re.compile(r"h2::|\d2h2|hyper|hpack|http2|grpc/internal/transport|ngx_http_v2"),
    "copies": re.compile(r"memcpy|memmove|memset|mempcpy|memclr"),
    "allocator": re.compile(
        r"malloc|calloc|\bc?free\b|_free\b|^_?mi_|madvise|operator (?:new|delete)|mcache|mcentral|mheap"
        r"|runtime\.(?:gc|scan|greyobject|markBits|tryDeferToSpanScan)"
    ),
}
KERNEL, REST = "kernel", "the rest"


@dataclass(frozen=True)
class Symbol:
    """A share of the samples, in percent."""

    share: float
    name: str
    kernel: bool


def symbols(report: str) -> list[Symbol]:
    """Of what `perf report` prints: a share, where the symbol lies, and its mark and name."""
    found = []
    for line in report.splitlines():
        words = [word.strip() for word in line.split("|", 2)]
        if len(words) == 3 and words[0].endswith("%"):
            mark, _, name = words[2].partition(" ")
            found.append(Symbol(float(words[0][:-1]), name.strip(), mark in ("[k]", "[g]")))
    return found


def group(symbol: Symbol) -> str:
    if symbol.kernel:
        return KERNEL
    return next((name for name, names in GROUPS.items() if names.search(symbol.name)), REST)


def told(found: Iterable[Symbol]) -> str:
    """The groups with their shares, the kernel first, and in each the dearest symbols."""
    members: dict[str, list[Symbol]] = {name: [] for name in (KERNEL, "HTTP/2", "copies", "allocator", REST)}
    for symbol in found:
        members[group(symbol)].append(symbol)
    lines = []
    for name, its in members.items():
        lines.append(f"{sum(symbol.share for symbol in its):6.1f} %  {name}")
        dearest = sorted(its, key=lambda symbol: -symbol.share)[:SYMBOLS_SHOWN]
        lines += [f"        {symbol.share:6.1f} %  {symbol.name}" for symbol in dearest if symbol.share >= 0.1]
    return "\n".join(lines)


def calls(found: Iterable[Symbol]) -> str:
    """System calls with all that the kernel did inside of them."""
    shares: dict[str, float] = {}
    for symbol in found:
        if symbol.kernel and (call := SYSTEM_CALL.fullmatch(symbol.name)):
            shares[call[1]] = max(symbol.share, shares.get(call[1], 0.0))
    dearest = sorted(shares.items(), key=lambda call: -call[1])[:SYMBOLS_SHOWN]
    return "\n".join(f"{share:6.1f} %  {name}" for name, share in dearest if share >= 0.1)


def record(
    bench: Bench, workload: Workload, client: str, server: Server, perf: str, seconds: float
) -> tuple[list[Symbol], list[Symbol]]:
    """The symbols by themselves, and with what they call, of a server that is asked again and again for so long."""
    data, samples = bench.folder / "data", bench.folder / SAMPLES
    servers.remove_data(data)
    samples.unlink(missing_ok=True)
    try:
        running = bench.warm(workload, client, server, data)
        pids = ",".join(str(pid) for pid in running.process.measured())
        recorder = bench.supervisor.start([perf, *RECORD, "--output", str(samples), "--pid", pids], "perf")
        # It does not say when it has begun; of the first client something may be missing.
        recorder.ends_within(ATTACH_SECONDS)
        recorder.check()
        until = time.monotonic() + seconds
        for _ in range(CLIENTS_MAX):
            load = workload.load_of(client, server.name)
            started = bench.client(client, server, running, load)
            expect(started.report(workload.seconds_max), load, server)
            for process in started.processes:
                bench.supervisor.stop(process)
            if time.monotonic() > until:
                break
        finish(recorder, samples)
        return report(perf, samples, OWN), report(perf, samples, WITH_CALLEES)
    finally:
        for process in reversed(list(bench.supervisor.running)):
            bench.supervisor.stop(process)
        for kept in (data, bench.folder / "frames"):
            servers.remove_data(kept)


def report(perf: str, samples: Path, how: list[str]) -> list[Symbol]:
    command = [perf, *REPORT, *how, "-i", str(samples)]
    return symbols(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def finish(recorder: Process, samples: Path) -> None:
    """As Ctrl-C ends it: it writes what it has."""
    recorder.check()
    os.kill(recorder.pid, signal.SIGINT)
    if not recorder.ends_within(60) or not samples.is_file():
        raise Failure(f"perf wrote nothing: {recorder.last_words()}")


def kernel_hidden() -> bool:
    return os.geteuid() != 0 and int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 1


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [workload.name for workload in workloads(quick=False)]
    parser.add_argument("workload", choices=names, metavar="WORKLOAD", help=", ".join(names))
    parser.add_argument("client", choices=CLIENTS, metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("server", choices=SERVERS, metavar="SERVER", help=", ".join(SERVERS))
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help=f"at least so long; default {SECONDS:g}")
    main.add_programs(parser)
    return parser.parse_args()


def run(description: str | None) -> int:
    options = arguments(description)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    workload = next(one for one in workloads(quick=False) if one.name == options.workload)
    perf = shutil.which("perf")
    try:
        if options.client not in workload.clients or options.server not in workload.servers:
            raise Refused(f"{workload.name} is for {', '.join(workload.clients)} and {', '.join(workload.servers)}")
        if why := left_out(workload, options.client, options.server):
            raise Refused(f"{options.server} {why}")
        if perf is None or kernel_hidden():
            raise Refused(NO_PERF if perf is None else NO_KERNEL)
        folder = options.build_dir.absolute() / "work"
        folder.mkdir(parents=True, exist_ok=True)
        with main.alone(folder), Supervisor(folder) as supervisor:
            bench = Bench(Programs(main.find_programs(options)), supervisor, folder)
            found, inclusive = record(bench, workload, options.client, SERVERS[options.server], perf, options.seconds)
    except KeyboardInterrupt:
        return 130
    except (Refused, Failure, OSError, subprocess.SubprocessError) as error:
        print(f"no profile: {error}", file=sys.stderr)
        return 1
    print(f"{options.workload}, {options.client}, {options.server}: the server's CPU by the symbol that is at work")
    print(told(found))
    print(f"Inside system calls, with all that they do:\n{calls(inclusive)}")
    print(f"Callers and more: perf report -i {folder / SAMPLES}")
    return 0 if found else 1
