"""What a response costs as there is more of something: `cargo bench -p outflow --bench growth`, run once after the rounds,
and what it prints as data. The benchmark judges and draws; here it is only started, bounded, and read."""

import datetime
import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .machine import ROOT
from .process import Failure, Supervisor

PROGRAM = "growth"
COMMAND = ["cargo", "bench", "--locked", "-p", "outflow", "--bench", "growth"]
# It takes about two minutes where nothing disturbs it.
SECONDS_MAX = 240.0
# One axis, to see that it runs.
QUICK = ["--axis", "length", "--responses", "20000", "--rounds", "1"]

AXIS = re.compile(r"(\S.*): server CPU per response that is delivered")
POINT = re.compile(r"  (\S+) +(\d+) +([\d.]+) ns")
VERDICT = re.compile(r"  (\S+) +((?:flat|falls|logarithmic|GROWS): .*)")


def build(program: Path) -> None:
    """Builds the benchmark and keeps it beside the peers."""
    told = subprocess.run([*COMMAND, "--no-run", "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(built(told.stdout.decode()), program)


def built(messages: str) -> Path:
    """The executable that cargo tells of."""
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["target"]["name"] == PROGRAM:
            return Path(message["executable"])
    raise Failure("cargo told of no program for the growth of costs")


def measure(program: Path, supervisor: Supervisor, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Runs it, within `SECONDS_MAX`, with its journals in a folder below this one; or says why there is nothing."""
    data, picture = folder / "data", folder / "growth.svg"
    data.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    told: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    began = time.monotonic()
    command = [str(program), "--data", str(data), "--plot", str(picture), *(QUICK if quick else [])]
    try:
        process = supervisor.start(command, PROGRAM)
        process.wait(SECONDS_MAX)
        series = read(process.stdout.read_text())
        return told | {"took_seconds": time.monotonic() - began, "series": series, "svg": picture.read_text()}
    except (Failure, OSError) as failure:
        return told | {"failure": str(failure).replace(str(folder), "WORK")}
    finally:
        for process in list(supervisor.running):
            supervisor.stop(process)
        shutil.rmtree(data, ignore_errors=True)


def read(text: str) -> list[dict[str, Any]]:
    """The series: what there is more of, how its runs are kept, nanoseconds at each count, and how that grows."""
    if "NOT OPTIMIZED" in text:
        raise Failure("the benchmark was not optimized")
    series: list[dict[str, Any]] = []
    axis, points = "", list[list[float]]()
    for line in text.splitlines():
        if found := AXIS.fullmatch(line):
            axis, points = found[1], []
        elif found := POINT.fullmatch(line):
            points.append([int(found[2]), float(found[3])])
        elif found := VERDICT.fullmatch(line):
            series.append({"axis": axis, "kept": found[1], "points": points, "verdict": found[2]})
            points = []
    if not series or points:
        raise Failure("the benchmark's output ends before a verdict")
    return series


def grows(series: Mapping[str, Any]) -> bool:
    """Whether it is neither flat nor falling nor logarithmic."""
    return str(series["verdict"]).startswith("GROWS")
