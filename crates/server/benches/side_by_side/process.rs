//! The servers that are measured: how each is started as a process of its own, and what the operating system says
//! of its CPU time and memory. It knows nothing of what they are asked.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use tempfile::TempDir;

use crate::Outcome;

/// A server and how it is asked.
#[derive(Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// `simulate`'s parameter of this name: how many responses a job emits at once. The peers ignore it.
    pub(crate) batch: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The binary of this package.
    Outflow,
    /// This benchmark itself, as a tonic server.
    Peer(Way),
}

/// How a peer answers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// A task that sends into a `tokio::sync::mpsc`, and a `ReceiverStream`: what everybody writes.
    Mpsc,
    /// A stream that always has its next message ready: the best that tonic does.
    Ready,
}

/// What the others are compared with.
pub(crate) const ORDINARY: Contender =
    Contender { name: "tonic mpsc", program: Program::Peer(Way::Mpsc), batch: "1" };

pub(crate) const CONTENDERS: [Contender; 4] = [
    Contender { name: "outflow emit", program: Program::Outflow, batch: "1" },
    Contender { name: "outflow emit_all", program: Program::Outflow, batch: "64" },
    ORDINARY,
    Contender { name: "tonic ready", program: Program::Peer(Way::Ready), batch: "1" },
];

/// How long a server may take until it accepts a connection.
const START_MAX: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(20);

/// The unit of CPU times in `/proc/PID/stat`: `USER_HZ`, which Linux keeps at 100 for programs whatever its own tick.
const TICK_MS: u64 = 10;
const TICK: Duration = Duration::from_millis(TICK_MS);

/// A running server. Dropping it kills the process and waits for it.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    child: Child,
    // Its working directory and its log; after the child, so that it is removed after the child has gone.
    directory: TempDir,
}

/// A process' CPU time so far, by both of the kernel's accounts.
pub(crate) struct CpuTime {
    threads: Duration,
    ticks: Duration,
}

impl Process {
    /// Starts a server and waits until it accepts connections.
    pub(crate) fn start(program: Program) -> Outcome<Self> {
        let directory = TempDir::with_prefix_in("side_by_side", env!("CARGO_TARGET_TMPDIR"))?;
        match program {
            Program::Outflow => Self::start_outflow(directory),
            Program::Peer(way) => Self::start_peer(directory, way),
        }
    }

    fn start_outflow(directory: TempDir) -> Outcome<Self> {
        // Free now; should another process take it first, the server says so and the run fails.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_outflow"));
        command.args(["serve", "--data", "memory", "--listen", &address.to_string()]).stdout(Stdio::null());
        let child = spawn(command, &directory)?;
        let mut process = Self { address, child, directory };

        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                return Err(process.did_not_start(&format!("it ended with {status}")));
            }
            if started.elapsed() > START_MAX {
                return Err(process.did_not_start(&format!("no connection to {address} within {START_MAX:?}")));
            }
            pause(START_POLL);
        }
        Ok(process)
    }

    fn start_peer(directory: TempDir, way: Way) -> Outcome<Self> {
        let way = way.to_possible_value().expect("no way is skipped");
        Self::start_own(directory, &["--peer", way.get_name()])
    }

    /// Starts this benchmark itself with these arguments; it prints its port and serves.
    pub(crate) fn start_own(directory: TempDir, arguments: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).stdout(Stdio::piped());
        let mut child = spawn(command, &directory)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut process = Self { address: (Ipv4Addr::LOCALHOST, 0).into(), child, directory };

        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port)?;
        let Ok(port) = port.trim().parse() else {
            return Err(process.did_not_start(&format!("no port, but {port:?}")));
        };
        process.address.set_port(port);
        Ok(process)
    }

    fn did_not_start(&self, how: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let mut message = format!("a server did not come up: {how}");
        let log = fs::read_to_string(log_path(self.directory.path())).unwrap_or_default();
        for line in log.lines().rev().take(10).collect::<Vec<_>>().into_iter().rev() {
            let _ = write!(message, "\n    {line}");
        }
        message.into()
    }

    /// User and system time of the whole process.
    pub(crate) fn cpu_time(&self) -> Outcome<CpuTime> {
        let mut threads = Duration::ZERO;
        for task in fs::read_dir(self.proc("task"))? {
            // A thread may end between the two reads; and not every kernel keeps this account.
            let Ok(account) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let on_cpu = account.split(' ').next().unwrap_or_default().parse()?;
            threads += Duration::from_nanos(on_cpu);
        }
        Ok(CpuTime { threads, ticks: ticks(&self.proc("stat"))? })
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Outcome<i32> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS: has it ended?")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// What the kernel holds in this server's socket to a client: sent by the server, not yet taken by the other side.
    pub(crate) fn unsent_kib(&self, client_port: u16) -> Outcome<i32> {
        let port = |field: &str| field.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
        let table = fs::read_to_string("/proc/net/tcp")?;
        let queues = table
            .lines()
            .skip(1)
            .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
            .find(|line| port(line[1]) == Some(self.address.port()) && port(line[2]) == Some(client_port))
            .ok_or("the server has closed the connection of a reader that reads nothing")?[4]
            .to_owned();
        let (unsent, _) = queues.split_once(':').ok_or("/proc/net/tcp without queues")?;
        Ok(i32::from_str_radix(unsent, 16)? / 1024)
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the process has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CpuTime {
    /// What was used since. The threads' own account is exact to the nanosecond but forgets threads that ended; the
    /// total in ticks forgets nothing. So the first is given, unless the second is more than its grain above it.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let threads = self.threads.saturating_sub(earlier.threads);
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        if ticks > threads + 2 * TICK { ticks } else { threads }
    }
}

/// Does nothing for so long.
#[expect(
    clippy::disallowed_methods,
    reason = "whoever measures has a thread to itself, and no runtime that would work"
)]
pub(crate) fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// Measures how much of the machine others took meanwhile: on a busy one the figures are not worth keeping.
pub(crate) struct Bystanders {
    at: Instant,
    machine: Duration,
    measured: Duration,
}

impl Bystanders {
    /// From now on, all but these servers and the client.
    pub(crate) fn watch<'a>(servers: impl Iterator<Item = &'a Process>) -> Outcome<Self> {
        let mut measured = ticks(Path::new("/proc/self/stat"))?;
        for server in servers {
            measured += ticks(&server.proc("stat"))?;
        }
        // The first line sums up all cores: user, nice, system, idle, waiting for I/O, interrupts hard and soft. What
        // interrupts took is in a process' time too, whichever process they met.
        let stat = fs::read_to_string("/proc/stat")?;
        let times = stat.split_ascii_whitespace().skip(1).take(7).map(str::parse::<u64>);
        let times = times.collect::<Result<Vec<_>, _>>()?;
        let [user, nice, system, _, _, hard, soft] = times[..] else { return Err("/proc/stat is too short".into()) };
        let busy = user + nice + system + hard + soft;
        Ok(Self { at: Instant::now(), machine: Duration::from_millis(TICK_MS * busy), measured })
    }

    /// How many cores, on average, the others kept busy up to `now`.
    pub(crate) fn cores(&self, now: &Self) -> f64 {
        let machine = now.machine.saturating_sub(self.machine);
        let measured = now.measured.saturating_sub(self.measured);
        machine.saturating_sub(measured).as_secs_f64() / (now.at - self.at).as_secs_f64()
    }
}

/// The user and system time in a process' `stat`.
fn ticks(stat: &Path) -> Outcome<Duration> {
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15, the state after it is 3.
    let stat = fs::read_to_string(stat)?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat without a name")?;
    let times = fields.split_ascii_whitespace().skip(14 - 3).take(2);
    Ok(TICK * times.map(str::parse::<u32>).sum::<Result<u32, _>>()?)
}

/// In a directory and an environment in which no configuration is found.
fn spawn(mut command: Command, directory: &TempDir) -> Outcome<Child> {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OUTFLOW") || name == "RUST_LOG" {
            command.env_remove(&*name);
        }
    }
    command
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stderr(File::create(log_path(directory.path()))?)
        .spawn()
        .map_err(|error| format!("{}: {error}", command.get_program().display()).into())
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("stderr.log")
}
