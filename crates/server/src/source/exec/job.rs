//! One command as a job: its pipes, its responses, and what its end means.

use std::{io, os::fd::OwnedFd, path::PathBuf, process::ExitStatus, process::Stdio, sync::Arc};

use std::os::unix::process::ExitStatusExt as _;

use outflow_engine::{Code, Emitter, JobError};
use tokio::{
    net::unix::pipe::Receiver,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    Stderr,
    complaints::{Complaints, LineLog, Tail},
    order::NotRun,
    process::{Process, Start},
};
use crate::source::Split;

/// A command that is to run.
pub(super) struct Command {
    /// As it was given, for people.
    pub(super) name: String,
    /// But for its pipes.
    pub(super) start: Start,
    pub(super) split: Split,
    pub(super) stderr: Stderr,
    pub(super) log: Arc<LineLog>,
    pub(super) place: Place,
}

/// Among the commands that may run at once.
pub(super) enum Place {
    /// It has one.
    Taken(OwnedSemaphorePermit),
    /// It waits for one.
    Among(Arc<Semaphore>),
}

impl Place {
    async fn taken(self) -> OwnedSemaphorePermit {
        match self {
            Self::Taken(permit) => permit,
            Self::Among(places) => places.acquire_owned().await.expect("it is never closed"),
        }
    }
}

impl Command {
    /// Runs it and emits its output, to its end.
    pub(super) async fn run(self, emitter: Emitter) -> Result<(), JobError> {
        let Self { name, mut start, split, stderr, log, place } = self;
        let directory = start.directory.clone();
        let place = place.taken().await;
        let not_run = |error| not_run(&name, directory.as_ref(), &error);
        let pipe = |error| not_run(NotRun::Supervisor(error));
        let (mut stdout, end) = pair().map_err(pipe)?;
        let mut complaints = match stderr {
            Stderr::Merge => {
                start.stderr = end.try_clone().map_err(pipe)?.into();
                None
            }
            Stderr::Error | Stderr::Log => {
                let (stderr_pipe, end) = pair().map_err(pipe)?;
                start.stderr = end.into();
                let complaints = if stderr == Stderr::Log {
                    Complaints::Logged(log, Vec::new())
                } else {
                    Complaints::Kept(Tail::default())
                };
                Some((complaints, stderr_pipe))
            }
        };
        start.stdout = Stdio::from(end);
        let mut process = Process::start(start, place, emitter.cleanup()).map_err(not_run)?;
        // The output is over when every process has closed it, the leader's children included, as in a shell's `$(…)`.
        let ended = async {
            tokio::try_join!(async { split.emit(&mut stdout, &emitter).await.map_err(JobError::from) }, async {
                process.exit().await.map_err(not_run)
            })
        };
        let ((), exit) = match &mut complaints {
            None => ended.await?,
            Some((complaints, pipe)) => {
                let ended = beside(ended, complaints.read(pipe)).await;
                complaints.read_rest(pipe);
                ended?
            }
        };
        if exit.success() {
            return Ok(());
        }
        Err(failed(&name, exit, &complaints.map_or_else(String::new, |(complaints, _)| complaints.text())))
    }
}

/// Awaits `work`, and beside it does `other`, as far as that comes.
async fn beside<T>(work: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = other => {}
    }
    work.await
}

/// A pipe: our end, and the command's.
fn pair() -> io::Result<(Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    Ok((Receiver::from_owned_fd(ours.into())?, theirs.into()))
}

fn not_run(name: &str, directory: Option<&PathBuf>, error: &NotRun) -> JobError {
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        let directory = directory.display();
        return JobError::new(
            Code::Internal,
            format_args!("cannot start `{name}`: {directory} is no directory (any more)"),
        );
    }
    let code = match error {
        NotRun::Command(error) | NotRun::Supervisor(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Code::Internal,
            io::ErrorKind::ArgumentListTooLong => Code::InvalidArgument,
            // No more processes, files or memory.
            _ => Code::ResourceExhausted,
        },
        NotRun::Lock(_) => Code::Internal,
        NotRun::Lost => return JobError::new(Code::Internal, format_args!("`{name}`: {error}")),
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
