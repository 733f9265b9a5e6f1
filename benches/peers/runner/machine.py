"""What was measured with what: the machine, and the versions of everything that is compared. No names of hosts, no paths."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent
ROOT = PEERS.parent.parent


def machine() -> dict[str, str]:
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "CPU": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "memory": f"{int(memory[1]) / 1024**2:.0f} GiB" if memory else "unknown",
        "distribution": distribution(),
    }


def cpu_model(cpuinfo: str) -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def disk_of(folder: Path) -> str:
    """The kind of file system below a folder."""
    told = output(["stat", "--file-system", "--format=%T", str(folder)])
    return told or "unknown"


def output(command: list[str]) -> str:
    """The first line that a command says; nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[0].strip() if done.returncode == 0 and said else ""


def versions(programs: dict[str, Path]) -> dict[str, str]:
    """What is compared, as its lock files or the programs themselves say."""
    found = {
        "outflow": revision(),
        "outflow's program": digest(programs["outflow"]),
        "rustc": output(["rustc", "--version"]).removeprefix("rustc "),
    }
    found["Go"] = output(["go", "env", "GOVERSION"]).removeprefix("go")
    modules = read(PEERS / "go" / "go.mod")
    for name, module in (
        ("grpc-go", "google.golang.org/grpc"),
        ("protobuf-go", "google.golang.org/protobuf"),
        ("nats-server", "github.com/nats-io/nats-server/v2"),
        ("nats.go", "github.com/nats-io/nats.go"),
    ):
        found[name] = go_module(modules, module)
    for lock, crates in (
        (ROOT / "Cargo.lock", ("hyper", "h2", "tokio")),
        (PEERS / "rust" / "Cargo.lock", ("tonic", "connectrpc")),
    ):
        found |= {crate: locked(read(lock), crate) for crate in crates}
    found["gRPC C++"] = output(["pkg-config", "--modversion", "grpc++"])
    found["nginx"] = nginx().rpartition("/")[2]
    if "s2" in programs:
        found["s2-cli"] = output([str(programs["s2"]), "--version"])
    return {name: version for name, version in found.items() if version}


def nginx() -> str:
    """What nginx says of itself; nothing where there is none."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return output([program, "-v"]) if program else ""


def digest(program: Path) -> str:
    """What tells a program from one that was built of something else."""
    with program.open("rb") as content:
        return f"sha256 {hashlib.file_digest(content, 'sha256').hexdigest()[:12]}"


def revision() -> str:
    """The last commit that changed more than prose, and whether something was changed since."""
    code = ["--", ".", ":(exclude)docs", ":(exclude)*.md"]
    commit = output(["git", "-C", str(ROOT), "log", "-1", "--abbrev=12", "--format=%h", *code])
    changed = output(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", *code])
    return commit + (" with changes" if changed else "")


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def go_module(text: str, module: str) -> str:
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} v(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def locked(text: str, crate: str) -> str:
    found = re.search(rf'^name = "{re.escape(crate)}"\nversion = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else ""
