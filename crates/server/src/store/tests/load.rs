//! A random load of batches, and a simple model of what a store then holds. It knows the store only as the engine does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use outflow_engine::{
    Batch, Chunk, Code, End, Ended, Filter, JobError, JobIndex, Jobs, Key, Record, RunId, RunRecord, Sequence, Start,
    Store, StoreError, Timestamp,
};
use rand::{RngExt as _, rngs::SmallRng};

/// Keys are few, so that many want the same.
const KEYS: u64 = 6;
/// Runs that there are at once, about.
const RUNS: usize = 9;

/// Bytes of frames in a batch at most: three of the segments that the tests make, about, where there are five.
const BATCH_BYTES_MAX: usize = 45_000;

/// What a store holds.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) runs: BTreeMap<RunId, Run>,
    keys: BTreeMap<Key, RunId>,
    /// Runs that were deleted.
    gone: BTreeSet<RunId>,
    pub(super) in_service: Duration,
}

/// A run, and its frames by sequence.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) record: RunRecord,
    frames: BTreeMap<u64, Bytes>,
}

impl Model {
    pub(super) fn add(&mut self, batch: &Batch) {
        self.in_service = batch.in_service;
        for (run, record) in &batch.records {
            self.add_record(*run, record);
        }
    }

    fn add_record(&mut self, id: RunId, record: &Record) {
        match record {
            Record::Started(start) => {
                self.keys.extend(start.keys.iter().map(|key| (key.clone(), id)));
                let record = RunRecord::new(id, start.clone());
                self.runs.insert(id, Run { record, frames: BTreeMap::new() });
            }
            Record::Deleted => {
                self.runs.remove(&id);
                self.keys.retain(|_, bound| *bound != id);
                self.gone.insert(id);
            }
            record => {
                let run = self.runs.get_mut(&id).expect("the load knows what there is");
                run.record.add(record);
                if let Record::KeyBound(key) = record {
                    self.keys.insert(key.clone(), id);
                }
                if let Record::Frames(chunk) = record {
                    run.frames.extend(frames_of(chunk));
                }
            }
        }
    }

    /// Asks a store in every way there is, and says what differs.
    pub(super) fn differs(&self, store: &dyn Store) -> Result<Option<String>, StoreError> {
        for (id, run) in &self.runs {
            let found = store.find(*id)?.map(plain);
            if found.as_ref() != Some(&plain(run.record.clone())) {
                return Ok(Some(format!("run {id} is\n{found:?}\nand not\n{:?}", plain(run.record.clone()))));
            }
            if let Some(what) = run.frames_differ(store)? {
                return Ok(Some(what));
            }
        }
        for id in &self.gone {
            if store.find(*id)?.is_some() || !store.read(*id, Sequence::FIRST, 1)?.is_empty() {
                return Ok(Some(format!("run {id} was deleted and is there")));
            }
        }
        for key in (0..KEYS).map(key) {
            let (found, bound) = (store.bound(&key)?, self.keys.get(&key).copied());
            if found != bound {
                return Ok(Some(format!("{key:?} is bound to {found:?} and not to {bound:?}")));
            }
        }
        if store.in_service() < self.in_service {
            return Ok(Some(format!("{:?} in service and not {:?}", store.in_service(), self.in_service)));
        }
        self.lists_differ(store)
    }

    fn lists_differ(&self, store: &dyn Store) -> Result<Option<String>, StoreError> {
        let records = || self.runs.values().map(|run| &run.record);
        let listed: Vec<RunId> = store.list(&Filter::default(), None, 1000)?.iter().map(|run| run.id).collect();
        let all: Vec<RunId> = self.runs.keys().rev().copied().collect();
        let unended: Vec<RunId> = store.unended()?.iter().map(|run| run.id).collect();
        let going: Vec<RunId> = records().filter(|run| run.ended.is_none()).map(|run| run.id).collect();
        let ended: Vec<RunId> = store.ended_first(None, 1000)?.iter().map(|run| run.id).collect();
        let mut in_order: Vec<(Duration, RunId)> =
            records().filter_map(|run| Some((run.ended.as_ref()?.in_service, run.id))).collect();
        in_order.sort();
        let in_order: Vec<RunId> = in_order.into_iter().map(|(_, run)| run).collect();
        let is_same = (&listed, &unended, &ended) == (&all, &going, &in_order);
        Ok((!is_same).then(|| {
            format!("lists are\n{listed:?}\n{unended:?}\n{ended:?}\nand not\n{all:?}\n{going:?}\n{in_order:?}")
        }))
    }
}

impl Run {
    fn frames_differ(&self, store: &dyn Store) -> Result<Option<String>, StoreError> {
        let RunRecord { id, first, last, .. } = self.record;
        let mut next = first.get();
        while next <= last.get() {
            let chunks = store.read(id, Sequence::new(next), 3_000)?;
            if chunks.is_empty() {
                return Ok(Some(format!("frame {next} of {id} is not there")));
            }
            for (sequence, frame) in
                chunks.iter().flat_map(frames_of).filter(|(sequence, _)| *sequence >= first.get())
            {
                if sequence < next {
                    continue;
                }
                if sequence != next || self.frames.get(&next) != Some(&frame) {
                    return Ok(Some(format!("frame {next} of {id} is another")));
                }
                next += 1;
            }
        }
        let is_more = !store.read(id, Sequence::new(last.get() + 1), 1)?.is_empty();
        Ok(is_more.then(|| format!("run {id} has more than {last} frames")))
    }
}

/// A record as it may be compared: of an ended run stores may forget its jobs, and in what order there are keys and jobs
/// means nothing.
fn plain(mut record: RunRecord) -> RunRecord {
    record.keys.sort();
    record.keys.dedup();
    if record.ended.is_some() {
        record.jobs = Jobs::default();
    }
    record.jobs.started.sort();
    record.jobs.ended.sort();
    record
}

fn frames_of(chunk: &Chunk) -> Vec<(u64, Bytes)> {
    (chunk.first().get()..=chunk.last().get())
        .map(|sequence| {
            let frame = chunk.between(Sequence::new(sequence), Sequence::new(sequence));
            let parts: Vec<Bytes> = frame.into_parts().collect();
            (sequence, parts.concat().into())
        })
        .collect()
}

fn key(n: u64) -> Key {
    Key(Bytes::from(format!("key {n}")))
}

/// Frames, no two of which are alike.
fn frames(random: &mut SmallRng, first: u64, count: u64, payload: usize) -> Chunk {
    let mut bytes = Vec::new();
    for _ in 0..count {
        bytes.push(0);
        bytes.extend_from_slice(&(payload as u32 + 8).to_be_bytes());
        bytes.extend_from_slice(&random.random::<u64>().to_be_bytes());
        bytes.extend(std::iter::repeat_n(0x5a, payload));
    }
    Chunk::new(Sequence::new(first), Sequence::new(first + count - 1), [bytes.into()])
}

/// What makes batches.
pub(super) struct Load {
    pub(super) random: SmallRng,
    started: u64,
    seconds: u64,
}

impl Load {
    pub(super) fn new(random: SmallRng) -> Self {
        Self { random, started: 0, seconds: 0 }
    }

    /// Makes what comes after that of another one.
    pub(super) fn follow(&mut self, other: &Self) {
        (self.started, self.seconds) = (other.started, other.seconds);
    }

    /// A batch that may follow on what the model holds.
    pub(super) fn batch(&mut self, model: &Model) -> Batch {
        let mut after = model.clone();
        self.seconds += 1;
        let in_service = Duration::from_secs(self.seconds);
        let (mut records, mut bytes) = (Vec::new(), 0);
        for _ in 0..self.random.random_range(1..6) {
            let (run, record) = self.record(&after, in_service);
            if let Record::Frames(chunk) = &record {
                bytes += chunk.len();
            }
            if bytes > BATCH_BYTES_MAX {
                break;
            }
            after.add_record(run, &record);
            records.push((run, record));
        }
        Batch { in_service, records }
    }

    fn record(&mut self, model: &Model, in_service: Duration) -> (RunId, Record) {
        let random = &mut self.random;
        let going: Vec<&RunRecord> =
            model.runs.values().map(|run| &run.record).filter(|run| run.ended.is_none()).collect();
        let over: Vec<&RunRecord> =
            model.runs.values().map(|run| &run.record).filter(|run| run.ended.is_some()).collect();
        if going.is_empty() || model.runs.len() < RUNS && random.random_bool(0.15) {
            return self.start();
        }
        if !over.is_empty() && random.random_bool(if model.runs.len() < RUNS { 0.06 } else { 0.25 }) {
            let run = over[random.random_range(0..over.len())];
            let record = if random.random_bool(0.7) {
                Record::Deleted
            } else {
                Record::KeyBound(key(random.random_range(0..KEYS)))
            };
            return (run.id, record);
        }
        let run = going[random.random_range(0..going.len())];
        let jobs = run.start.jobs;
        let new_job = |known: &[JobIndex]| (0..jobs).map(JobIndex::new).find(|job| !known.contains(job));
        let record = match random.random_range(0..20) {
            0 => Record::LingerRaised(run.linger + Duration::from_secs(random.random_range(1..9))),
            1 => Record::KeyBound(key(random.random_range(0..KEYS))),
            2 => Record::HeadDropped(Sequence::new(random.random_range(run.first.get()..=run.last.get() + 1))),
            3 => match new_job(&run.jobs.started) {
                Some(job) => Record::JobStarted(job),
                None => Record::LingerRaised(run.linger + Duration::from_secs(1)),
            },
            4 => match new_job(&run.jobs.ended) {
                Some(job) => {
                    let error = random.random_bool(0.5).then(|| JobError::new(Code::Aborted, "it failed"));
                    Record::JobEnded(job, error)
                }
                None => Record::LingerRaised(run.linger + Duration::from_secs(1)),
            },
            5 | 6 => {
                let end = [End::Complete, End::Stopped, End::Failed(JobError::new(Code::NotFound, "no"))];
                let end = end[random.random_range(0..3)].clone();
                let (at, jobs_failed) = (Timestamp::from_millis(1), run.jobs.failed);
                Record::Ended(Ended { end, jobs_failed, at, in_service })
            }
            // A run whose request was refused.
            7 if random.random_bool(0.2) => Record::Deleted,
            n => {
                let payload = [0, 20, 300, 300, 2_000, 9_000][random.random_range(0..6)];
                let count = if n == 8 { random.random_range(1..4) } else { random.random_range(1..30) };
                // No record is longer than a segment.
                let count = count.min(20_000 / (payload as u64 + 13));
                Record::Frames(frames(random, run.last.get() + 1, count, payload))
            }
        };
        (run.id, record)
    }

    fn start(&mut self) -> (RunId, Record) {
        self.started += 1;
        let id = RunId::journaled(Timestamp::from_millis(self.started), self.random.random());
        let keys = (0..self.random.random_range(0..3)).map(|_| key(self.random.random_range(0..KEYS))).collect();
        let start = Start {
            source: "test".into(),
            keys,
            jobs: 3,
            linger: Duration::from_secs(3),
            at: Timestamp::from_millis(self.started),
            ..Start::default()
        };
        (id, Record::Started(Arc::new(start)))
    }
}
