//! The store in memory: journals that can be read again while the process lives. It knows no runs, only their records.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use parking_lot::RwLock;

use crate::{Batch, Chunk, Durability, Filter, Key, Record, Room, RunId, RunRecord, Sequence, Store, StoreError};

/// What a record without frames counts for.
const RECORD_BYTES: u64 = 128;

/// Keeps runs in memory, as many as fit.
pub struct MemoryStore {
    bytes_max: u64,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    runs: BTreeMap<RunId, KeptRun>,
    keys: HashMap<Key, RunId>,
    ended: BTreeSet<(Duration, RunId)>,
    bytes: u64,
    in_service: Duration,
}

struct KeptRun {
    record: RunRecord,
    /// In order, one behind the other.
    chunks: VecDeque<Chunk>,
}

impl MemoryStore {
    /// A store for so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, kept: RwLock::default() }
    }
}

impl Store for MemoryStore {
    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn in_service(&self) -> Duration {
        self.kept.read().in_service
    }

    fn commit(&self, batch: &Batch, room: Room) -> Result<(), StoreError> {
        let wanted: u64 = batch.records.iter().map(|(_, record)| bytes_of(record)).sum();
        let mut kept = self.kept.write();
        if room == Room::Ordinary && kept.bytes + wanted > self.bytes_max {
            return Err(StoreError::Full(format!("the runs kept in memory fill their {} bytes", self.bytes_max)));
        }
        kept.in_service = batch.in_service;
        for (run, record) in &batch.records {
            kept.add(*run, record);
        }
        Ok(())
    }

    fn find(&self, run: RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.kept.read().runs.get(&run).map(|run| run.record.clone()))
    }

    fn bound(&self, key: &Key) -> Result<Option<RunId>, StoreError> {
        Ok(self.kept.read().keys.get(key).copied())
    }

    fn read(&self, run: RunId, from: Sequence, bytes_max: usize) -> Result<Vec<Chunk>, StoreError> {
        let kept = self.kept.read();
        let Some(run) = kept.runs.get(&run).filter(|run| from >= run.record.first) else { return Ok(Vec::new()) };
        let mut bytes = 0;
        let fits = |chunk: &&Chunk| {
            bytes += chunk.len();
            bytes <= bytes_max || bytes == chunk.len()
        };
        let first = run.chunks.partition_point(|chunk| chunk.last() < from);
        Ok(run.chunks.range(first..).take_while(fits).cloned().collect())
    }

    fn list(&self, filter: &Filter, before: Option<RunId>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        let kept = self.kept.read();
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = kept.runs.range((Bound::Unbounded, end)).rev().map(|(_, run)| &run.record);
        Ok(wanted.filter(|run| filter.wants(run)).take(max).cloned().collect())
    }

    fn unended(&self) -> Result<Vec<RunRecord>, StoreError> {
        let kept = self.kept.read();
        Ok(kept.runs.values().map(|run| &run.record).filter(|run| run.ended.is_none()).cloned().collect())
    }

    fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Result<Vec<RunRecord>, StoreError> {
        let kept = self.kept.read();
        let start = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let ended = kept.ended.range((start, Bound::Unbounded)).take(max);
        Ok(ended.map(|(_, run)| kept.runs[run].record.clone()).collect())
    }

    fn bytes(&self) -> u64 {
        self.kept.read().bytes
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

impl Kept {
    fn add(&mut self, id: RunId, record: &Record) {
        if let Record::Started(start) = record {
            let record = RunRecord::new(id, start.clone());
            for key in &record.keys {
                self.keys.insert(key.clone(), id);
            }
            self.runs.insert(id, KeptRun { record, chunks: VecDeque::new() });
            self.bytes += RECORD_BYTES;
            return;
        }
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.record.add(record);
        self.bytes += bytes_of(record);
        match record {
            Record::Frames(chunk) => run.chunks.push_back(chunk.clone()),
            Record::HeadDropped(first) => {
                let kept = run.chunks.partition_point(|chunk| chunk.last() < *first);
                self.bytes -= run.chunks.drain(..kept).map(|chunk| chunk.len() as u64).sum::<u64>();
            }
            Record::KeyBound(key) => _ = self.keys.insert(key.clone(), id),
            Record::Ended(ended) => _ = self.ended.insert((ended.in_service, id)),
            Record::Deleted => self.delete(id),
            _ => {}
        }
    }

    fn delete(&mut self, id: RunId) {
        let Some(run) = self.runs.remove(&id) else { return };
        self.bytes -= RECORD_BYTES + run.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        for key in &run.record.keys {
            if self.keys.get(key) == Some(&id) {
                self.keys.remove(key);
            }
        }
        if let Some(ended) = &run.record.ended {
            self.ended.remove(&(ended.in_service, id));
        }
    }
}

fn bytes_of(record: &Record) -> u64 {
    match record {
        Record::Started(_) => RECORD_BYTES,
        Record::Frames(chunk) => chunk.len() as u64,
        // Few and small beside the record of their run.
        _ => 0,
    }
}
