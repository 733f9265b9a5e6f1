//! The only place that names gRPC statuses: what the engine refuses, how a stream ends, and what is wrong with a
//! call become statuses, headers and trailers here.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use outflow_engine::{Code, Durability, End, Finish, Leave, Refusal};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Which run answers.
pub(super) const RUN_ID: HeaderName = HeaderName::from_static("outflow-run-id");
/// What the run outlives: `none`, `memory` or `disk`.
pub(super) const DURABILITY: HeaderName = HeaderName::from_static("outflow-durability");
/// About how many bytes the payloads of the whole run will have, where its source knew when it began.
pub(super) const EXPECTED_BYTES: HeaderName = HeaderName::from_static("outflow-expected-bytes");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const LAST_SEQUENCE: HeaderName = HeaderName::from_static("outflow-last-sequence");
const RUN_END: HeaderName = HeaderName::from_static("outflow-end");
const JOBS_FAILED: HeaderName = HeaderName::from_static("outflow-jobs-failed");
/// What stock clients' retry policies read (gRFC A6); `RetryInfo` in the details says the same to the others.
const RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// When to try again after a refusal that will pass.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest message of a status, in bytes: with its percent-encoding and the details' copy it stays below the 8 KiB to
/// which clients limit metadata. Job errors are bounded by the engine and have no details.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The status that tells a client why nothing was started.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let message = cut(refusal.to_string());
    match refusal {
        Refusal::Invalid { field, problem } => {
            let problem = &problem[..problem.floor_char_boundary(MESSAGE_BYTES_MAX)];
            Status::with_error_details(
                tonic::Code::InvalidArgument,
                message,
                ErrorDetails::with_bad_request_violation(field, problem),
            )
        }
        Refusal::UnknownSource { .. } | Refusal::UnknownId { .. } | Refusal::UnknownRun { .. } => {
            Status::not_found(message)
        }
        Refusal::NotReadable { .. } => Status::failed_precondition(message),
        Refusal::BeyondTail { tail, .. } => out_of_range(message, "tail", *tail),
        Refusal::BeforeHead { first, .. } => out_of_range(message, "first", *first),
        Refusal::KeyReused { .. } => Status::already_exists(message),
        Refusal::Damaged { .. } => Status::data_loss(message),
        Refusal::Source(error) => Status::new(code(error.code), message),
        Refusal::Exhausted { .. } | Refusal::SourceBusy { .. } | Refusal::StoreFailing { .. } => {
            retry_later(tonic::Code::ResourceExhausted, message)
        }
        Refusal::Draining => retry_later(tonic::Code::Unavailable, message),
        _ => Status::unknown(message),
    }
}

/// The trailers that end a stream.
pub(super) fn trailers(finish: &Finish) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(5);
    match status(finish) {
        Some(status) => add(&status, &mut trailers),
        None => _ = trailers.insert(GRPC_STATUS, HeaderValue::from_static("0")),
    }
    trailers.insert(LAST_SEQUENCE, finish.last_sequence.get().into());
    if let Some(end) = &finish.end {
        trailers.insert(RUN_END, HeaderValue::from_static(end_name(end)));
        trailers.insert(JOBS_FAILED, finish.jobs_failed.into());
    }
    trailers
}

/// The status of a stream that did not end well.
fn status(finish: &Finish) -> Option<Status> {
    Some(match (&finish.end, &finish.left) {
        (Some(End::Complete), _) | (None, None | Some(Leave::Enough)) => return None,
        (Some(End::Failed(error)), _) => Status::new(code(error.code), &error.message),
        (Some(End::Deadline), _) => Status::deadline_exceeded("the run took longer than its source allows"),
        (Some(End::Interrupted(reason)), _) => Status::aborted(cut(format!("the run was interrupted: {reason}"))),
        (Some(_), _) => Status::cancelled("the run was stopped"),
        (None, Some(cause)) => left(cause),
    })
}

/// The status of a stream that was ended from outside.
pub(super) fn left(cause: &Leave) -> Status {
    match cause {
        Leave::Deadline => Status::deadline_exceeded("the deadline of this call passed"),
        Leave::HeadDropped(first) => out_of_range(
            format!("what follows is no longer kept; the first response that is, is {first}"),
            "first",
            first.get(),
        ),
        Leave::Damaged(what) => {
            Status::data_loss(cut(format!("the store is damaged: {what}; `outflow data check` tells more")))
        }
        other => retry_later(tonic::Code::Unavailable, other.to_string()),
    }
}

/// Whether headers say that there is no such method, and nothing else.
pub(super) fn is_unimplemented(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| status == "12") && !headers.contains_key("grpc-message")
}

/// Writes a status where HTTP carries it.
pub(super) fn add(status: &Status, headers: &mut HeaderMap) {
    if let Err(error) = status.add_header(headers) {
        // A message that no header can carry: the code still can.
        tracing::warn!("a status did not fit its header: {error}");
        headers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
}

/// A message of a bounded length, cut between characters.
fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 4));
        message.push_str(" ...");
    }
    message
}

/// The place asked for is not there; the details name one that is (`google.rpc.ErrorInfo`, metadata).
fn out_of_range(message: String, name: &str, place: u64) -> Status {
    let metadata = [(name.to_owned(), place.to_string())];
    let reason = if name == "tail" { "BEYOND_TAIL" } else { "BEFORE_HEAD" };
    let details = ErrorDetails::with_error_info(reason, "outflow", metadata);
    Status::with_error_details(tonic::Code::OutOfRange, message, details)
}

/// A run's durability, as its header names it.
pub(super) fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::None => "none",
        Durability::Memory => "memory",
        Durability::Disk => "disk",
    }
}

fn retry_later(code: tonic::Code, message: String) -> Status {
    let mut status = Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(RETRY_AFTER)));
    let pushback = u64::try_from(RETRY_AFTER.as_millis()).expect("a second is short");
    status.metadata_mut().as_mut().insert(RETRY_PUSHBACK_MS, pushback.into());
    status
}

fn end_name(end: &End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::Failed(_) => "failed",
        End::Stopped => "stopped",
        End::Deadline => "deadline",
        _ => "interrupted",
    }
}

fn code(code: Code) -> tonic::Code {
    tonic::Code::from(code.number())
}

#[cfg(test)]
mod tests {
    use outflow_engine::Sequence;

    use super::*;

    #[test]
    fn every_code_keeps_its_number() {
        for known in [Code::Cancelled, Code::Unknown, Code::NotFound, Code::DataLoss, Code::Unauthenticated] {
            assert_eq!(code(known) as i32, known.number());
        }
    }

    #[test]
    fn what_ends_well_is_told_without_a_message() {
        let finish = |end, left| Finish { last_sequence: Sequence::NONE, end, jobs_failed: 0, left };
        let told = trailers(&finish(Some(End::Complete), None));
        let mut fields: Vec<_> = told.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        fields.sort_unstable();
        let expected: [(&str, &[u8]); 4] = [
            ("grpc-status", b"0"),
            ("outflow-end", b"complete"),
            ("outflow-jobs-failed", b"0"),
            ("outflow-last-sequence", b"0"),
        ];
        assert_eq!(fields, expected);
        let enough = trailers(&finish(None, Some(Leave::Enough)));
        assert_eq!((enough.len(), &enough[GRPC_STATUS]), (2, &HeaderValue::from_static("0")));
        assert_eq!(trailers(&finish(Some(End::Stopped), None))[GRPC_STATUS], "1");
    }

    #[test]
    fn a_refusal_fits_what_clients_accept_as_metadata() {
        let refusals = [
            Refusal::invalid("é".repeat(128), "é".repeat(100_000)),
            Refusal::UnknownSource { name: "é".repeat(100_000), known: String::new() },
        ];
        for refusal in refusals {
            let mut headers = HeaderMap::new();
            add(&refused(&refusal), &mut headers);
            let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(bytes < 8 * 1024, "{bytes} bytes");
        }
    }

    #[test]
    fn what_passes_says_when_to_try_again() {
        let mut headers = HeaderMap::new();
        add(&refused(&Refusal::Draining), &mut headers);
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers[RETRY_PUSHBACK_MS], "1000");
        assert!(headers.contains_key("grpc-status-details-bin"));
    }
}
