//! How work is refused and how a job fails, in the codes of `google.rpc.Code`. It knows no transport: whoever
//! serves a run maps these to its own statuses, in one place.

use std::fmt;

/// A `google.rpc.Code`, the number that goes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are google.rpc.Code's, and so is their meaning")]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number of this code in `google.rpc.Code`.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// How a job failed: the response in its place in the sequence, and, where its source says so, the run's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JobError {
    /// What kind of failure it is.
    pub code: Code,
    /// What happened and what to do, for the person who asked.
    pub message: String,
}

impl JobError {
    /// An error with its code and message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// This error with a message of at most `bytes_max` bytes, cut between characters and marked.
    pub(crate) fn bounded(mut self, bytes_max: usize) -> Self {
        if self.message.len() > bytes_max {
            self.message.truncate(self.message.floor_char_boundary(bytes_max.saturating_sub(4)));
            self.message.push_str(" ...");
        }
        self
    }
}

/// Why a request started nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A field of the request has a value that cannot be. No retry makes sense.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's name in the contract, such as `heartbeat` or `parameters.jobs`.
        field: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The request names a source that is not there. No retry makes sense.
    #[error("no source is called `{name}`; there is {known}")]
    UnknownSource {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No source claims the id and none is the default. No retry makes sense.
    #[error("no source answers id {id} and none is the default; name one of {known} in `source`")]
    UnknownId {
        /// The id that was asked for.
        id: i32,
        /// The names there are.
        known: String,
    },
    /// There is no such run (any more), or it is not this principal's. No retry makes sense.
    #[error("no run is called `{id}`: it never was, it has expired, or it is another principal's")]
    UnknownRun {
        /// The name that was asked for.
        id: String,
    },
    /// The run lived for one reader only. No retry makes sense.
    #[error(
        "run `{id}` was not journaled and cannot be read again; ask with linger or idempotency_key for one that can"
    )]
    NotReadable {
        /// The run.
        id: String,
    },
    /// The place asked for lies beyond the run's tail. No retry makes sense before the run has come that far.
    #[error("after: {after} lies beyond the last response of the run, which is {tail}")]
    BeyondTail {
        /// The place that was asked for.
        after: u64,
        /// The last sequence there is.
        tail: u64,
    },
    /// The place asked for is no longer kept: the source is an endless one. No retry makes sense.
    #[error("after: what follows {after} is no longer kept; the first response that is, is {first}")]
    BeforeHead {
        /// The place that was asked for.
        after: u64,
        /// The first sequence that is kept.
        first: u64,
    },
    /// The key was used with another request. No retry makes sense.
    #[error("idempotency_key: it was used with another {field}; take a new key for a new request")]
    KeyReused {
        /// What differs.
        field: &'static str,
    },
    /// Journaled runs cannot be written just now; plain ones can.
    #[error("journaled runs cannot be started now: {reason}; a plain request, without linger and key, can")]
    StoreFailing {
        /// What is wrong with the store.
        reason: String,
    },
    /// The store is damaged at this place. No retry makes sense.
    #[error("the store is damaged: {reason}; `outflow data check` tells more")]
    Damaged {
        /// Where, and how.
        reason: String,
    },
    /// The source cannot answer this request.
    #[error("{0}")]
    Source(#[from] JobError),
    /// A limit is reached; later it may not be.
    #[error("{what} is reached ({max}); try again later, or raise it in the server's configuration")]
    Exhausted {
        /// The name of the limit.
        what: &'static str,
        /// Its value.
        max: usize,
    },
    /// The source has as many runs under way as it may; later it may not.
    #[error(
        "source `{name}` has as many runs under way as it may ({max}); try again later, or raise its runs_at_once"
    )]
    SourceBusy {
        /// The source.
        name: String,
        /// How many it may have.
        max: usize,
    },
    /// The server is shutting down: another one, or a later attempt, can answer.
    #[error("the server is shutting down; try again")]
    Draining,
}

impl Refusal {
    /// A field with a value that cannot be, named as in the contract.
    pub fn invalid(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Invalid { field: field.into(), problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let error = JobError::new(Code::Internal, "é".repeat(100)).bounded(21);
        assert_eq!(error.message, format!("{} ...", "é".repeat(8)));
        let short = JobError::new(Code::Internal, "short");
        assert_eq!(short.clone().bounded(21), short);
    }
}
