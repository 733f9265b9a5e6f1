//! What the index takes in memory, about, and how much of that leaves it when runs move to the archive, or leave that. It
//! counts, and decides nothing.

use outflow_engine::{Ended, RunId, Start};

use super::index::{Deleted, Index, State};

/// About what a run costs in memory beside what it says of itself: its state, and its places in maps and sets.
const RUN_BYTES: usize = size_of::<State>() + 3 * size_of::<RunId>() + 64;

/// What its end costs.
pub(super) const ENDED_BYTES: usize = size_of::<Ended>() + 16;

impl State {
    /// What it takes in memory.
    pub(super) fn memory(&self) -> usize {
        self.own_memory() + self.entries.memory()
    }

    /// The part of it that is not for its frames.
    pub(super) fn own_memory(&self) -> usize {
        let start = &self.record.start;
        let parameters = start.parameters.memory() + 32;
        let keys: usize = self.record.keys.iter().map(|key| key.0.len() + 128).sum();
        let ended = if self.record.ended.is_some() { ENDED_BYTES } else { 0 };
        RUN_BYTES + size_of::<Start>() + start.source.len() + parameters + keys + ended + self.jobs_memory()
    }

    /// The part of it that grows with its jobs.
    pub(super) fn jobs_memory(&self) -> usize {
        (self.record.jobs.started.capacity() + self.record.jobs.ended.capacity()) * size_of::<u32>()
    }

    /// The part of [`State::own_memory`] that does not leave with its frames.
    pub(super) fn staying(&self) -> usize {
        if self.record.ended.is_some() { 0 } else { self.own_memory() }
    }
}

/// About what a deleted run costs beside its keys: a place in a map.
const DELETED_BYTES: usize = (size_of::<RunId>() + size_of::<Deleted>()) * 3 / 2;

impl Deleted {
    /// What it takes in memory.
    pub(super) fn memory(&self) -> usize {
        DELETED_BYTES + self.unseen.iter().map(|key| key.0.len() + 128).sum::<usize>()
    }
}

impl Index {
    /// Counts all anew.
    pub(super) fn count_memory(&mut self) {
        let deleted: usize = self.deleted.values().map(Deleted::memory).sum();
        self.memory = self.runs.values().map(|state| state.memory()).sum::<usize>() + deleted;
        self.staying = self.runs.values().map(|state| state.staying()).sum();
    }

    /// Bytes of memory that all this takes, about.
    #[cfg(test)]
    pub(in super::super) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of memory that would be free if the archive had all that it can take and had deleted what was deleted, about; 0
    /// where there is nothing for it.
    pub(in super::super) fn memory_to_move(&self) -> usize {
        let is_all_new = self.ended.is_empty() && self.deleted.is_empty() && self.live.len() < 2;
        if is_all_new { 0 } else { self.memory.saturating_sub(self.staying) }
    }
}
