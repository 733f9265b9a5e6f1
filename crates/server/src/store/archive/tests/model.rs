//! What the archive must hold, kept plainly; and whether it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use outflow_engine::{Chunk, Filter, Jobs, Key, Record, RunId, RunRecord, Sequence};

use super::{Archive, Moved, ended};

/// Runs, with their frames by sequence.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) runs: BTreeMap<RunId, (RunRecord, BTreeMap<u64, Bytes>)>,
    pub(super) keys: BTreeMap<Key, RunId>,
    pub(super) in_service: Duration,
}

/// The frames of a chunk, each by itself.
pub(super) fn frames(chunk: &Chunk) -> impl Iterator<Item = (u64, Bytes)> {
    (chunk.first().get()..=chunk.last().get()).map(|sequence| {
        let frame = chunk.between(Sequence::new(sequence), Sequence::new(sequence));
        let parts: Vec<Bytes> = frame.into_parts().collect();
        (sequence, parts.concat().into())
    })
}

impl Model {
    /// As [`Archive::put`].
    pub(super) fn put(&mut self, moved: &[Moved], in_service: Duration) {
        self.in_service = self.in_service.max(in_service);
        for Moved { record, chunks, keys } in moved {
            self.keys.extend(keys.iter().map(|key| (key.clone(), record.id)));
            let (known, kept) = self.runs.entry(record.id).or_insert_with(|| (record.clone(), BTreeMap::new()));
            *known = record.clone();
            if known.ended.is_some() {
                known.jobs = Jobs::default();
            }
            kept.extend(chunks.iter().flat_map(frames));
        }
    }

    /// As [`Archive::delete`].
    pub(super) fn delete(&mut self, runs: &[RunId]) {
        for run in runs {
            self.runs.remove(run);
            self.keys.retain(|_, bound| bound != run);
        }
    }

    /// Whether `archive` has just this, asked in every way there is.
    pub(super) fn assert_in(&self, archive: &Archive) {
        assert_eq!(archive.in_service(), self.in_service);
        for (id, (record, kept)) in &self.runs {
            assert_eq!(archive.find(*id).unwrap().as_ref(), Some(record));
            let read = read_all(archive, record, 40_000);
            assert_eq!(read.len(), kept.range(record.first.get()..).count(), "frames of {id}");
            for (sequence, frame) in kept.range(record.first.get()..) {
                assert_eq!(read.get(sequence), Some(frame), "frame {sequence} of {id}");
            }
            assert_eq!(archive.read(*id, Sequence::new(record.last.get() + 1), 1).unwrap(), []);
            assert_eq!(archive.read(*id, Sequence::new(record.first.get() - 1), 1).unwrap(), []);
        }
        for (key, run) in &self.keys {
            assert_eq!(archive.bound(key).unwrap(), Some(*run));
        }
        self.assert_listed(archive);
    }

    fn assert_listed(&self, archive: &Archive) {
        let records = || self.runs.values().map(|(record, _)| record.clone());
        for ended in [None, Some(true), Some(false)] {
            let filter = Filter { ended, ..Filter::default() };
            let wanted: Vec<RunRecord> = records().filter(|record| filter.wants(record)).rev().collect();
            let mut listed = Vec::new();
            loop {
                let page = archive.list(&filter, listed.last().map(|run: &RunRecord| run.id), 3).unwrap();
                if page.is_empty() {
                    break;
                }
                listed.extend(page);
            }
            assert_eq!(listed, wanted);
        }
        assert_eq!(archive.unended().unwrap(), records().filter(|record| record.ended.is_none()).collect::<Vec<_>>());
        let place = |record: &RunRecord| record.ended.as_ref().map(|ended| (ended.in_service, record.id));
        let mut wanted: Vec<RunRecord> = records().filter(|record| record.ended.is_some()).collect();
        wanted.sort_by_key(place);
        let mut found = Vec::new();
        loop {
            let page = archive.ended_first(found.last().and_then(place), 3).unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, wanted);
    }
}

/// All frames of a run, read from the first that is kept to the last.
pub(super) fn read_all(archive: &Archive, record: &RunRecord, bytes_max: usize) -> BTreeMap<u64, Bytes> {
    let mut all = BTreeMap::new();
    let mut from = record.first.get();
    while from <= record.last.get() {
        let chunks = archive.read(record.id, Sequence::new(from), bytes_max).unwrap();
        let bytes: usize = chunks.iter().map(Chunk::len).sum();
        assert!(chunks.len() == 1 || bytes <= bytes_max, "{bytes} of at most {bytes_max}");
        assert!(chunks[0].first().get() <= from, "the first chunk holds {from}");
        for chunk in chunks {
            assert!(chunk.first().get() <= from && from <= chunk.last().get(), "chunks follow one another");
            from = chunk.last().get() + 1;
            all.extend(frames(&chunk));
        }
    }
    // The first chunk may begin before.
    all.split_off(&record.first.get())
}

/// What happens to the runs of a test, by small numbers.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Runs go on, each by so many frames of so many bytes, and perhaps end.
    Put(Vec<(u64, u64, usize, Fate)>),
    /// The last put is made again, as if its answer had been lost.
    Again,
    /// Runs are deleted.
    Delete(BTreeSet<u64>),
    /// The archive is closed and opened.
    Reopen,
}

/// What becomes of a run beside its frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    GoesOn,
    /// One more key is bound to it.
    TakesKey,
    Ends,
    /// All but its last frames are dropped.
    HeadDropped,
}

/// Makes what a step moves, in a world where `model` is true.
pub(super) fn moves(model: &Model, runs: &[(u64, u64, usize, Fate)], seconds: u64) -> Vec<Moved> {
    let mut made = BTreeMap::new();
    for &(n, count, payload_bytes, fate) in runs {
        // Two of three have a key, which goes from run to run.
        let key = format!("key {}", n % 3);
        let keys: &[&str] = if n % 3 == 0 { &[] } else { &[&key] };
        let id = super::run_id(n);
        let known = model.runs.get(&id).map(|(record, _)| record.clone());
        let mut record = known.unwrap_or_else(|| super::run(n, keys));
        if record.ended.is_some() || made.contains_key(&n) {
            continue;
        }
        let (first, last) = (record.last.get() + 1, record.last.get() + count);
        let middle = first + count / 2;
        let chunks = match count {
            0 => Vec::new(),
            1 => vec![super::chunk(n, first..=last, payload_bytes)],
            _ => vec![super::chunk(n, first..=middle - 1, payload_bytes), super::chunk(n, middle..=last, 24)],
        };
        let mut put = super::moved(&mut record, chunks);
        match fate {
            Fate::GoesOn => {}
            Fate::TakesKey => {
                // Once: a key is never given to the same run again.
                let key = Key(Bytes::from(format!("later key {}", n % 2)));
                if !put.record.keys.contains(&key) {
                    put.record.add(&Record::KeyBound(key));
                }
            }
            Fate::Ends => put.record.add(&ended(seconds)),
            Fate::HeadDropped => {
                let first = put.record.last.get().saturating_sub(3).max(put.record.first.get());
                put.record.add(&Record::HeadDropped(Sequence::new(first)));
            }
        }
        made.insert(n, put);
    }
    // In the order in which they started.
    made.into_values().collect()
}
