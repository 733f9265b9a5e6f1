//! The bodies of the live journal's records that are no frames: protobuf messages, whose fields are described in
//! `docs/format.md`. A field that is not known is skipped. It knows no heads and no files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use outflow_engine::{Code, End, Ended, JobError, JobIndex, Key, Principal, Record, Sequence, Start, Timestamp};
use prost::{DecodeError, Message};

use super::record::Kind;

/// What kind of record this is.
pub(super) fn kind(record: &Record) -> Kind {
    match record {
        Record::Started(_) => Kind::Started,
        Record::JobStarted(_) => Kind::JobStarted,
        Record::Frames(_) => Kind::Frames,
        Record::JobEnded(..) => Kind::JobEnded,
        Record::LingerRaised(_) => Kind::LingerRaised,
        Record::HeadDropped(_) => Kind::HeadDropped,
        Record::Ended(_) => Kind::Ended,
        Record::Deleted => Kind::Deleted,
        Record::KeyBound(_) => Kind::KeyBound,
    }
}

/// Appends the body of a record to `bytes`; that of frames is the frames, and is not made here.
pub(super) fn encode(record: &Record, bytes: &mut Vec<u8>) {
    let encoded = match record {
        Record::Frames(_) | Record::Deleted => Ok(()),
        Record::Started(start) => StartBody::from(&**start).encode(bytes),
        Record::JobStarted(job) => JobBody { job: job.get(), error: None }.encode(bytes),
        Record::JobEnded(job, error) => {
            JobBody { job: job.get(), error: error.as_ref().map(ErrorBody::from) }.encode(bytes)
        }
        Record::LingerRaised(linger) => LingerBody { linger: Some((*linger).into()) }.encode(bytes),
        Record::HeadDropped(first) => HeadBody { first: first.get() }.encode(bytes),
        Record::Ended(ended) => EndedBody::from(ended).encode(bytes),
        Record::KeyBound(key) => KeyBody { key: key.0.clone() }.encode(bytes),
    };
    encoded.expect("a vector grows");
}

/// The record of this kind and body; frames and batches are not made here.
pub(super) fn decode(kind: Kind, body: &[u8]) -> Result<Record, DecodeError> {
    Ok(match kind {
        Kind::Batch | Kind::Frames => unreachable!("neither is a message"),
        Kind::Started => Record::Started(Arc::new(StartBody::decode(body)?.into())),
        Kind::JobStarted => Record::JobStarted(JobIndex::new(JobBody::decode(body)?.job)),
        Kind::JobEnded => {
            let JobBody { job, error } = JobBody::decode(body)?;
            Record::JobEnded(JobIndex::new(job), error.map(JobError::from))
        }
        Kind::LingerRaised => {
            Record::LingerRaised(LingerBody::decode(body)?.linger.map_or(Duration::ZERO, Duration::from))
        }
        Kind::HeadDropped => Record::HeadDropped(Sequence::new(HeadBody::decode(body)?.first)),
        Kind::Ended => Record::Ended(EndedBody::decode(body)?.into()),
        Kind::Deleted => Record::Deleted,
        Kind::KeyBound => Record::KeyBound(Key(KeyBody::decode(body)?.key)),
    })
}

#[derive(Clone, PartialEq, Message)]
struct StartBody {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(fixed64, tag = "2")]
    configuration: u64,
    #[prost(int32, tag = "3")]
    id: i32,
    #[prost(btree_map = "string, string", tag = "4")]
    parameters: BTreeMap<String, String>,
    // 5 is kept for the principal: without it, it is nobody known.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    keys: Vec<Bytes>,
    #[prost(uint64, tag = "7")]
    at: u64,
    #[prost(uint32, tag = "8")]
    jobs: u32,
    #[prost(message, optional, tag = "9")]
    linger: Option<SpanBody>,
    #[prost(message, optional, tag = "10")]
    reuse: Option<SpanBody>,
    #[prost(fixed64, tag = "11")]
    basis: u64,
    #[prost(uint64, optional, tag = "12")]
    expected_bytes: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SpanBody {
    #[prost(uint64, tag = "1")]
    seconds: u64,
    #[prost(uint32, tag = "2")]
    nanos: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorBody {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct JobBody {
    #[prost(uint32, tag = "1")]
    job: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<ErrorBody>,
}

#[derive(Clone, PartialEq, Message)]
struct LingerBody {
    #[prost(message, optional, tag = "1")]
    linger: Option<SpanBody>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyBody {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct HeadBody {
    #[prost(uint64, tag = "1")]
    first: u64,
}

/// How a run ended: `how` is 1 complete, 2 failed, 3 stopped, 4 deadline, 5 interrupted.
#[derive(Clone, PartialEq, Message)]
struct EndedBody {
    #[prost(uint32, tag = "1")]
    how: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<ErrorBody>,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(uint32, tag = "4")]
    jobs_failed: u32,
    #[prost(uint64, tag = "5")]
    at: u64,
    #[prost(message, optional, tag = "6")]
    in_service: Option<SpanBody>,
}

impl From<&Start> for StartBody {
    fn from(start: &Start) -> Self {
        Self {
            source: start.source.to_string(),
            configuration: start.configuration,
            id: start.id,
            parameters: start.parameters.to_map(),
            keys: start.keys.iter().map(|key| key.0.clone()).collect(),
            at: start.at.as_millis(),
            jobs: start.jobs,
            linger: Some(start.linger.into()),
            reuse: start.reuse.map(SpanBody::from),
            basis: start.basis,
            expected_bytes: start.expected_bytes,
        }
    }
}

impl From<StartBody> for Start {
    fn from(body: StartBody) -> Self {
        Self {
            source: body.source.into(),
            configuration: body.configuration,
            id: body.id,
            parameters: (&body.parameters).into(),
            principal: Principal::Anonymous,
            keys: body.keys.into_iter().map(Key).collect(),
            at: Timestamp::from_millis(body.at),
            jobs: body.jobs,
            linger: body.linger.map_or(Duration::ZERO, Duration::from),
            reuse: body.reuse.map(Duration::from),
            basis: body.basis,
            expected_bytes: body.expected_bytes,
        }
    }
}

impl From<Duration> for SpanBody {
    fn from(duration: Duration) -> Self {
        Self { seconds: duration.as_secs(), nanos: duration.subsec_nanos() }
    }
}

impl From<SpanBody> for Duration {
    fn from(span: SpanBody) -> Self {
        // Nanoseconds below a second, whatever stands there: the sum of both can overflow and must not panic.
        Duration::new(span.seconds, span.nanos % 1_000_000_000)
    }
}

impl From<&JobError> for ErrorBody {
    fn from(error: &JobError) -> Self {
        Self { code: error.code.number(), message: error.message.clone() }
    }
}

impl From<ErrorBody> for JobError {
    fn from(body: ErrorBody) -> Self {
        Self::new(code(body.code), body.message)
    }
}

impl From<&Ended> for EndedBody {
    fn from(ended: &Ended) -> Self {
        let (how, error, reason) = match &ended.end {
            End::Complete => (1, None, String::new()),
            End::Failed(error) => (2, Some(ErrorBody::from(error)), String::new()),
            End::Stopped => (3, None, String::new()),
            End::Deadline => (4, None, String::new()),
            End::Interrupted(reason) => (5, None, reason.clone()),
            // Ends are added with this file: one that has no number yet is written as what it certainly is.
            _ => (5, None, ended.end.to_string()),
        };
        Self {
            how,
            error,
            reason,
            jobs_failed: ended.jobs_failed,
            at: ended.at.as_millis(),
            in_service: Some(ended.in_service.into()),
        }
    }
}

impl From<EndedBody> for Ended {
    fn from(body: EndedBody) -> Self {
        let end = match body.how {
            1 => End::Complete,
            2 => End::Failed(body.error.map_or_else(|| JobError::new(Code::Unknown, ""), JobError::from)),
            3 => End::Stopped,
            4 => End::Deadline,
            _ => End::Interrupted(body.reason),
        };
        Self {
            end,
            jobs_failed: body.jobs_failed,
            at: Timestamp::from_millis(body.at),
            in_service: body.in_service.map_or(Duration::ZERO, Duration::from),
        }
    }
}

/// The code of this number; `Unknown` where it is none.
fn code(number: i32) -> Code {
    use Code::{
        Aborted, AlreadyExists, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
        NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
        Unknown,
    };
    let codes = [
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    ];
    codes.into_iter().find(|code| code.number() == number).unwrap_or(Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(end: End) -> Record {
        let in_service = Duration::new(u64::MAX, 999_999_999);
        Record::Ended(Ended { end, jobs_failed: 3, at: Timestamp::from_millis(4), in_service })
    }

    #[test]
    fn a_record_is_decoded_as_it_was() {
        let start = Start {
            source: "exec".into(),
            configuration: u64::MAX,
            id: -5,
            parameters: [("a", "é"), ("b", "")].into_iter().collect(),
            principal: Principal::Anonymous,
            keys: [Key(Bytes::from_static(b"\0key")), Key(Bytes::from_static(b""))].into(),
            at: Timestamp::from_millis(1_700_000_000_000),
            jobs: 7,
            linger: Duration::from_millis(1500),
            reuse: Some(Duration::ZERO),
            basis: u64::MAX - 1,
            expected_bytes: Some(0),
        };
        let error = JobError::new(Code::Unauthenticated, "who?");
        let records = [
            Record::Started(Arc::new(start)),
            Record::Started(Arc::new(Start::default())),
            Record::JobStarted(JobIndex::new(0)),
            Record::JobStarted(JobIndex::new(u32::MAX)),
            Record::JobEnded(JobIndex::new(9), None),
            Record::JobEnded(JobIndex::new(9), Some(error.clone())),
            Record::LingerRaised(Duration::MAX),
            Record::HeadDropped(Sequence::new(1 << 52)),
            ended(End::Complete),
            ended(End::Failed(error)),
            ended(End::Stopped),
            ended(End::Deadline),
            ended(End::Interrupted("its source is gone".into())),
            Record::Deleted,
        ];
        for record in records {
            let mut body = Vec::new();
            encode(&record, &mut body);
            assert_eq!(decode(kind(&record), &body), Ok(record));
        }
    }

    #[test]
    fn a_field_of_a_newer_program_is_skipped() {
        let mut body = Vec::new();
        encode(&Record::JobStarted(JobIndex::new(4)), &mut body);
        // Field 15, two bytes long.
        body.extend([15 << 3 | 2, 2, 1, 2]);
        assert_eq!(decode(Kind::JobStarted, &body), Ok(Record::JobStarted(JobIndex::new(4))));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error() {
        for nanos in [0, 999_999_999, 1_000_000_000, u32::MAX] {
            let body = LingerBody { linger: Some(SpanBody { seconds: u64::MAX, nanos }) }.encode_to_vec();
            assert!(decode(Kind::LingerRaised, &body).is_ok());
        }
        assert!(decode(Kind::Started, &[0xff; 9]).is_err());
    }
}
