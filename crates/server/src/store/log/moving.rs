//! What of the index moves to the archive: which runs, what of each, and what is known afterwards. It touches no file, and
//! knows the archive only as the place where things go.

use std::sync::Arc;

use outflow_engine::{Key, RunId, RunRecord, Sequence};

use super::{
    Place,
    index::{Index, Live, Snapshot, State},
    segment::Segment,
};

impl Index {
    /// Segments in use.
    pub(in super::super) fn segments(&self) -> usize {
        self.live.len()
    }

    /// The next run that holds the oldest segment, where that is not the one being written; `None` where nobody does.
    pub(in super::super) fn next_to_move(&mut self) -> Option<RunId> {
        let [oldest, _, ..] = self.live.make_contiguous() else { return None };
        while let Some(run) = oldest.runs.get(oldest.settled) {
            let holds = |state: &State| state.dirty && state.settled <= oldest.segment.number;
            if self.runs.get(run).is_some_and(|state| holds(state)) {
                return Some(*run);
            }
            oldest.settled += 1;
        }
        None
    }

    /// Ended runs that are here, at most so many.
    pub(in super::super) fn next_ended(&self, max: usize) -> Vec<RunId> {
        self.ended.iter().take(max).map(|(_, run)| *run).collect()
    }

    /// Takes out the oldest segment where nobody holds it, the archive has deleted what it says was deleted, and a newer one
    /// says what was last committed.
    pub(in super::super) fn free_oldest(&mut self) -> Option<Arc<Segment>> {
        let oldest = self.live.front()?.segment.number;
        if self.live.len() < 2 || self.next_to_move().is_some() || !self.is_deleted_up_to(oldest) {
            return None;
        }
        self.live.pop_front().map(|live| live.segment)
    }

    /// Takes back a segment that could not be freed.
    pub(in super::super) fn keep(&mut self, segment: Arc<Segment>) {
        self.live.push_front(Live { segment, runs: Vec::new(), settled: 0 });
    }

    /// Whether something of a run is here that the archive does not have.
    pub(in super::super) fn is_here(&self, run: RunId) -> bool {
        self.runs.contains_key(&run)
    }

    /// What of a run is to be moved, with frames of about `bytes_max` at most; `None` where it is not here.
    pub(in super::super) fn snapshot(&mut self, run: RunId, bytes_max: usize) -> Option<Snapshot> {
        let newest = self.live.back().map_or(0, |live| live.segment.number);
        let state = self.runs.get_mut(&run)?;
        let from = state.entries.next_readable(0);
        let places: Vec<Place> = state.entries.places(from, bytes_max, usize::MAX).collect();
        let taken = from + places.len();
        let whole = taken == state.entries.len();
        if whole {
            state.dirty = false;
            state.settled = newest;
        }
        // Of what is not whole, the record goes all the same, but for its end, which lies behind all frames.
        let next = state.entries.place(taken);
        state.is_moving = true;
        let (record, archived_bytes) = (state.record.clone(), state.archived_bytes);
        let first = state.entries.first_of(from).unwrap_or(Sequence::FIRST);
        // What is not whole ends where the next entry begins.
        let last = state.entries.first_of(taken).map_or(record.last, |next| Sequence::new(next.get() - 1));
        if let Some(place) = next {
            let number = self.number(place.slot);
            self.state(run)?.settled = number;
        }
        let extents = self.extents(places.into_iter());
        let keys = self.keys_of(&record);
        Some(Snapshot { record, extents, first, last, whole, archived_bytes, keys })
    }

    /// The keys that are bound to a run and that the archive is to be told of.
    fn keys_of(&self, record: &RunRecord) -> Vec<Key> {
        record.keys.iter().filter(|key| self.keys.get(key) == Some(&record.id)).cloned().collect()
    }

    /// All that is here, as it would be moved to the archive, in the order in which the runs started: a long run in
    /// pieces with frames of about `bytes_max`. Nothing is noted, and segments that it names are not used again while it
    /// is kept.
    pub(in super::super) fn moment(&self, bytes_max: usize) -> Vec<Snapshot> {
        let mut pieces = Vec::new();
        for state in self.order.iter().map(|run| &self.runs[run]) {
            let entries = &state.entries;
            let mut from = entries.next_readable(0);
            loop {
                let places: Vec<Place> = entries.places(from, bytes_max, usize::MAX).collect();
                let first = entries.first_of(from).unwrap_or(Sequence::FIRST);
                // What is lost between two pieces belongs to neither.
                from = entries.next_readable(from + places.len());
                let whole = from == entries.len();
                let last = entries.first_of(from).map_or(state.record.last, |next| Sequence::new(next.get() - 1));
                let (record, archived_bytes) = (state.record.clone(), state.archived_bytes);
                let (extents, keys) = (self.extents(places.into_iter()), self.keys_of(&record));
                pieces.push(Snapshot { record, extents, first, last, whole, archived_bytes, keys });
                if whole {
                    break;
                }
            }
        }
        pieces
    }

    /// Notes that the archive has a run so, with these keys bound to it; where that is the end of it, the run is no longer
    /// here.
    pub(in super::super) fn moved(&mut self, record: &RunRecord, keys: &[Key]) {
        let Some(state) = self.runs.get_mut(&record.id) else {
            // Deleted meanwhile: now the archive has something of it, too.
            return self.is_doomed(record.id, record.bytes);
        };
        let memory = state.entries.memory();
        state.entries.trim(record.last, state.record.last);
        self.memory = self.memory.saturating_sub(memory.saturating_sub(state.entries.memory()));
        self.bytes -= record.bytes - state.archived_bytes;
        state.is_archived = true;
        state.archived_bytes = record.bytes;
        state.is_moving = false;
        self.unbind(record.id, keys);
        self.let_go(record.id);
    }

    /// Notes that the archive could not be given a run.
    pub(in super::super) fn not_moved(&mut self, run: RunId) {
        if let Some(state) = self.runs.get_mut(&run) {
            state.dirty = true;
            state.is_moving = false;
            state.settled = 0;
        }
        // It may have been passed over meanwhile.
        if let Some(oldest) = self.live.front_mut() {
            oldest.settled = 0;
        }
    }

    /// Keeps ended runs here that a commit is about to change, until [`Index::release`]; gives those that are not here.
    pub(in super::super) fn hold(&mut self, runs: Vec<RunId>) -> Vec<RunId> {
        let absent = runs.iter().filter(|run| !self.knows(**run)).copied().collect();
        self.held = runs;
        absent
    }

    /// Adds a run that is held, as the archive has it.
    pub(in super::super) fn hold_archived(&mut self, record: RunRecord) {
        if !self.knows(record.id) {
            self.insert(record.id, State::archived(record));
        }
    }

    /// Lets those go that were held.
    pub(in super::super) fn release(&mut self) {
        for run in std::mem::take(&mut self.held) {
            self.let_go(run);
        }
    }

    /// Forgets an ended run of which the archive has everything, unless a commit is about to change it.
    pub(super) fn let_go(&mut self, run: RunId) {
        let is_over = |state: &State| state.record.ended.is_some() && !state.dirty && !state.is_moving;
        if self.runs.get(&run).is_some_and(|state| is_over(state)) && !self.held.contains(&run) {
            self.remove(run);
        }
    }
}
