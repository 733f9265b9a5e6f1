//! What a server and the supervisor of a command say to each other: the order, as the supervisor's arguments; the reports,
//! over the socket that is its stdin; and, the other way, single bytes. The end of that socket says that the server is gone.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use std::os::unix::process::ExitStatusExt as _;

/// The first argument of a process that is asked to supervise: nobody calls a program so.
pub(super) const ASKED: &str = "outflow-supervise";

/// Over the socket: ask the command to end, and kill it after the grace. The end of the socket means the same.
pub(super) const END: u8 = b'e';
/// Over the socket: kill it now.
pub(super) const KILL: u8 = b'k';

/// What to run, and how it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// How long the command has between TERM and KILL.
    pub(super) grace: Duration,
    /// Files to hold a lock of while anything of the command lives.
    pub(super) held: Vec<PathBuf>,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Order {
    /// As arguments behind [`ASKED`].
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> =
            vec![self.grace.as_millis().to_string().into(), self.held.len().to_string().into()];
        all.extend(self.held.iter().map(Into::into));
        all.push(self.program.clone().into());
        all.extend_from_slice(&self.arguments);
        all
    }

    /// The other way round.
    pub(super) fn from_arguments(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let number = |argument: Option<OsString>| argument.as_deref().and_then(OsStr::to_str)?.parse::<u64>().ok();
        let grace = Duration::from_millis(number(arguments.next())?);
        let held = number(arguments.next())?;
        let held = (0..held).map(|_| arguments.next().map(PathBuf::from)).collect::<Option<_>>()?;
        Some(Self { grace, held, program: arguments.next()?.into(), arguments: arguments.collect() })
    }
}

/// What a supervisor tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The command runs, as this process, whose group has the same number.
    Started(i32),
    /// The command could not be started, for this error of the system.
    NotStarted(i32),
    /// A file could not be locked, for this error of the system.
    NotHeld(i32),
    /// The supervisor could not do its own work, for this error of the system.
    CannotSupervise(i32),
    /// The command's first process ended so.
    Ended(i32),
}

/// Of a report.
pub(super) const REPORT_BYTES: usize = 8;

impl Report {
    pub(super) fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let (kind, value) = match self {
            Self::Started(pid) => (1, pid),
            Self::NotStarted(error) => (2, error),
            Self::NotHeld(error) => (3, error),
            Self::CannotSupervise(error) => (4, error),
            Self::Ended(status) => (5, status),
        };
        let mut bytes = [0; REPORT_BYTES];
        bytes[..4].copy_from_slice(&i32::to_ne_bytes(kind));
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    /// `None` for what no supervisor says.
    pub(super) fn from_bytes(bytes: [u8; REPORT_BYTES]) -> Option<Self> {
        let [kind, value] = [0, 4].map(|at| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte])));
        Some(match kind {
            1 => Self::Started(value),
            2 => Self::NotStarted(value),
            3 => Self::NotHeld(value),
            4 => Self::CannotSupervise(value),
            5 => Self::Ended(value),
            _ => return None,
        })
    }

    /// The end of a command, or why there is none.
    pub(super) fn exit(self) -> Option<Result<ExitStatus, NotRun>> {
        let error = io::Error::from_raw_os_error;
        match self {
            Self::Started(_) => None,
            Self::Ended(status) => Some(Ok(ExitStatus::from_raw(status))),
            Self::NotStarted(code) => Some(Err(NotRun::Command(error(code)))),
            Self::NotHeld(code) => Some(Err(NotRun::Lock(error(code)))),
            Self::CannotSupervise(code) => Some(Err(NotRun::Supervisor(error(code)))),
        }
    }
}

/// Why a command did not run, or nobody knows how it ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRun {
    #[error("{0}")]
    Command(io::Error),
    #[error(
        "the lock file in the data directory cannot be locked, so nothing is started that could outlive this server: {0}"
    )]
    Lock(io::Error),
    #[error("its supervising process does not start: {0}")]
    Supervisor(io::Error),
    /// It was killed, say, and the command with it.
    #[error("its supervising process is gone, and the command was killed with it")]
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_given() {
        for (held, arguments) in
            [(vec![], vec![]), (vec!["/a b/lock".into(), "/c".into()], vec!["".into(), "2".into()])]
        {
            let order = Order { grace: Duration::from_millis(1500), held, program: "/bin/sh".into(), arguments };
            assert_eq!(Order::from_arguments(order.to_arguments().into_iter()), Some(order));
        }
        assert_eq!(Order::from_arguments(["5".into(), "1".into(), "/lock".into()].into_iter()), None, "no program");
    }

    #[test]
    fn a_report_arrives_as_it_was_given() {
        for report in [
            Report::Started(7),
            Report::NotStarted(2),
            Report::NotHeld(11),
            Report::CannotSupervise(1),
            Report::Ended(256),
        ] {
            assert_eq!(Report::from_bytes(report.to_bytes()), Some(report));
        }
        assert_eq!(Report::from_bytes([9; REPORT_BYTES]), None);
    }
}
