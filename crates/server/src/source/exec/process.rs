//! A command that runs, as the server sees it: under a supervisor, or, in a program that offers none, as a process group.
//! Dropping it ends it, and whoever shuts down waits for that.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::net::UnixStream as Socket,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use outflow_engine::Cleanup;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    process::{Child, Command},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::{
    order::{ASKED, END, KILL, NotRun, Order, REPORT_BYTES, Report},
    supervisor,
};
use crate::succession;

/// How long KILL may take; a process that waits for a broken disk cannot be waited for.
const KILL_TIME: Duration = Duration::from_secs(2);
/// How often a group without its leader is looked at until it is empty.
const GROUP_POLL: Duration = Duration::from_millis(10);
/// The executable of this process, also where another lies in its place by now.
const OURSELVES: &str = "/proc/self/exe";

/// What to start, and where.
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// All of it.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// Where that is not the server's.
    pub(super) directory: Option<PathBuf>,
    pub(super) grace: Duration,
    pub(super) stdout: Stdio,
    pub(super) stderr: Stdio,
}

/// A command and everything that came of it. Dropping it ends them: TERM, and KILL after a grace.
pub(super) struct Process {
    running: Option<Running>,
    grace: Duration,
    place: Option<OwnedSemaphorePermit>,
    cleanup: Cleanup,
}

enum Running {
    Supervised {
        supervisor: Child,
        /// The other end is the supervisor's stdin.
        socket: UnixStream,
        /// Once it is known.
        group: Option<Pid>,
    },
    Group {
        leader: Child,
        id: Pid,
    },
}

impl Process {
    /// Starts it; its place is free when nothing of it is left.
    pub(super) fn start(start: Start, place: OwnedSemaphorePermit, cleanup: Cleanup) -> Result<Self, NotRun> {
        let grace = start.grace;
        let running = if supervisor::is_offered() { Running::supervised(start)? } else { Running::group(start)? };
        Ok(Self { running: Some(running), grace, place: Some(place), cleanup })
    }

    /// How its first process ended, when it has.
    pub(super) async fn exit(&mut self) -> Result<ExitStatus, NotRun> {
        match self.running.as_mut().expect("only drop takes it") {
            Running::Supervised { socket, group, .. } => loop {
                let mut report = [0; REPORT_BYTES];
                let read = socket.read_exact(&mut report).await;
                match read.ok().and_then(|_| Report::from_bytes(report)) {
                    Some(Report::Started(leader)) => *group = Pid::from_raw(leader),
                    Some(report) => {
                        if let Some(exit) = report.exit() {
                            return exit;
                        }
                    }
                    None => {
                        // The leader went with its supervisor; this is for whom it started.
                        if let Some(group) = group.take() {
                            signal(group, Signal::KILL);
                        }
                        return Err(NotRun::Lost);
                    }
                }
            },
            Running::Group { leader, .. } => leader.wait().await.map_err(NotRun::Supervisor),
        }
    }
}

impl Running {
    fn supervised(start: Start) -> Result<Self, NotRun> {
        let (ours, theirs) = Socket::pair().map_err(NotRun::Supervisor)?;
        ours.set_nonblocking(true).map_err(NotRun::Supervisor)?;
        let socket = UnixStream::from_std(ours).map_err(NotRun::Supervisor)?;
        let order = Order {
            grace: start.grace,
            held: succession::held(),
            program: start.program,
            arguments: start.arguments,
        };
        let mut command = Command::new(OURSELVES);
        command
            .arg0(ASKED)
            .args(order.to_arguments())
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .stdout(start.stdout)
            .stderr(start.stderr)
            .env_clear()
            .envs(start.environment);
        if let Some(directory) = start.directory {
            command.current_dir(directory);
        }
        let supervisor = command.spawn().map_err(NotRun::Supervisor)?;
        Ok(Self::Supervised { supervisor, socket, group: None })
    }

    fn group(start: Start) -> Result<Self, NotRun> {
        let mut command = Command::new(start.program);
        command
            .args(start.arguments)
            .stdin(Stdio::null())
            .stdout(start.stdout)
            .stderr(start.stderr)
            .env_clear()
            .envs(start.environment)
            .process_group(0);
        if let Some(directory) = start.directory {
            command.current_dir(directory);
        }
        let leader = command.spawn().map_err(NotRun::Command)?;
        let id = leader.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let id = id.expect("a process that was not waited for has an id");
        Ok(Self::Group { leader, id })
    }

    /// Asks it to end.
    fn ask_to_end(&self) {
        match self {
            Self::Supervised { socket, .. } => say(socket, END),
            Self::Group { id, .. } => signal(*id, Signal::TERM),
        }
    }

    fn kill(&self) {
        match self {
            Self::Supervised { socket, .. } => say(socket, KILL),
            Self::Group { id, .. } => signal(*id, Signal::KILL),
        }
    }

    /// Resolves when nothing of it is left.
    async fn gone(&mut self) {
        match self {
            Self::Supervised { supervisor, .. } => _ = supervisor.wait().await,
            Self::Group { leader, id } => {
                _ = leader.wait().await;
                while test_kill_process_group(*id).is_ok() {
                    sleep(GROUP_POLL).await;
                }
            }
        }
    }

    /// Waits for the end of what was asked to, and kills what is left of it after the grace.
    async fn end(mut self, grace: Duration, cleanup: &Cleanup) {
        // A supervisor counts the grace by itself.
        tokio::select! {
            () = self.gone() => return,
            () = sleep(grace) => {}
            () = cleanup.hurry() => {}
        }
        self.kill();
        if timeout(KILL_TIME, self.gone()).await.is_err() {
            tracing::error!("a command (process {}) does not end, not even by KILL", self.id());
        }
    }

    /// The number of a process, for people.
    fn id(&self) -> i32 {
        match self {
            Self::Supervised { supervisor, group, .. } => group
                .map_or_else(|| supervisor.id().map_or(0, u32::cast_signed), |group| group.as_raw_nonzero().get()),
            Self::Group { id, .. } => id.as_raw_nonzero().get(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        // Usually everybody is gone and there is nothing to wait for. A group's id is not given to others while a
        // process is in it, and one that has just emptied is not used again so soon.
        if let Running::Group { leader, id } = &running
            && leader.id().is_none()
            && test_kill_process_group(*id).is_err()
        {
            return;
        }
        running.ask_to_end();
        let (place, cleanup, grace) = (self.place.take(), self.cleanup.clone(), self.grace);
        self.cleanup.spawn(async move {
            running.end(grace, &cleanup).await;
            drop(place);
        });
    }
}

/// A word to a supervisor; one that is gone has nothing left to end.
fn say(socket: &UnixStream, word: u8) {
    if let Err(error) = socket.try_write(&[word]) {
        tracing::debug!("a supervisor that is to end a command: {error}");
    }
}

fn signal(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!("process group {}: {error}", group.as_raw_nonzero());
    }
}
