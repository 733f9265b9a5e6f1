//! How things end: a run, once and for all, and each reader's stream. It knows no statuses of any transport.

use std::{fmt, time::Duration};

use crate::{JobError, Sequence};

/// How a run finished.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// All its jobs ended, as its source wants them to.
    Complete,
    /// A job failed: the first one's error.
    Failed(JobError),
    /// It was stopped before its jobs had ended.
    Stopped,
    /// Its source's own time limit passed.
    Deadline,
    /// It could not be taken up again after a restart, for this reason.
    Interrupted(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Complete => "complete",
            End::Failed(_) => "failed",
            End::Stopped => "stopped",
            End::Deadline => "deadline",
            End::Interrupted(_) => "interrupted",
        })
    }
}

/// How a reader's stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The last sequence given to this reader; 0 where it was given none.
    pub last_sequence: Sequence,
    /// The run's end, exactly when it has ended and this reader was given all of it.
    pub end: Option<End>,
    /// Jobs of the run that failed so far.
    pub jobs_failed: u32,
    /// Why this reader's stream ended before its run.
    pub left: Option<Leave>,
}

/// Why a reader left a run that had not ended, or that it had not been given all of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// It went away.
    Gone,
    /// It was given as many responses as it wanted.
    Enough,
    /// Its deadline passed.
    Deadline,
    /// It took nothing for so long.
    Stalled(Duration),
    /// The server shuts down.
    Draining,
    /// For too long nothing could be made durable, so nothing could be shown.
    StoreFailing,
    /// What it wants next is no longer kept; the first that is.
    HeadDropped(Sequence),
    /// What it wants next is damaged in the store: where, and how.
    Damaged(String),
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leave::Gone => f.write_str("reader left"),
            Leave::Enough => f.write_str("reader had enough"),
            Leave::Deadline => f.write_str("the reader's deadline passed"),
            Leave::Stalled(time) => write!(f, "reader took nothing for {time:?}"),
            Leave::Draining => f.write_str("server is shutting down"),
            Leave::StoreFailing => f.write_str("responses cannot be made durable"),
            Leave::HeadDropped(first) => {
                write!(f, "what was wanted is no longer kept, the first response is {first}")
            }
            Leave::Damaged(what) => write!(f, "the store is damaged: {what}"),
        }
    }
}
