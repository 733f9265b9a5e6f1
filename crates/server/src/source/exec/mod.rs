//! `exec`: the output of commands, each line (or what else it is split into) a response the moment it is written. No shell.
//! Each command runs under a supervisor, and what came of it ends with the run, or with the server, whichever is first. It
//! reads as fast as the run's reader takes, so a slow reader slows the command through its pipe.
//!
//! What a supervisor is stands in `supervisor.rs`; how one is started and ended in `process.rs`; what is said to it in
//! `order.rs`; a command as a job in `job.rs`.

mod complaints;
mod environment;
mod job;
mod order;
mod process;
mod settings;
mod supervisor;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use outflow_engine::{Job, PayloadKind, Placement, Plan, Refusal, Request, Source};
use serde::Deserialize;
use tokio::sync::Semaphore;

pub use environment::Environment;
pub(super) use settings::configured;
pub use supervisor::supervise_if_asked;

use self::{
    complaints::LineLog,
    job::{Command, Place},
    process::Start,
};
use super::{
    Split, Template,
    parameters::{Asked, Declared},
};
use crate::succession::GRACE_MAX;

/// How long a command has between TERM and KILL, unless set otherwise.
const GRACE: Duration = Duration::from_secs(2);
/// Commands of one source that run at once. Each is two processes, so the bound is the machine's and not the protocol's.
const COMMANDS_MAX: usize = 256;

/// Answers every request by running a command, or several as the jobs of one run.
///
/// A command has no stdin, and of the environment only what [`Environment`] says. When its run ends before it does, when it
/// leaves processes behind, and when the server ends, all that came of it is asked to end (TERM), and killed after a grace:
/// also what left its process group, and also where the server was killed itself. Programs of your own say
/// [`supervise_if_asked`] for that.
pub struct Exec {
    commands: Vec<Program>,
    directory: Option<PathBuf>,
    passed: BTreeMap<OsString, OsString>,
    set: BTreeMap<String, Template>,
    parameters: Declared,
    repeatable: bool,
    stderr: Stderr,
    log: Arc<LineLog>,
    grace: Duration,
    split: Split,
    payload: Option<PayloadKind>,
    places: Arc<Semaphore>,
}

/// A program and its arguments.
struct Program {
    /// As it was given.
    name: String,
    path: PathBuf,
    arguments: Vec<Template>,
}

/// What becomes of what a command writes to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stderr {
    /// Its last lines (ten, within 1 KiB) are part of the job's error, where the command fails.
    #[default]
    Error,
    /// It goes where stdout goes, in the order in which both are written.
    Merge,
    /// Its lines go to the server's log, at most a hundred in a second.
    Log,
}

/// Why a command cannot be a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// There is no command.
    #[error("no command is given")]
    Empty,
    /// An argument, or the value of a variable, has a place that nothing fills.
    #[error("{text}: {problem}")]
    Template {
        /// As it was given.
        text: String,
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
    /// Commands cannot run there.
    #[error("cannot run commands in {}: {source}", directory.display())]
    Directory {
        /// As it was given.
        directory: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// No variable is called so.
    #[error("`{0}` is no name of a variable; a name has no `=`, and `*` only at the end of one that is passed on")]
    Variable(String),
    /// It is longer than a server would wait for what one before it started.
    #[error("a grace of {} is too long; the longest is {}", humantime::format_duration(*.0), humantime::format_duration(GRACE_MAX))]
    Grace(Duration),
}

impl Exec {
    /// A source that runs `command`, a program and its arguments, found as the shell finds it. `{id}` in an argument is the
    /// id of the request, `{env.NAME}` and `{file.PATH}` what they hold now.
    ///
    /// # Errors
    /// [`ExecError`] where there is no such program, so that this is known before a port is bound.
    pub fn new(command: &[String]) -> Result<Self, ExecError> {
        Self::with(None, Declared::default()).and(command)
    }

    /// The same in a directory, from which a program's relative path is meant, too.
    ///
    /// # Errors
    /// As [`Exec::new`], and [`ExecError::Directory`] where it is none.
    pub fn new_in(directory: impl Into<PathBuf>, command: &[String]) -> Result<Self, ExecError> {
        Self::with(Some(found(directory.into())?), Declared::default()).and(command)
    }

    /// One without commands, so far.
    fn with(directory: Option<PathBuf>, parameters: Declared) -> Self {
        Self {
            commands: Vec::new(),
            directory,
            passed: Environment::default().passed(std::env::vars_os()),
            set: BTreeMap::new(),
            parameters,
            repeatable: false,
            stderr: Stderr::default(),
            log: Arc::new(LineLog::new("exec")),
            grace: GRACE,
            split: Split::default(),
            payload: None,
            places: Arc::new(Semaphore::new(COMMANDS_MAX)),
        }
    }

    /// Runs this command, too, as a further job of the same run.
    ///
    /// # Errors
    /// As [`Exec::new`].
    pub fn and(self, command: &[String]) -> Result<Self, ExecError> {
        let (name, arguments) = command.split_first().ok_or(ExecError::Empty)?;
        let arguments = arguments.iter().map(|argument| self.template(argument)).collect::<Result<_, _>>()?;
        self.and_with(name, arguments)
    }

    fn and_with(mut self, name: &str, arguments: Vec<Template>) -> Result<Self, ExecError> {
        if name.is_empty() {
            return Err(ExecError::Empty);
        }
        let path = match &self.directory {
            Some(directory) => which::which_in(name, std::env::var_os("PATH"), directory),
            None => which::which(name),
        };
        let path = path.map_err(|source| ExecError::NotFound { command: name.into(), source })?;
        self.commands.push(Program { name: name.into(), path, arguments });
        Ok(self)
    }

    fn template(&self, text: &str) -> Result<Template, ExecError> {
        Template::parse(text, &self.parameters, Path::new(""))
            .map_err(|problem| ExecError::Template { text: text.into(), problem: problem.to_string() })
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

    /// What becomes of stderr; by default [`Stderr::Error`].
    #[must_use]
    pub fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// What the log calls it, with [`Stderr::Log`]; by default `exec`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.log = Arc::new(LineLog::new(name));
        self
    }

    /// What of the server's environment its commands get, as it is now, and what is set beside it.
    ///
    /// # Errors
    /// [`ExecError::Template`] where a value has a place that nothing fills.
    pub fn environment(mut self, environment: &Environment) -> Result<Self, ExecError> {
        self.passed = environment.passed(std::env::vars_os());
        let values = environment.values().iter();
        self.set = values.map(|(name, value)| Ok((name.clone(), self.template(value)?))).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// How long a command has between TERM and KILL; by default 2 seconds. A server that shuts down gives less where this
    /// is more than it has time for.
    ///
    /// # Errors
    /// [`ExecError::Grace`] for more than 30 seconds.
    pub fn grace(mut self, grace: Duration) -> Result<Self, ExecError> {
        if grace > GRACE_MAX {
            return Err(ExecError::Grace(grace));
        }
        self.grace = grace;
        Ok(self)
    }

    fn payload_kind(&self) -> PayloadKind {
        let usual = if self.split == Split::Chunks { PayloadKind::Bytes } else { PayloadKind::Text };
        self.payload.unwrap_or(usual)
    }

    /// What the system is given to start one of the commands, but for its pipes.
    fn start(&self, program: &Program, asked: &Asked) -> Result<Start, Refusal> {
        let mut environment = self.passed.clone();
        for (name, value) in &self.set {
            environment.insert(name.into(), fill(value, asked)?.into());
        }
        let arguments = program.arguments.iter().map(|argument| Ok(fill(argument, asked)?.into()));
        Ok(Start {
            program: program.path.clone(),
            arguments: arguments.collect::<Result<_, Refusal>>()?,
            environment,
            directory: self.directory.clone(),
            grace: self.grace,
            stdout: Stdio::null(),
            stderr: Stdio::null(),
        })
    }
}

/// Puts what a request says into an argument. It stays one argument, whatever that is.
fn fill(template: &Template, asked: &Asked) -> Result<String, Refusal> {
    let filled = template.fill(asked);
    if filled.contains('\0') {
        return Err(Refusal::invalid("parameters", "have a zero byte, which no argument of a command can have"));
    }
    Ok(filled)
}

/// The directory, wherever the server's own is.
fn found(directory: PathBuf) -> Result<PathBuf, ExecError> {
    let path = std::fs::canonicalize(&directory)
        .and_then(|path| if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) });
    path.map_err(|source| ExecError::Directory { directory, source })
}

impl Source for Exec {
    fn plan(&self, request: &Request) -> Result<Plan, Refusal> {
        let asked = self.parameters.asked(request)?;
        let starts = self.commands.iter().map(|program| self.start(program, &asked));
        let starts = starts.collect::<Result<Vec<_>, Refusal>>()?;
        // One place is there for the run before it begins; its other jobs wait for theirs, and hold none meanwhile.
        let place = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| Refusal::Exhausted { what: "the limit on commands that run at once", max: COMMANDS_MAX })?;
        let mut place = Some(place);
        let jobs = self.commands.iter().zip(starts).map(|(program, start)| {
            let command = Command {
                name: program.name.clone(),
                start,
                split: self.split.clone(),
                stderr: self.stderr,
                log: self.log.clone(),
                place: place.take().map_or_else(|| Place::Among(self.places.clone()), Place::Taken),
            };
            Job::new(async move |emitter| command.run(emitter).await)
        });
        // They await their pipes, and between them only cut what came.
        let plan = Plan::new().jobs(jobs).payload(self.payload_kind()).placement(Placement::Reader);
        Ok(if self.repeatable { plan.repeatable() } else { plan })
    }

    fn configuration(&self) -> String {
        let commands: Vec<_> = self.commands.iter().map(|command| (&command.path, &command.arguments)).collect();
        format!(
            "{commands:?} {} {:?} {:?} {:?} {:?}",
            self.split,
            self.payload_kind(),
            self.directory,
            self.set,
            self.stderr
        )
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
        assert!(matches!(Exec::new(&["sh".into(), "{parameters.x}".into()]), Err(ExecError::Template { .. })));
        let exec = Exec::new(&["sh".into()]).unwrap();
        assert!(matches!(exec.and(&["no-such-command-anywhere".into()]), Err(ExecError::NotFound { .. })));
    }

    #[test]
    fn a_relative_program_is_meant_from_the_directory_of_its_command() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("build.sh");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let command = ["./build.sh".to_owned()];
        assert!(matches!(Exec::new_in(directory.path(), &command), Err(ExecError::NotFound { .. })), "no program");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Exec::new_in(directory.path(), &command).is_ok());
        assert!(matches!(Exec::new(&command), Err(ExecError::NotFound { .. })));
        for none in [script, directory.path().join("nowhere")] {
            assert!(matches!(Exec::new_in(none, &command), Err(ExecError::Directory { .. })));
        }
    }

    #[test]
    fn a_grace_has_a_bound() {
        let exec = || Exec::new(&["sh".into()]).unwrap();
        assert!(exec().grace(GRACE_MAX).is_ok());
        assert!(matches!(exec().grace(GRACE_MAX + Duration::from_millis(1)), Err(ExecError::Grace(_))));
    }

    #[test]
    fn what_changes_the_answer_changes_the_configuration() {
        let exec = || Exec::new(&["sh".into()]).unwrap();
        let mut all: Vec<_> = [
            exec(),
            exec().split(Split::Chunks),
            exec().payload(PayloadKind::Lossy),
            exec().stderr(Stderr::Merge),
            exec().environment(&Environment::default().set("A", "b").unwrap()).unwrap(),
            exec().and(&["sh".into()]).unwrap(),
            Exec::new_in("/", &["sh".into()]).unwrap(),
        ]
        .map(|exec| exec.configuration())
        .into();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
    }
}
