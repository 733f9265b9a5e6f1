//! How a stream that ended well, or a run that ended at all, ended: what the trailers say.
//!
//! Owns: the run's end, and reading it and the status from trailers. Must not know: how the trailers came, whether to go
//! on after them.

use std::fmt;

use http::HeaderMap;

use crate::{Code, Status, Violation, numbering::Numbering};

const END: &str = "outflow-end";
const JOBS_FAILED: &str = "outflow-jobs-failed";
const LAST_SEQUENCE: &str = "outflow-last-sequence";

/// How a stream ended, where it was not merely cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The run has ended, and this reader was given all of it. From a plain server that answered `OK`: complete, with
    /// no failed jobs (it tells of none), numbered by this client.
    Ended {
        /// How the run ended; its status is the same for every reader at any later time.
        end: End,
        /// How many of its jobs failed.
        jobs_failed: u32,
        /// The sequence of its last response; 0 where it has none.
        last_sequence: u64,
    },
    /// The limit was reached. The run may have ended or not.
    Limit {
        /// The sequence of the last response that was given; go on after it.
        last_sequence: u64,
    },
}

/// How a run finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// All of it was done: status `OK`.
    Complete,
    /// A job failed: the first failed job's status.
    Failed,
    /// It was stopped: `CANCELLED`.
    Stopped,
    /// Its source's own time limit passed: `DEADLINE_EXCEEDED`.
    Deadline,
    /// The server could not go on with it after a restart: `ABORTED`.
    Interrupted,
    /// An end that this version does not know; the status says what it means.
    Other,
}

/// Displayed as the trailers have it: `complete`.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Deadline => "deadline",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        })
    }
}

/// What the trailers say beside the status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The run's end and its failed jobs, exactly when it has ended and this reader was given all of it.
    pub(crate) end: Option<(End, u32)>,
    pub(crate) last_sequence: Option<u64>,
}

impl Told {
    pub(crate) fn by(trailers: &HeaderMap) -> Result<Self, Violation> {
        let end = trailers.get(END).map(|end| match end.as_bytes() {
            b"complete" => End::Complete,
            b"failed" => End::Failed,
            b"stopped" => End::Stopped,
            b"deadline" => End::Deadline,
            b"interrupted" => End::Interrupted,
            _ => End::Other,
        });
        let jobs_failed = number(trailers, JOBS_FAILED)?.unwrap_or(0);
        let last_sequence = number(trailers, LAST_SEQUENCE)?;
        Ok(Self { end: end.map(|end| (end, jobs_failed)), last_sequence })
    }
}

/// What a stream's trailers make of it.
#[derive(Debug)]
pub(crate) enum Ending {
    /// `OK`, and it is clear why.
    Good(Outcome),
    /// Another status, and the run's end where it is the run's.
    Status(Status, Option<Outcome>),
    /// No status was received: they are no answer.
    NoStatus,
    /// They are not as the contract says.
    Wrong(Violation),
}

impl Ending {
    /// Reads the trailers of a stream whose responses were counted by `numbering`, and whose last message is whole or
    /// not.
    pub(crate) fn read(trailers: &HeaderMap, numbering: &Numbering, is_whole: bool) -> Self {
        let status = match Status::received(trailers) {
            None => return Self::NoStatus,
            Some(Err(received)) => return Self::Wrong(Violation::GrpcStatus { received }),
            Some(Ok(status)) => status,
        };
        if status.code() == Code::OK {
            return outcome_of_ok(trailers, numbering, is_whole).map_or_else(Self::Wrong, Self::Good);
        }
        // A plain server has no runs that could end, whatever it says. Trailers that contradict what came explain
        // nothing; the status is told all the same.
        let outcome = if numbering.is_plain() { None } else { ended(trailers, numbering).ok().flatten() };
        Self::Status(status, outcome)
    }
}

fn outcome_of_ok(trailers: &HeaderMap, numbering: &Numbering, is_whole: bool) -> Result<Outcome, Violation> {
    if !is_whole {
        return Err(Violation::Truncated);
    }
    let last_sequence = numbering.last();
    if numbering.is_plain() {
        return Ok(Outcome::Ended { end: End::Complete, jobs_failed: 0, last_sequence });
    }
    match ended(trailers, numbering)? {
        // An end with another status is none that `OK` may come with: a failed run must not look like a good one.
        Some(ended @ Outcome::Ended { end: End::Complete | End::Other, .. }) => Ok(ended),
        None if numbering.is_full() => Ok(Outcome::Limit { last_sequence }),
        _ => Err(Violation::EndMissing),
    }
}

/// What the trailers tell of the run's end, if it ended.
fn ended(trailers: &HeaderMap, numbering: &Numbering) -> Result<Option<Outcome>, Violation> {
    let told = Told::by(trailers)?;
    let last_sequence = match told.last_sequence {
        Some(told) if numbering.agrees_with(told) => told,
        Some(told) => return Err(Violation::LastSequence { told }),
        None => numbering.last(),
    };
    Ok(told.end.map(|(end, jobs_failed)| Outcome::Ended { end, jobs_failed, last_sequence }))
}

fn number<N: std::str::FromStr>(trailers: &HeaderMap, name: &'static str) -> Result<Option<N>, Violation> {
    let Some(value) = trailers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|value| value.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Violation::Trailer { name, value: String::from_utf8_lossy(value.as_bytes()).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&'static str, &'static str)]) -> Result<Told, Violation> {
        Told::by(&pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
    }

    #[test]
    fn every_end_has_its_name() {
        for (name, end) in [
            ("complete", End::Complete),
            ("failed", End::Failed),
            ("stopped", End::Stopped),
            ("deadline", End::Deadline),
            ("interrupted", End::Interrupted),
            ("evaporated", End::Other),
        ] {
            let all = told(&[(END, name), (JOBS_FAILED, "3"), (LAST_SEQUENCE, "9007199254740991")]).unwrap();
            assert_eq!(all, Told { end: Some((end, 3)), last_sequence: Some((1 << 53) - 1) });
        }
        let bare = told(&[(END, "failed")]).unwrap();
        assert_eq!(bare, Told { end: Some((End::Failed, 0)), last_sequence: None });
        assert_eq!(told(&[]).unwrap(), Told { end: None, last_sequence: None });
    }

    #[test]
    fn a_number_that_is_none_is_told() {
        for (name, value) in [(JOBS_FAILED, "-1"), (LAST_SEQUENCE, "many"), (LAST_SEQUENCE, "")] {
            let error = told(&[(END, "failed"), (name, value)]).unwrap_err();
            let Violation::Trailer { name: told_name, value: told_value } = error else { panic!("{error}") };
            assert_eq!((told_name, told_value.as_str()), (name, value));
        }
    }
}
