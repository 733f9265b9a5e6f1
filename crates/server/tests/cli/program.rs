//! Runs the `outflow` program and watches what it says. Everything is bounded in time, and whatever was started is
//! ended when the test is over, however it ends.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program with these arguments.
pub(crate) fn outflow(arguments: &[&str]) -> Command {
    for_tests(Command::new(env!("CARGO_BIN_EXE_outflow")), arguments)
}

/// The same program, which Ctrl-C ends also where these tests run in the background of a shell: there it is ignored, and
/// what is started there ignores it, too.
pub(crate) fn interruptible(arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_outflow")]);
    for_tests(command, arguments)
}

fn for_tests(mut command: Command, arguments: &[&str]) -> Command {
    // Not the data of whoever runs the tests.
    command.args(arguments).env_remove("OUTFLOW_SERVER").env_remove("OUTFLOW_LOG").env("OUTFLOW_DATA", "memory");
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end, and says how long that took.
pub(crate) fn run(arguments: &[&str]) -> (Output, Duration) {
    let began = Instant::now();
    let mut child = outflow(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let status = wait(&mut child);
    (Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }, began.elapsed())
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Runs what a person would paste into a shell.
pub(crate) fn paste(command: &str) -> Output {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_outflow"));
    let found = [program.parent().unwrap().to_str().unwrap(), &std::env::var("PATH").unwrap()].join(":");
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PATH", found).env_remove("OUTFLOW_SERVER").env_remove("OUTFLOW_LOG");
    shell.stdin(Stdio::null()).output().unwrap()
}

/// How `child` ended; it is killed where it does not end in time.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    within(PATIENCE, || child.try_wait().unwrap()).unwrap_or_else(|| {
        child.kill().unwrap();
        panic!("it did not end within {PATIENCE:?}: {:?}", child.wait());
    })
}

/// What `look` finds, as soon as it finds something, for so long.
pub(crate) fn within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        #[expect(clippy::disallowed_methods, reason = "a test's thread may wait")]
        thread::sleep(Duration::from_millis(5));
    }
}

/// The text of an output.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A server process on a port of its own.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Server {
    /// Starts `outflow serve` with these arguments, and waits until it serves.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", arguments)
    }

    /// The same, at this address.
    pub(crate) fn start_at(address: &str, arguments: &[&str]) -> Self {
        Self::started(Command::new(env!("CARGO_BIN_EXE_outflow")), address, arguments)
    }

    /// The same, of a program that lies elsewhere, or with variables of its own.
    pub(crate) fn start_as(program: Command, arguments: &[&str]) -> Self {
        Self::started(program, "127.0.0.1:0", arguments)
    }

    fn started(program: Command, address: &str, arguments: &[&str]) -> Self {
        let mut all = vec!["--log", "info,outflow::cli=debug", "serve", "--listen", address];
        all.extend(arguments);
        let mut child = for_tests(program, &all).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (lines, stderr) = (log.clone(), BufReader::new(child.stderr.take().unwrap()));
        thread::spawn(move || {
            for line in stderr.lines() {
                lines.lines.lock().unwrap().push(line.unwrap());
                lines.more.notify_all();
            }
        });
        let mut server = Self { child, address: String::new(), log };
        let listening = server.line("listening on ");
        listening.rsplit(' ').next().unwrap().clone_into(&mut server.address);
        server.line("start server");
        server
    }

    /// Waits for a log line that contains `part`.
    pub(crate) fn line(&self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {part:?} in {lines:#?}");
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// Runs `outflow fetch` against it.
    pub(crate) fn fetch(&self, arguments: &[&str]) -> (Output, Duration) {
        let mut all = vec!["fetch", "--server", &self.address];
        all.extend(arguments);
        run(&all)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, and how long that took from now.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        (wait(&mut self.child), began.elapsed())
    }

    /// What it has open, by path.
    pub(crate) fn open_files(&self) -> Vec<String> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().flatten();
        let paths = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        paths.map(|path| path.display().to_string()).collect()
    }

    /// How many bytes it has read so far, from wherever.
    pub(crate) fn bytes_read(&self) -> u64 {
        let account = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let read = account.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.unwrap().parse().unwrap()
    }

    /// A field of `/proc/PID/status`, in KiB.
    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            // Not by KILL: it has processes to end.
            self.signal(Signal::TERM);
            if within(PATIENCE, || self.child.try_wait().unwrap()).is_none() {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
            }
        }
    }
}

/// How many processes have `marker` in their arguments, the server that was told to start them aside.
pub(crate) fn processes_with(marker: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let has_marker = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains(marker) && !line.contains("serve")
    };
    command_lines.filter(has_marker).count()
}
