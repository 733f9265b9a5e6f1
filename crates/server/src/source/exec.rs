//! `exec`: the output of a command, each line (or what else it is split into) a response the moment it is written. No
//! shell; a process group of its own, which ends with the run. It reads as fast as the run's reader takes, so a slow
//! reader slows the command through its pipe.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use outflow_engine::{Cleanup, Code, Emitter, Job, JobError, PayloadKind, Placement, Plan, Refusal, Request, Source};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{Entry, Problem, Split, Template, parameters::Declared};

/// How long a process group has between TERM and KILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long KILL may take; a process that waits for a broken disk cannot be waited for.
const KILL_TIME: Duration = Duration::from_secs(2);
/// How often a group without its leader is looked at until it is empty.
const GROUP_POLL: Duration = Duration::from_millis(10);
/// How much of the end of stderr is kept.
const STDERR_BYTES_MAX: usize = 1024;
const STDERR_LINES_MAX: usize = 10;
/// Commands that run at once. Each is a process, so the bound is the machine's and not the protocol's.
const PROCESSES_MAX: usize = 256;

/// Answers every request by running a command.
pub struct Exec {
    program: PathBuf,
    name: String,
    arguments: Vec<Template>,
    parameters: Declared,
    split: Split,
    payload: Option<PayloadKind>,
    processes: Arc<Semaphore>,
}

/// Why a command cannot be a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// There is no command.
    #[error("no command is given")]
    Empty,
    /// An argument has a place that nothing fills.
    #[error("{argument}: {problem}")]
    Argument {
        /// As it was given.
        argument: String,
        /// What is wrong.
        problem: String,
    },
    /// It is not there, or not a program.
    #[error("cannot run `{command}`: {source}; give its path, or put its folder into PATH")]
    NotFound {
        /// As it was given.
        command: String,
        /// What is wrong.
        source: which::Error,
    },
}

impl Exec {
    /// A source that runs `command`, a program and its arguments, found as the shell finds it. `{id}` in an argument is the
    /// id of the request, `{env.NAME}` and `{file.PATH}` what they hold now.
    ///
    /// # Errors
    /// [`ExecError`] where there is no such program, so that this is known before a port is bound.
    pub fn new(command: &[String]) -> Result<Self, ExecError> {
        let parameters = Declared::default();
        let argument = |argument: &String| {
            Template::parse(argument, &parameters, Path::new(""))
                .map_err(|error| ExecError::Argument { argument: argument.clone(), problem: error.to_string() })
        };
        let arguments = command.iter().skip(1).map(argument).collect::<Result<_, _>>()?;
        Self::with(command.first().map_or("", String::as_str), arguments, parameters)
    }

    fn with(name: &str, arguments: Vec<Template>, parameters: Declared) -> Result<Self, ExecError> {
        if name.is_empty() {
            return Err(ExecError::Empty);
        }
        let program = which::which(name).map_err(|source| ExecError::NotFound { command: name.into(), source })?;
        Ok(Self {
            program,
            name: name.into(),
            arguments,
            parameters,
            split: Split::default(),
            payload: None,
            processes: Arc::new(Semaphore::new(PROCESSES_MAX)),
        })
    }

    /// How its output becomes responses; by default each line is one.
    #[must_use]
    pub fn split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Whether responses are text, text with what is not UTF-8 replaced, or bytes. By default chunks are bytes, which end
    /// anywhere in a text, and everything else is text.
    #[must_use]
    pub fn payload(mut self, payload: PayloadKind) -> Self {
        self.payload = Some(payload);
        self
    }

    fn payload_kind(&self) -> PayloadKind {
        let usual = if self.split == Split::Chunks { PayloadKind::Bytes } else { PayloadKind::Text };
        self.payload.unwrap_or(usual)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    command: Vec<String>,
    #[serde(default)]
    split: Split,
}

/// A source of its entry in a configuration.
pub(super) fn configured(entry: &mut Entry<'_>) -> Result<Box<dyn Source>, Problem> {
    let Settings { command, split } = entry.settings()?;
    let argument = |(n, argument): (usize, &String)| entry.template(&format!("command.{n}"), argument);
    let arguments = command.iter().enumerate().skip(1).map(argument).collect::<Result<_, _>>()?;
    let name = command.first().map_or("", String::as_str);
    let exec = Exec::with(name, arguments, entry.parameters().clone())
        .map_err(|error| entry.problem("command", format_args!("command: {error}")))?;
    Ok(Box::new(exec.split(split)))
}

impl Source for Exec {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let asked = self.parameters.asked(request)?;
        let place = self
            .processes
            .clone()
            .try_acquire_owned()
            .map_err(|_| Refusal::Exhausted { what: "the limit on commands that run at once", max: PROCESSES_MAX })?;
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments.iter().map(|argument| argument.fill(&asked)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (name, split) = (self.name.clone(), self.split.clone());
        let job = Job::new(async move |emitter| run(command, name, &split, place, emitter).await);
        // It awaits its pipes, and between them only cuts what came.
        Ok(Plan::new().job(job).payload(self.payload_kind()).placement(Placement::Reader))
    }

    fn configuration(&self) -> String {
        format!("{} {:?} {} {:?}", self.program.display(), self.arguments, self.split, self.payload_kind())
    }
}

async fn run(
    mut command: Command,
    name: String,
    split: &Split,
    place: OwnedSemaphorePermit,
    emitter: Emitter,
) -> Result<(), JobError> {
    let mut group =
        Group::start(&mut command, place, emitter.cleanup()).map_err(|error| not_started(&name, &error))?;
    let child = group.leader();
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    // The output is over when every process has closed it, the leader's children included, as in a shell's `$(…)`.
    let (emitted, complaint, exit) = tokio::join!(split.emit(stdout, &emitter), last_lines(stderr), child.wait());
    emitted?;
    let exit =
        exit.map_err(|error| JobError::new(Code::Internal, format_args!("cannot wait for `{name}`: {error}")))?;
    if exit.success() { Ok(()) } else { Err(failed(&name, exit, &complaint)) }
}

fn not_started(name: &str, error: &io::Error) -> JobError {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Code::Internal,
        // No more processes, files or memory.
        _ => Code::ResourceExhausted,
    };
    JobError::new(code, format_args!("cannot start `{name}`: {error}"))
}

fn failed(name: &str, exit: ExitStatus, complaint: &str) -> JobError {
    let how = match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".into(),
    };
    let colon = if complaint.is_empty() { "" } else { ": " };
    JobError::new(Code::Unknown, format_args!("`{name}` {how}{colon}{complaint}"))
}

/// Reads `complaints` to their end and keeps their last lines.
async fn last_lines(mut complaints: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut read = [0; 4096];
    // An error ends it like an end: there is nobody to tell, and the exit status says what matters.
    while let Ok(bytes @ 1..) = complaints.read(&mut read).await {
        kept.extend_from_slice(&read[..bytes]);
        kept.drain(..kept.len().saturating_sub(STDERR_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(STDERR_LINES_MAX)..].join("\n").trim().to_owned()
}

/// A process and all its descendants that stayed in its group. Dropping it ends them: TERM, and KILL after a grace.
struct Group {
    leader: Option<Child>,
    id: Pid,
    place: Option<OwnedSemaphorePermit>,
    cleanup: Cleanup,
}

impl Group {
    fn start(command: &mut Command, place: OwnedSemaphorePermit, cleanup: Cleanup) -> io::Result<Self> {
        let leader = command.spawn()?;
        let id = leader.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let id = id.expect("a process that was not waited for has an id");
        Ok(Self { leader: Some(leader), id, place: Some(place), cleanup })
    }

    fn leader(&mut self) -> &mut Child {
        self.leader.as_mut().expect("only drop takes the leader")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        let (id, place, cleanup) = (self.id, self.place.take(), self.cleanup.clone());
        // Usually everybody is gone and there is nothing to wait for. A group's id is not given to others while a
        // process is in it, and one that has just emptied is not used again so soon.
        if leader.id().is_none() && test_kill_process_group(id).is_err() {
            return;
        }
        signal(id, Signal::TERM);
        self.cleanup.spawn(async move {
            end(leader, id, &cleanup).await;
            drop(place);
        });
    }
}

/// Waits for a group that was sent TERM, and kills what is left of it after the grace.
async fn end(mut leader: Child, id: Pid, cleanup: &Cleanup) {
    let mut gone = std::pin::pin!(async {
        _ = leader.wait().await;
        while test_kill_process_group(id).is_ok() {
            sleep(GROUP_POLL).await;
        }
    });
    tokio::select! {
        () = &mut gone => return,
        () = sleep(TERM_GRACE) => {}
        () = cleanup.hurry() => {}
    }
    signal(id, Signal::KILL);
    if timeout(KILL_TIME, gone).await.is_err() {
        tracing::error!("process group {} does not end, not even by KILL", id.as_raw_nonzero());
    }
}

fn signal(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!("process group {}: {error}", group.as_raw_nonzero());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_known_at_once() {
        let missing = Exec::new(&["no-such-command-anywhere".into()]);
        assert!(matches!(missing, Err(ExecError::NotFound { .. })));
        assert!(matches!(Exec::new(&[]), Err(ExecError::Empty)));
        assert!(Exec::new(&["sh".into()]).is_ok());
    }

    #[tokio::test]
    async fn of_many_complaints_the_last_lines_are_kept() {
        let complaints = (0..1_000).map(|n| format!("line {n}\n")).collect::<String>();
        let kept = last_lines(complaints.as_bytes()).await;
        assert_eq!(kept.lines().count(), STDERR_LINES_MAX);
        assert!(kept.ends_with("line 998\nline 999"), "{kept}");
    }
}
