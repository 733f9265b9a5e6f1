//! What is in the live journal, in memory: the runs that have something there or have not ended, where their frames
//! lie, and which segments hold something of whom. It touches no file, and knows the archive only as the place where a
//! run's earlier part is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use outflow_engine::{Batch, Ended, Filter, Key, Record, RunId, RunRecord, Sequence, Start};

use super::{
    Place,
    entries::{Entries, Found},
    memory::ENDED_BYTES,
    read::Extents,
    segment::Segment,
};

/// Entries that one look-up gives at most: copied under the lock for which the committer waits.
const ENTRIES_MAX: usize = 4096;

/// What is in the live journal.
#[derive(Default)]
pub(in super::super) struct Index {
    pub(super) runs: HashMap<RunId, Box<State>>,
    /// The names of `runs`.
    pub(super) order: BTreeSet<RunId>,
    /// Those of `runs` that ended.
    pub(super) ended: BTreeSet<(Duration, RunId)>,
    /// Whom a key was bound to last, where the archive does not say so yet.
    pub(super) keys: HashMap<Key, RunId>,
    /// Runs that are no longer there, but of which the archive may still hold something.
    pub(super) deleted: BTreeMap<RunId, Deleted>,
    /// How many of `deleted` keep each segment.
    deleted_in: BTreeMap<u64, usize>,
    /// Ended runs that a commit in flight changes: they stay.
    pub(super) held: Vec<RunId>,
    /// Segments in use, the oldest first.
    pub(super) live: VecDeque<Live>,
    /// Runs that have records here and no beginning: what was lost.
    headless: BTreeMap<RunId, String>,
    /// Bytes of frames that only the journal has.
    pub(super) bytes: u64,
    /// Bytes of deleted runs that the archive still counts.
    doomed_bytes: u64,
    /// Bytes that all this takes in memory, about.
    pub(super) memory: usize,
    /// The part of that which stays whatever moves to the archive: what is known of runs that have no end. There are only so
    /// many of these.
    pub(super) staying: usize,
    in_service: Duration,
}

/// What is known of a run that was deleted, until the archive has deleted it.
pub(super) struct Deleted {
    /// Its keys, as far as the archive has not seen them.
    pub(super) unseen: Vec<Key>,
    /// What it takes in the archive.
    bytes: u64,
    /// The first segment that is kept so long: the one that tells of the deletion, or the run would be there again after a
    /// crash; and of a run with keys that the archive has not seen, those that tell of these, or whoever had one before
    /// would have it again.
    segment: u64,
}

/// A run that the archive has to delete.
pub(in super::super) struct Doomed {
    pub(in super::super) run: RunId,
    /// Keys that were bound to it last. The archive may have them for others, who do not get them back.
    pub(in super::super) keys: Vec<Key>,
}

/// A segment in use.
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    /// Runs that have records in it, in the order of their first ones.
    pub(super) runs: Vec<RunId>,
    /// How many of `runs` need nothing of it any more.
    pub(super) settled: usize,
}

/// One run.
pub(super) struct State {
    pub(super) record: RunRecord,
    pub(super) entries: Entries,
    /// Whether the archive has its record, and frames of it.
    pub(super) is_archived: bool,
    /// Bytes of the frames that the archive has.
    pub(super) archived_bytes: u64,
    /// Whether there is something of it that the archive does not have, nor is being given.
    pub(super) dirty: bool,
    /// Whether it is on its way to the archive.
    pub(super) is_moving: bool,
    /// The newest segment that lists it.
    touched: u64,
    /// Everything of it in segments before this one is in the archive.
    pub(super) settled: u64,
}

/// Where what a reader asks for is.
pub(in super::super) enum Lookup {
    /// Nowhere.
    Nothing,
    /// In the archive, if anywhere.
    Archive,
    /// In the journal.
    Journal(Extents),
    /// It was there, and is not readable.
    Damaged(String),
}

/// What of a run is to be moved to the archive.
pub(in super::super) struct Snapshot {
    /// The run as it is now.
    pub(in super::super) record: RunRecord,
    /// Where the frames from `first` to `last` lie, which follow those that the archive has.
    pub(in super::super) extents: Extents,
    pub(in super::super) first: Sequence,
    pub(in super::super) last: Sequence,
    /// Whether that is all there is.
    pub(in super::super) whole: bool,
    /// Bytes of its frames that the archive has already.
    pub(in super::super) archived_bytes: u64,
    /// Keys that are bound to it and that the archive is to be told of.
    pub(in super::super) keys: Vec<Key>,
}

impl State {
    pub(super) fn new(record: RunRecord) -> Self {
        Self {
            record,
            entries: Entries::default(),
            is_archived: false,
            archived_bytes: 0,
            dirty: true,
            is_moving: false,
            touched: 0,
            settled: 0,
        }
    }

    /// A run that the archive has so.
    pub(super) fn archived(record: RunRecord) -> Self {
        Self { is_archived: true, archived_bytes: record.bytes, dirty: false, ..Self::new(record) }
    }

    /// Bytes of frames that only the journal has.
    fn journal_bytes(&self) -> u64 {
        self.record.bytes - self.archived_bytes
    }
}

impl Index {
    /// How long the store had been in service at the last commit.
    pub(in super::super) fn in_service(&self) -> Duration {
        self.in_service
    }

    pub(in super::super) fn serve_until(&mut self, in_service: Duration) {
        self.in_service = self.in_service.max(in_service);
    }

    /// Bytes of frames that are here and not in the archive, and those that the archive counts and nobody else does.
    pub(in super::super) fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.doomed_bytes)
    }

    /// Adds segments to those in use.
    pub(in super::super) fn begin(&mut self, segments: &[Arc<Segment>]) {
        let live = |segment: &Arc<Segment>| Live { segment: segment.clone(), runs: Vec::new(), settled: 0 };
        self.live.extend(segments.iter().map(live));
    }

    /// Adds a record that is durable now, and lies there.
    pub(in super::super) fn add(&mut self, run: RunId, record: &Record, place: Place) {
        match record {
            Record::Started(start) => self.start(run, start.clone()),
            Record::Deleted => {
                let segment = self.number(place.slot);
                return self.delete(run, segment);
            }
            Record::KeyBound(key) => {
                self.bind(run, key.clone());
                if let Some(state) = self.runs.get_mut(&run) {
                    touch(&mut self.live, state, run, place.slot);
                }
                return;
            }
            _ => {}
        }
        let Some(state) = self.runs.get_mut(&run) else {
            debug_assert!(false, "a record of run {run}, which is not there: {record:?}");
            return;
        };
        let (frames, jobs) = (state.entries.memory(), state.jobs_memory());
        if let Record::Frames(chunk) = record {
            debug_assert_eq!(chunk.first().get(), state.record.last.get() + 1, "run {run} has no gaps");
            state.entries.push(chunk.first(), place);
            self.bytes += chunk.len() as u64;
        }
        if let Record::Ended(ended) = record {
            self.ended.insert((ended.in_service, run));
            self.staying = self.staying.saturating_sub(state.staying());
            self.memory += ENDED_BYTES;
        }
        state.record.add(record);
        state.dirty = true;
        // What is counted here only grows.
        let jobs = state.jobs_memory() - jobs;
        self.memory += state.entries.memory() - frames + jobs;
        if state.record.ended.is_none() {
            self.staying += jobs;
        }
        touch(&mut self.live, state, run, place.slot);
    }

    /// Notes that a segment holds something of a run.
    pub(super) fn touch(&mut self, run: RunId, slot: u32) {
        if let Some(state) = self.runs.get_mut(&run) {
            touch(&mut self.live, state, run, slot);
        }
    }

    /// The number of the segment in a slot.
    pub(super) fn number(&self, slot: u32) -> u64 {
        let live = self.live.iter().rev().find(|live| live.segment.slot == slot);
        live.map_or(0, |live| live.segment.number)
    }

    /// Binds one more key to a run, which may have had it before another one had.
    pub(super) fn bind(&mut self, run: RunId, key: Key) {
        if let Some(state) = self.runs.get_mut(&run) {
            self.keys.insert(key.clone(), run);
            if !state.record.keys.contains(&key) {
                let before = (state.own_memory(), state.staying());
                state.record.keys.push(key);
                self.memory += state.own_memory() - before.0;
                self.staying += state.staying() - before.1;
            }
            state.dirty = true;
        }
    }

    /// Notes that the keys of a run that the archive has were bound to it at this place of the journal: whom they were
    /// bound to before has them no more, and what the archive says is newer than that.
    pub(super) fn pass_on(&mut self, keys: &[Key]) {
        for key in keys {
            self.keys.remove(key);
        }
    }

    pub(super) fn start(&mut self, run: RunId, start: Arc<Start>) {
        for key in &start.keys {
            self.keys.insert(key.clone(), run);
        }
        self.insert(run, State::new(RunRecord::new(run, start)));
    }

    /// Adds a run as it is known.
    pub(super) fn insert(&mut self, run: RunId, state: State) {
        self.memory += state.memory();
        self.staying += state.staying();
        self.bytes += state.journal_bytes();
        if let Some(ended) = &state.record.ended {
            self.ended.insert((ended.in_service, run));
        }
        self.order.insert(run);
        self.runs.insert(run, Box::new(state));
    }

    /// Takes a run out, with nothing said about what becomes of it.
    pub(super) fn remove(&mut self, run: RunId) -> Option<Box<State>> {
        let state = self.runs.remove(&run)?;
        self.order.remove(&run);
        if let Some(ended) = &state.record.ended {
            self.ended.remove(&(ended.in_service, run));
        }
        self.memory = self.memory.saturating_sub(state.memory());
        self.staying = self.staying.saturating_sub(state.staying());
        self.bytes -= state.journal_bytes();
        Some(state)
    }

    /// Notes that a run was deleted, as the segment of a number tells.
    pub(super) fn delete(&mut self, run: RunId, segment: u64) {
        self.headless.remove(&run);
        let state = self.remove(run);
        let unseen = state.as_ref().map(|state| state.record.keys.clone()).unwrap_or_default();
        let bytes = state.map_or(0, |state| state.archived_bytes);
        let is_bound = unseen.iter().any(|key| self.keys.get(key) == Some(&run));
        let oldest = self.live.front().map_or(segment, |oldest| oldest.segment.number);
        let segment = if is_bound { oldest } else { segment };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.deleted.entry(run) {
            self.memory += entry.insert(Deleted { unseen, bytes, segment }).memory();
            *self.deleted_in.entry(segment).or_default() += 1;
            self.doomed_bytes += bytes;
        }
    }

    /// Runs that the archive has to delete, at most so many.
    pub(in super::super) fn to_delete(&self, max: usize) -> Vec<Doomed> {
        let doomed = self.deleted.iter().take(max).map(|(run, deleted)| {
            let keys = deleted.unseen.iter().filter(|key| self.keys.get(key) == Some(run)).cloned().collect();
            Doomed { run: *run, keys }
        });
        doomed.collect()
    }

    /// Forgets runs that the archive has deleted.
    pub(in super::super) fn deleted(&mut self, runs: &[RunId]) {
        for run in runs {
            let Some(deleted) = self.deleted.remove(run) else { continue };
            self.doomed_bytes -= deleted.bytes;
            self.memory = self.memory.saturating_sub(deleted.memory());
            if let Some(count) = self.deleted_in.get_mut(&deleted.segment) {
                *count -= 1;
                if *count == 0 {
                    self.deleted_in.remove(&deleted.segment);
                }
            }
            self.unbind(*run, &deleted.unseen);
        }
    }

    /// Whether something was deleted that the archive has not deleted yet.
    pub(in super::super) fn is_anything_doomed(&self) -> bool {
        !self.deleted.is_empty()
    }

    /// Whether the archive has deleted all that was deleted up to a segment.
    pub(super) fn is_deleted_up_to(&self, segment: u64) -> bool {
        self.deleted_in.first_key_value().is_none_or(|(first, _)| *first > segment)
    }

    /// Notes what a run that was deleted takes in the archive by now.
    pub(in super::super) fn is_doomed(&mut self, run: RunId, bytes: u64) {
        if let Some(deleted) = self.deleted.get_mut(&run) {
            self.doomed_bytes = self.doomed_bytes - deleted.bytes + bytes;
            deleted.bytes = bytes;
        }
    }

    /// Forgets the keys of a run whose record is in the archive now, or is nowhere.
    pub(super) fn unbind(&mut self, run: RunId, keys: &[Key]) {
        for key in keys {
            if self.keys.get(key) == Some(&run) {
                self.keys.remove(key);
            }
        }
    }

    pub(in super::super) fn is_deleted(&self, run: RunId) -> bool {
        self.deleted.contains_key(&run)
    }

    /// Whether this, and not the archive, says what is known of a run.
    pub(in super::super) fn knows(&self, run: RunId) -> bool {
        self.runs.contains_key(&run) || self.is_deleted(run)
    }

    /// What is known of a run here, or what of it was lost.
    pub(in super::super) fn find(&self, run: RunId) -> Option<Result<RunRecord, String>> {
        match self.runs.get(&run) {
            Some(state) => Some(Ok(state.record.clone())),
            None => self.headless.get(&run).map(|lost| Err(lost.clone())),
        }
    }

    /// The run that a key is bound to, as far as it is known here.
    pub(in super::super) fn bound(&self, key: &Key) -> Option<RunId> {
        self.keys.get(key).copied()
    }

    /// Where the frames of a run from `from` on are.
    pub(in super::super) fn look_up(&self, run: RunId, from: Sequence, bytes_max: usize) -> Lookup {
        if self.is_deleted(run) {
            return Lookup::Nothing;
        }
        let Some(state) = self.runs.get(&run) else {
            return self.headless.get(&run).map_or(Lookup::Archive, |lost| Lookup::Damaged(lost.clone()));
        };
        if from < state.record.first || from > state.record.last {
            return Lookup::Nothing;
        }
        match state.entries.find(from) {
            Found::Before => Lookup::Archive,
            Found::Lost(last) => Lookup::Damaged(format!(
                "the responses {from} to {} of run {run} are not readable: the live journal is damaged there",
                last.unwrap_or(state.record.last),
            )),
            Found::There(at) => Lookup::Journal(self.extents(state.entries.places(at, bytes_max, ENTRIES_MAX))),
        }
    }

    pub(super) fn extents(&self, entries: impl Iterator<Item = Place>) -> Extents {
        let mut extents = Extents::default();
        for place in entries {
            extents.push(place, |slot| {
                let live = self.live.iter().rev().find(|live| live.segment.slot == slot);
                live.expect("an entry lies in a segment that is in use").segment.clone()
            });
        }
        extents
    }

    /// Runs here that started before `before` and match, the last started first, after looking at so many; and where
    /// to look on, where that was not all.
    pub(in super::super) fn list(
        &self,
        filter: &Filter,
        before: Option<RunId>,
        looked_at_max: usize,
    ) -> (Vec<RunRecord>, Option<RunId>) {
        let mut ids = match before {
            Some(before) => self.order.range(..before),
            None => self.order.range(..),
        };
        let looked_at: Vec<RunId> = ids.by_ref().rev().take(looked_at_max).copied().collect();
        let next = looked_at.last().copied().filter(|_| ids.next_back().is_some());
        let records = looked_at.iter().map(|run| &self.runs[run].record);
        (records.filter(|record| filter.wants(record)).cloned().collect(), next)
    }

    /// Every run without an end.
    pub(in super::super) fn unended(&self) -> Vec<RunRecord> {
        let records = self.order.iter().map(|run| &self.runs[run].record);
        records.filter(|record| record.ended.is_none()).cloned().collect()
    }

    /// Ended runs that are here, in the order of their ends.
    pub(in super::super) fn ended_first(&self, behind: Option<(Duration, RunId)>, max: usize) -> Vec<RunRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = behind.map_or(Unbounded, Excluded);
        let runs = self.ended.range((behind, Unbounded)).take(max);
        runs.map(|(_, run)| self.runs[run].record.clone()).collect()
    }

    /// The last sequences of the runs that end with a batch.
    pub(in super::super) fn last_of_ended(&self, batch: &Batch) -> HashMap<RunId, Sequence> {
        let ends = batch.records.iter().filter(|(_, record)| matches!(record, Record::Ended(_)));
        let known = |run: &RunId| self.runs.get(run).map_or(Sequence::NONE, |state| state.record.last);
        let mut last: HashMap<RunId, Sequence> = ends.map(|(run, _)| (*run, known(run))).collect();
        if !last.is_empty() {
            for (run, record) in &batch.records {
                if let Record::Frames(chunk) = record
                    && let Some(last) = last.get_mut(run)
                {
                    *last = chunk.last();
                }
            }
        }
        last
    }

    pub(super) fn state(&mut self, run: RunId) -> Option<&mut State> {
        self.runs.get_mut(&run).map(|state| &mut **state)
    }

    /// Notes the end of a run.
    pub(super) fn end(&mut self, run: RunId, ended: Ended) {
        if let Some(state) = self.runs.get_mut(&run) {
            self.ended.insert((ended.in_service, run));
            self.staying = self.staying.saturating_sub(state.staying());
            self.memory += ENDED_BYTES;
            state.record.ended = Some(Box::new(ended));
            state.dirty = true;
        }
    }

    /// Notes that a run has records here and no beginning.
    pub(super) fn lose(&mut self, run: RunId, what: String) {
        self.headless.insert(run, what);
    }

    /// After all records were added in their order on opening: forgets the runs of which the archive has everything.
    pub(super) fn settle(&mut self) {
        let settled = |state: &State| !state.dirty && state.record.ended.is_some();
        let runs: Vec<RunId> = self.runs.iter().filter(|(_, state)| settled(state)).map(|(run, _)| *run).collect();
        for run in runs {
            self.remove(run);
        }
        self.count_memory();
    }
}

/// Notes that a segment holds something of a run.
#[inline]
pub(super) fn touch(live: &mut VecDeque<Live>, state: &mut State, run: RunId, slot: u32) {
    let live = live.iter_mut().rev().find(|live| live.segment.slot == slot);
    if let Some(live) = live.filter(|live| live.segment.number != state.touched) {
        state.touched = live.segment.number;
        live.runs.push(run);
    }
}
