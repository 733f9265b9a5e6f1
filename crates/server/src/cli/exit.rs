//! How the program ends, in one place, so that scripts can rely on it.

use std::process::ExitCode;

/// The exit codes of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It ended as it should, or the caller had enough.
    Done = 0,
    /// The stream, or the server, failed.
    Failed = 1,
    /// The arguments make no sense; clap's own number.
    Usage = 2,
    /// No connection (`EX_UNAVAILABLE` of sysexits).
    NoConnection = 69,
    /// Waited too long, as `timeout(1)` has it.
    TooLong = 124,
    /// Ended by Ctrl-C, while the run goes on, as shells have it (128 and the signal's number).
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
