//! What a store is: where the journals of runs outlive their readers, and perhaps the process. It owns the trait and
//! what goes in and comes out; each store is a file of its own.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Chunk, End, JobError, JobIndex, Parameters, Principal, RunId, Sequence, Timestamp};

/// What a run outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It lives and dies with its reader.
    None,
    /// It can be read again while this process lives.
    Memory,
    /// It outlives the process.
    Disk,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::None => "none",
            Durability::Memory => "memory",
            Durability::Disk => "disk",
        })
    }
}

/// Where journals are kept.
///
/// One thread commits; any number read beside it, and see what was committed before their call began. Every method may
/// block, so the engine calls them from threads that may.
pub trait Store: Send + Sync + 'static {
    /// What its runs outlive.
    fn durability(&self) -> Durability;

    /// How long this store had been in service when it was last committed to, over all processes that opened it. Runs
    /// age by this time and not by the clock, so that no step of the clock deletes one.
    fn in_service(&self) -> Duration;

    /// Makes the records of `batch` durable, in their order and all together: afterwards, and after a crash, either
    /// all of them are there or none.
    ///
    /// # Errors
    /// Nothing of the batch is visible, now or after a crash that follows a later commit. The same records may be
    /// committed again, alone or with others: the store has by then put aside what the failed attempt left.
    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError>;

    /// What is known of a run; `None` where there is no such run (any more).
    ///
    /// # Errors
    /// Where the store cannot be read, or is damaged at this place.
    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError>;

    /// The run that `key` is bound to.
    ///
    /// # Errors
    /// As [`Store::find`].
    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError>;

    /// Frames of `run` from sequence `from` on, in order and without gaps: at least one, at most about `bytes_max`
    /// unless the first chunk is larger. Empty where the run is not there, or has nothing at `from` (it lies beyond the
    /// tail, or before the first that is kept). The first chunk may begin before `from`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where what lies at `from` is not what was written; the rest stays readable.
    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError>;

    /// Runs that match `filter`, the last started first, at most `max`, started before `before`.
    ///
    /// # Errors
    /// As [`Store::find`].
    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError>;

    /// Every run without an end, the first started first.
    ///
    /// # Errors
    /// As [`Store::find`].
    fn unended(&self) -> Result<Vec<RunRecord>, StoreError>;

    /// Ended runs in the order of their [`Ended::in_service`] (then of their ids), at most `max`, behind the one given.
    ///
    /// # Errors
    /// As [`Store::find`].
    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError>;

    /// Bytes that all runs take, about.
    fn bytes(&self) -> u64;

    /// Where `bytes` is at the store's bound, the bound: then ended runs are deleted, oldest first.
    fn bytes_max(&self) -> u64;
}

/// Records that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How long the store has been in service now.
    pub in_service: Duration,
    /// Each with its run; a run's are in order.
    pub records: Vec<(RunId, Record)>,
}

/// How much of a store a commit may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// What there is without the reserve.
    Ordinary,
    /// The reserve, too: a few ends and deletions, with which a full store gets room again.
    Reserve,
}

/// One thing that happened to a run. In a run's life: `Started` once and first; frames in the order of their sequences,
/// without gaps; `Ended` once, and then only `Deleted`, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// It began: the run is there, and its keys are bound to it (and no longer to the runs they were bound to).
    Started(Arc<Start>),
    /// A job is about to begin whose plan must not be executed twice.
    JobStarted(JobIndex),
    /// Responses.
    Frames(Chunk),
    /// A job ended, with the error of one that failed.
    JobEnded(JobIndex, Option<JobError>),
    /// A reader asked for more time without readers.
    LingerRaised(Duration),
    /// One more key is bound to it, and no longer to the run it was bound to.
    KeyBound(Key),
    /// What lies before this sequence is no longer kept. Reading there gives nothing; the store may go on to hold it.
    HeadDropped(Sequence),
    /// It ended.
    Ended(Ended),
    /// It is no longer there, and keys still bound to it are bound no more.
    Deleted,
}

/// How a run began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// The name of its source.
    pub source: Arc<str>,
    /// A digest of the source's configuration: under another one the run is not taken up again.
    pub configuration: u64,
    /// What was asked for.
    pub id: i32,
    /// The parameters for the source.
    pub parameters: Parameters,
    /// Whose run it is.
    pub principal: Principal,
    /// Keys under which it is found, and after which nothing else is started.
    pub keys: Box<[Key]>,
    /// The time of day.
    pub at: Timestamp,
    /// Jobs of its plan.
    pub jobs: u32,
    /// How long its jobs go on without a reader.
    pub linger: Duration,
    /// How long after a complete end it is still joined; `None` where its source is not shared.
    pub reuse: Option<Duration>,
    /// A digest of what its plan rested on: where a restart finds something else, the run is not taken up again. 0 where it
    /// rested on nothing.
    pub basis: u64,
    /// About how many bytes its payloads have together, where its source knew.
    pub expected_bytes: Option<u64>,
}

/// How a run ended, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// How many of its jobs had failed.
    pub jobs_failed: u32,
    /// The time of day.
    pub at: Timestamp,
    /// How long the store had been in service.
    pub in_service: Duration,
}

/// Under what a run is found. Stores compare its bytes and do not look into them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Bytes);

impl Key {
    /// No key is longer, in bytes.
    pub const BYTES_MAX: usize = 256;
}

/// What a store knows of a run: the sum of its records.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Its name.
    pub id: RunId,
    /// How it began.
    pub start: Arc<Start>,
    /// How long its jobs go on without a reader, as raised.
    pub linger: Duration,
    /// All keys that were bound to it: those it began with, and later ones.
    pub keys: Vec<Key>,
    /// The first sequence that is kept; 1 unless its head was dropped.
    pub first: Sequence,
    /// The last sequence there is; 0 while there is none.
    pub last: Sequence,
    /// Bytes of its frames, from the first to the last there ever was.
    pub bytes: u64,
    /// What became of its jobs. Of an ended run this may be empty.
    pub jobs: Jobs,
    /// Its end. Boxed, since a store keeps the records of all runs that have none at hand.
    pub ended: Option<Box<Ended>>,
}

/// What became of a run's jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Jobs {
    /// Those whose start was recorded, with those of them that ended, in any order.
    pub started: Vec<JobIndex>,
    /// Those that ended.
    pub ended: Vec<JobIndex>,
    /// How many of those failed.
    pub failed: u32,
    /// The error of the first that failed. Boxed, since few have one.
    pub first_error: Option<Box<JobError>>,
}

impl RunRecord {
    /// A run that has just begun.
    pub fn new(id: RunId, start: Arc<Start>) -> Self {
        Self {
            id,
            linger: start.linger,
            keys: start.keys.to_vec(),
            start,
            first: Sequence::FIRST,
            last: Sequence::NONE,
            bytes: 0,
            jobs: Jobs::default(),
            ended: None,
        }
    }

    /// Adds what a record says. `Started` and `Deleted` are about the run as a whole, and change nothing here.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Started(_) | Record::Deleted => {}
            Record::JobStarted(job) => self.jobs.started.push(*job),
            Record::Frames(chunk) => {
                self.last = chunk.last();
                self.bytes += chunk.len() as u64;
            }
            Record::JobEnded(job, error) => {
                self.jobs.ended.push(*job);
                if let Some(error) = error {
                    self.jobs.failed += 1;
                    self.jobs.first_error.get_or_insert_with(|| Box::new(error.clone()));
                }
            }
            Record::LingerRaised(linger) => self.linger = *linger,
            Record::KeyBound(key) => self.keys.push(key.clone()),
            Record::HeadDropped(first) => self.first = *first,
            Record::Ended(ended) => self.ended = Some(Box::new(ended.clone())),
        }
    }
}

/// Which runs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whose.
    pub principal: Principal,
    /// Those that have ended, or those that have not; `None`: both.
    pub ended: Option<bool>,
    /// Those of this source; `None`: of all.
    pub source: Option<String>,
}

impl Filter {
    /// Whether it wants this run.
    pub fn wants(&self, run: &RunRecord) -> bool {
        self.principal == run.start.principal
            && self.ended.is_none_or(|ended| ended == run.ended.is_some())
            && self.source.as_ref().is_none_or(|source| **source == *run.start.source)
    }
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room: later, or where something is deleted, there may be.
    #[error("{0}")]
    Full(String),
    /// The disk, or whatever is below, failed: what happened, and to what.
    #[error("{0}")]
    Failed(String),
    /// What lies there is not what was written.
    #[error("{0}")]
    Damaged(String),
}
