//! What goes wrong with PostgreSQL, as errors of a job: a code that fits and what to do.

use std::error::Error as _;

use outflow_engine::{Code, JobError};
use tokio_postgres::{
    Error,
    error::{DbError, ErrorPosition, Severity, SqlState},
};

use super::{super::bind::Bound, shape::Wrong};

/// There is no session.
pub(super) fn cannot_connect(error: &Error) -> JobError {
    match error.as_db_error() {
        // Names and passwords may be secrets, and the database repeats them.
        Some(said) if said.code().code().starts_with("28") || *said.code() == SqlState::INVALID_CATALOG_NAME => {
            let code = said.code().code();
            let problem = format_args!("PostgreSQL refuses the login ({code}); its log says why");
            JobError::new(Code::PermissionDenied, problem)
        }
        Some(said) => told(said),
        None => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            JobError::new(Code::Unavailable, format_args!("PostgreSQL cannot be reached: {error}{cause}"))
        }
    }
}

/// The query cannot be asked at all.
pub(super) fn not_prepared(error: &Error) -> JobError {
    failed(error)
}

/// The query cannot be asked with these values.
pub(super) fn not_bound(error: &Error, bound: &[Bound]) -> JobError {
    let failed = failed(error);
    let Some(said) = error.as_db_error().filter(|said| said.code().code().starts_with("22")) else { return failed };
    // In whatever language: "unnamed portal parameter $1 = '…'".
    let number = said.where_().and_then(|place| place.split_once('$')).map(|(_, rest)| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<usize>()
    });
    let index = number.and_then(Result::ok).and_then(|number| number.checked_sub(1));
    match index.and_then(|index| Some((index, bound.get(index)?))) {
        Some((index, value)) => {
            JobError::new(Code::InvalidArgument, format_args!("{}: {}", value.name(index), said.message()))
        }
        None => failed,
    }
}

/// It went wrong while rows came.
pub(super) fn failed(error: &Error) -> JobError {
    if let Some(said) = error.as_db_error() {
        return told(said);
    }
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    JobError::new(Code::Unavailable, format_args!("the connection to PostgreSQL was lost: {error}{cause}"))
}

/// Whether there is no session any more.
pub(super) fn is_lost(error: &Error) -> bool {
    let is_fatal = |said: &DbError| matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    error.as_db_error().is_none_or(is_fatal)
}

/// A value that came is not what its type says.
pub(super) fn bad_value(column: &str, problem: &Wrong) -> JobError {
    let problem = match problem {
        Wrong::NotText => "is a text that is not UTF-8; ask for it as bytea, which comes as base64",
        Wrong::Malformed => "has a value of an unknown form; ask for it as text, with ::text",
    };
    JobError::new(Code::DataLoss, format_args!("column `{column}` {problem}"))
}

fn told(said: &DbError) -> JobError {
    let place = match said.position() {
        Some(ErrorPosition::Original(at)) => format!(" (at character {at} of the query)"),
        _ => String::new(),
    };
    let more = [said.detail(), said.hint()].into_iter().flatten().map(|more| format!("; {more}")).collect::<String>();
    let state = said.code().code();
    JobError::new(code(said.code()), format_args!("PostgreSQL: {}{place}{more} ({state})", said.message()))
}

/// By the class of the `SQLSTATE`, its first two characters; appendix A of PostgreSQL's manual.
fn code(state: &SqlState) -> Code {
    let state = state.code();
    match (&state[..2.min(state.len())], state) {
        // Writing where only reading is allowed.
        (_, "25006") => Code::FailedPrecondition,
        // Nobody of ours cancels a query that is still wanted: a time limit of the database's did.
        (_, "57014") => Code::DeadlineExceeded,
        (_, "42501") | ("28", _) => Code::PermissionDenied,
        ("08" | "57", _) => Code::Unavailable,
        ("53" | "54", _) => Code::ResourceExhausted,
        ("40" | "55", _) => Code::Aborted,
        // Values for which the query has no answer, such as a division by zero.
        ("22" | "21", _) => Code::OutOfRange,
        ("0A" | "25" | "26" | "34" | "3D" | "3F" | "42", _) => Code::FailedPrecondition,
        ("58" | "XX", _) => Code::Internal,
        _ => Code::Unknown,
    }
}
