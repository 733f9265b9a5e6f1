//! What a row of the archive says about a run, byte by byte as in `docs/format.md`: protobuf messages whose unknown
//! fields are skipped, each behind a checksum. It knows neither tables nor files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use outflow_engine::{
    Chunk, Code, End, Ended, JobError, JobIndex, Jobs, Key, Principal, RunId, RunRecord, Sequence, Start, StoreError,
    Timestamp,
};
use prost::Message;

/// Bytes of a checksum: CRC32C (Castagnoli), little-endian, over the key of the row and what follows the checksum.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// What the archive knows of a run.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Row {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(fixed64, tag = "2")]
    configuration: u64,
    #[prost(sint32, tag = "3")]
    request: i32,
    #[prost(btree_map = "string, string", tag = "4")]
    parameters: BTreeMap<String, String>,
    /// Empty: anonymous.
    #[prost(string, tag = "5")]
    principal: String,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    keys: Vec<Bytes>,
    #[prost(uint64, tag = "7")]
    started_millis: u64,
    #[prost(uint32, tag = "8")]
    jobs: u32,
    #[prost(uint64, tag = "9")]
    linger_nanos: u64,
    #[prost(uint64, optional, tag = "10")]
    reuse_nanos: Option<u64>,
    #[prost(message, optional, tag = "11")]
    pub(super) ended: Option<EndedRow>,
    /// How many sequences at its beginning are no longer kept.
    #[prost(uint64, tag = "12")]
    pub(super) dropped: u64,
    #[prost(uint64, tag = "13")]
    pub(super) last: u64,
    #[prost(uint64, tag = "14")]
    bytes: u64,
    /// The frames behind those in blocks.
    #[prost(bytes = "bytes", tag = "15")]
    pub(super) tail: Bytes,
    /// The first sequence in `tail`.
    #[prost(uint64, tag = "16")]
    pub(super) tail_first: u64,
    /// Bytes that its blocks take in the file.
    #[prost(uint64, tag = "17")]
    pub(super) block_bytes: u64,
    /// As raised; absent: as it began.
    #[prost(uint64, optional, tag = "18")]
    raised_nanos: Option<u64>,
    /// Of a run without an end only.
    #[prost(uint32, repeated, tag = "19")]
    jobs_started: Vec<u32>,
    #[prost(uint32, repeated, tag = "20")]
    jobs_ended: Vec<u32>,
    #[prost(uint32, tag = "21")]
    jobs_failed: u32,
    #[prost(message, optional, tag = "22")]
    first_error: Option<ErrorRow>,
    /// Bytes of frames in the last block.
    #[prost(uint64, tag = "23")]
    pub(super) last_block_bytes: u64,
    /// Those that were bound to it later.
    #[prost(bytes = "bytes", repeated, tag = "24")]
    later_keys: Vec<Bytes>,
    /// Absent: 0.
    #[prost(fixed64, tag = "25")]
    basis: u64,
    #[prost(uint64, optional, tag = "26")]
    expected_bytes: Option<u64>,
}

/// How a run ended, and when.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EndedRow {
    #[prost(uint64, tag = "1")]
    pub(super) in_service_nanos: u64,
    /// 1 complete, 2 failed, 3 stopped, 4 deadline, 5 interrupted.
    #[prost(uint32, tag = "2")]
    end: u32,
    #[prost(uint64, tag = "3")]
    at_millis: u64,
    #[prost(uint32, tag = "4")]
    jobs_failed: u32,
    /// Of a failed run the first failed job's, of an interrupted one the reason with code 0.
    #[prost(message, optional, tag = "5")]
    error: Option<ErrorRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorRow {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// What the archive knows of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StateRow {
    /// The format of the archive.
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(uint64, tag = "2")]
    pub(super) in_service_nanos: u64,
    /// Bytes that all runs take, about.
    #[prost(uint64, tag = "3")]
    pub(super) bytes: u64,
}

/// Writes the checksum to the beginning of `value`, where there is place for it.
pub(super) fn seal(key: &[u8], value: &mut [u8]) {
    let (place, rest) = value.split_at_mut(CHECKSUM_BYTES);
    place.copy_from_slice(&checksum(key, rest).to_le_bytes());
}

/// What follows the checksum; `None` where it is not what was written.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, rest) = value.split_first_chunk::<CHECKSUM_BYTES>()?;
    (u32::from_le_bytes(*sum) == checksum(key, rest)).then_some(rest)
}

fn checksum(key: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), rest)
}

/// The message as a row's value.
pub(super) fn encode(key: &[u8], message: &impl Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM_BYTES + message.encoded_len());
    value.extend_from_slice(&[0; CHECKSUM_BYTES]);
    message.encode(&mut value).expect("a vector grows");
    seal(key, &mut value);
    value
}

/// The message that a row's value is; `None` where it is not what was written.
pub(super) fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Option<M> {
    M::decode(unseal(key, value)?).ok()
}

/// A duration as rows keep it; 584 years and more are one.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Row {
    /// What `record` says. Nothing of its frames is in it yet.
    pub(super) fn new(record: &RunRecord) -> Self {
        let RunRecord { id: _, start, linger, keys, first, last, bytes, jobs, ended } = record;
        let bytes_of = |keys: &[Key]| keys.iter().map(|key| key.0.clone()).collect();
        let (linger_nanos, raised_nanos) = (nanos(start.linger), nanos(*linger));
        let mut row = Self {
            source: start.source.to_string(),
            configuration: start.configuration,
            request: start.id,
            parameters: start.parameters.to_map(),
            principal: principal_name(&start.principal),
            keys: bytes_of(&start.keys),
            later_keys: bytes_of(keys.get(start.keys.len()..).unwrap_or_default()),
            started_millis: start.at.as_millis(),
            jobs: start.jobs,
            linger_nanos,
            reuse_nanos: start.reuse.map(nanos),
            basis: start.basis,
            expected_bytes: start.expected_bytes,
            ended: ended.as_deref().map(EndedRow::new),
            dropped: first.get().saturating_sub(1),
            last: last.get(),
            bytes: *bytes,
            raised_nanos: (raised_nanos != linger_nanos).then_some(raised_nanos),
            ..Self::default()
        };
        // Nothing asks which jobs of an ended run ended.
        if ended.is_none() {
            row.jobs_started = jobs.started.iter().map(|job| job.get()).collect();
            row.jobs_ended = jobs.ended.iter().map(|job| job.get()).collect();
            row.jobs_failed = jobs.failed;
            row.first_error = jobs.first_error.as_deref().map(ErrorRow::new);
        }
        row
    }

    /// The record of `run`.
    ///
    /// # Errors
    /// Where a newer version wrote it, and says what this one does not know.
    pub(super) fn record(self, run: RunId) -> Result<RunRecord, StoreError> {
        let newer = |what: &str| {
            StoreError::Failed(format!(
                "{what} of run {run} is not known to this version of outflow; use the one that wrote it, or a newer one"
            ))
        };
        let error = |row: ErrorRow| row.error().ok_or_else(|| newer("an error"));
        let linger = Duration::from_nanos(self.linger_nanos);
        let keys: Vec<Key> = self.keys().cloned().map(Key).collect();
        let ended = self.ended.map(|ended| {
            let end = match (ended.end, ended.error) {
                (1, _) => End::Complete,
                (2, Some(row)) => End::Failed(error(row)?),
                (3, _) => End::Stopped,
                (4, _) => End::Deadline,
                (5, row) => End::Interrupted(row.unwrap_or_default().message),
                _ => return Err(newer("the end")),
            };
            let in_service = Duration::from_nanos(ended.in_service_nanos);
            let at = Timestamp::from_millis(ended.at_millis);
            Ok(Ended { end, jobs_failed: ended.jobs_failed, at, in_service })
        });
        let start = Start {
            source: self.source.into(),
            configuration: self.configuration,
            id: self.request,
            parameters: (&self.parameters).into(),
            principal: principal(&self.principal).ok_or_else(|| newer("the principal"))?,
            keys: self.keys.into_iter().map(Key).collect(),
            at: Timestamp::from_millis(self.started_millis),
            jobs: self.jobs,
            linger,
            reuse: self.reuse_nanos.map(Duration::from_nanos),
            basis: self.basis,
            expected_bytes: self.expected_bytes,
        };
        Ok(RunRecord {
            id: run,
            start: Arc::new(start),
            linger: self.raised_nanos.map_or(linger, Duration::from_nanos),
            keys,
            first: Sequence::new(self.dropped + 1),
            last: Sequence::new(self.last),
            bytes: self.bytes,
            jobs: Jobs {
                started: self.jobs_started.into_iter().map(JobIndex::new).collect(),
                ended: self.jobs_ended.into_iter().map(JobIndex::new).collect(),
                failed: self.jobs_failed,
                first_error: self.first_error.map(error).transpose()?.map(Box::new),
            },
            ended: ended.transpose()?.map(Box::new),
        })
    }

    /// All keys that were bound to it.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter().chain(&self.later_keys)
    }

    /// The frames that lie in the row itself.
    pub(super) fn tail_chunk(&self) -> Option<Chunk> {
        let (first, last) = (Sequence::new(self.tail_first), Sequence::new(self.last));
        (!self.tail.is_empty()).then(|| Chunk::new(first, last, [self.tail.clone()]))
    }

    /// Bytes that the run takes in the file, about, where its row has so many.
    pub(super) fn footprint(&self, row_bytes: usize) -> u64 {
        // Key and value of the row, its place in the order of ends, and its keys. What a tree adds was measured: rows
        // that come in order fill their pages to nine tenths, keys that do not fill theirs to two thirds.
        let ordered = (RunId::BYTES + 4 + row_bytes + 8 + RunId::BYTES) as u64 * 10 / 9;
        let scattered = self.keys().map(|key| key.len() + 8 + CHECKSUM_BYTES + RunId::BYTES).sum::<usize>() as u64;
        self.block_bytes + ordered + scattered * 3 / 2
    }
}

impl EndedRow {
    fn new(ended: &Ended) -> Self {
        let (end, error) = match &ended.end {
            End::Complete => (1, None),
            End::Failed(error) => (2, Some(ErrorRow::new(error))),
            End::Stopped => (3, None),
            End::Deadline => (4, None),
            End::Interrupted(reason) => (5, Some(ErrorRow { code: 0, message: reason.clone() })),
            other => unreachable!("the archive knows every end, and so `{other}`"),
        };
        let in_service_nanos = nanos(ended.in_service);
        Self { in_service_nanos, end, at_millis: ended.at.as_millis(), jobs_failed: ended.jobs_failed, error }
    }
}

impl ErrorRow {
    fn new(error: &JobError) -> Self {
        Self { code: error.code.number(), message: error.message.clone() }
    }

    fn error(self) -> Option<JobError> {
        Some(JobError { code: code(self.code)?, message: self.message })
    }
}

/// The code of this number.
fn code(number: i32) -> Option<Code> {
    use Code::{
        Aborted, AlreadyExists, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument,
        NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unimplemented,
        Unknown,
    };
    [
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
    ]
    .into_iter()
    .find(|code| code.number() == number)
}

fn principal_name(principal: &Principal) -> String {
    match principal {
        Principal::Anonymous => String::new(),
        other => unreachable!("the archive knows every principal, and so {other:?}"),
    }
}

/// Whose run it is; `None` where this version does not know: nobody's run must become everybody's.
fn principal(name: &str) -> Option<Principal> {
    name.is_empty().then_some(Principal::Anonymous)
}
