//! What the index takes in memory, about, and how much of that leaves it when runs move to the archive. It counts, and
//! decides nothing.

use outflow_engine::{RunId, Start};

use super::index::{Index, State};

/// About what a run costs in memory beside what it says of itself: its state, and its places in maps and sets.
const RUN_BYTES: usize = size_of::<State>() + 3 * size_of::<RunId>() + 64;

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
        RUN_BYTES + size_of::<Start>() + start.source.len() + parameters + keys + self.jobs_memory()
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

impl Index {
    /// Bytes of memory that all this takes, about.
    #[cfg(test)]
    pub(in super::super) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of memory that would be free if all that can were moved to the archive, about; 0 where nothing can.
    pub(in super::super) fn memory_to_move(&self) -> usize {
        if self.ended.is_empty() && self.live.len() < 2 { 0 } else { self.memory.saturating_sub(self.staying) }
    }
}
