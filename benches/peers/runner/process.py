"""Processes of this run, each with its own pid: started, accounted for by the operating system, and stopped. It knows
nothing of what they do."""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 10.0
POLL_SECONDS = 0.01


class Failure(Exception):
    """Why something was not measured."""


@dataclass
class Memory:
    """Of a process and all its children, in bytes."""

    resident: int
    peak: int


class Process:
    """A started process. What it writes goes to files, so that it never waits for us. One that is wrapped only starts and
    stops another, which is what is measured."""

    wrapped = False

    def __init__(self, command: list[str], name: str, folder: Path, environment: dict[str, str], *, silent: bool) -> None:
        self.name = name
        self.stdout = folder / f"{name}.out"
        self.stderr = folder / f"{name}.err"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            # A session of its own: Ctrl-C reaches us alone, and what it started can be stopped with it.
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if silent else out,
                stderr=err,
                env=os.environ | environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def status(self) -> int | None:
        """How it ended, or `None`. It is left to be waited for, so that its pid stays its own, and its session's, until
        `stop`."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def check(self) -> None:
        """Fails when the process has gone."""
        if (status := self.status()) is not None:
            raise Failure(f"{self.name} ended with status {status}: {self.last_words()}")

    def wait(self, seconds_max: float) -> None:
        """Waits for a good end."""
        if not self.ends_within(seconds_max):
            raise Failure(f"{self.name} was not done after {seconds_max:.0f} s")
        if status := self.status():
            raise Failure(f"{self.name} ended with status {status}: {self.last_words()}")

    def ends_within(self, seconds_max: float) -> bool:
        until = time.monotonic() + seconds_max
        while self.status() is None:
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def last_words(self) -> str:
        """What it says of its end: the last line, or the error above a hint about usage."""
        lines = self.stderr.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        errors = [line for line in lines if line.startswith("error")]
        return (errors or lines)[-1][:300]

    def first_line(self, seconds_max: float) -> str:
        """The first line of what it writes to stdout."""
        until = time.monotonic() + seconds_max
        while time.monotonic() < until:
            line, end, _ = self.stdout.read_text(errors="replace").partition("\n")
            if end:
                return line
            self.check()
            time.sleep(POLL_SECONDS)
        raise Failure(f"{self.name} said nothing in {seconds_max:.0f} s")

    def listens(self, port: int, seconds_max: float) -> None:
        """Waits until somebody can connect."""
        until = time.monotonic() + seconds_max
        while time.monotonic() < until:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(POLL_SECONDS)
        raise Failure(f"{self.name} did not listen within {seconds_max:.0f} s")

    def stop(self) -> None:
        """TERM, and KILL to all that is left of its session when it has ended or that took too long."""
        if self.popen.returncode is not None:
            return
        if self.status() is None:
            self.popen.terminate()
            self.ends_within(STOP_SECONDS)
        os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()

    def cpu_seconds(self) -> float:
        """User and system time of the process and its living children, threads that are gone included."""
        self.check()
        return sum(process_cpu_seconds(pid) for pid in self.measured())

    def measured(self) -> list[int]:
        return family(self.pid)[1 if self.wrapped else 0 :]

    def memory(self) -> Memory:
        self.check()
        sizes = [memory_of(pid) for pid in self.measured()]
        return Memory(resident=sum(size.resident for size in sizes), peak=sum(size.peak for size in sizes))


def process_cpu_seconds(pid: int) -> float:
    """What utime + stime of /proc/PID/stat are, to the nanosecond: the same account, read by the process's CPU clock
    (clock_getcpuclockid(3) computes its number like this). Where the kernel refuses that, by ticks of 10 ms."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        try:
            return ticks(Path(f"/proc/{pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")
        except (FileNotFoundError, ProcessLookupError):
            return 0.0


def ticks(stat: str) -> int:
    """utime + stime, fields 14 and 15; the second one is a name in brackets with anything in it."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parents() -> dict[int, int]:
    """The parent of each process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return found


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parent_of = parents()
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parent_of.items() if parent == member)
    return members


def memory_of(pid: int) -> Memory:
    try:
        return parse_memory(Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Memory(0, 0)


def parse_memory(status: str) -> Memory:
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    kibibytes = {key: int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM") if key in lines}
    return Memory(resident=kibibytes.get("VmRSS", 0) * 1024, peak=kibibytes.get("VmHWM", 0) * 1024)


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Supervisor:
    """Starts processes and stops every one of them, whatever happens in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Process] = []

    def start(
        self, command: list[str], name: str, environment: dict[str, str] | None = None, *, silent: bool = False
    ) -> Process:
        """Starts one; a silent one's stdout goes nowhere."""
        process = Process(command, name, self.folder, environment or {}, silent=silent)
        self.running.append(process)
        return process

    def stop(self, process: Process) -> None:
        process.stop()
        self.running.remove(process)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        # Stopping is bounded, and a second Ctrl-C must not leave half of them behind.
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
        # The last first: clients before their servers.
        for process in reversed(self.running):
            process.stop()
        self.running.clear()
        signal.signal(signal.SIGINT, heard)
